"""Topics to Parquet: appends to a folder what the topics hold beyond it.

    data/agent-status/000000000000.parquet     one file per topic and run, named by how many offsets lie before it

DuckDB sees names relative to the folder alone, so whatever the folder's own name has in it (an apostrophe, a comma, a
star) means nothing. A file appears whole or not at all, and the offsets in the files say where the next run goes on: no
consumer group, and no record twice. A run reads up to the high watermarks of its start, and waits for transactions that
are open before them. Personal data (phone numbers, messages) is left out.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import duckdb
import msgspec
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from asm_bridge_schemas.consume import Decoded, Unknown, decode

BROKERS = os.environ.get("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")
PREFIX = os.environ.get("ASM_BRIDGE_TOPICS__PREFIX", "asm.")
PATIENCE = 30.0
"""Seconds without a record for which an open transaction is waited for: the bridge's own take one second at most."""

RECORD = {
    "_partition": "INTEGER",
    "_offset": "BIGINT",
    "type": "VARCHAR",
    "agent_id": "VARCHAR",
    "stream_id": "VARCHAR",
    "sequence": "BIGINT",
    "topic_sequence": "BIGINT",
    "observed_at": "TIMESTAMP",
}
TOPICS = {
    # Heartbeats come first: a watermark that was read before the other topics' ends holds for what these contain.
    "heartbeats": {
        "_partition": "INTEGER",
        "_offset": "BIGINT",
        "partition": "INTEGER",
        "observed_until": "TIMESTAMP",
        "agents": "INTEGER",
        "in_session": "INTEGER",
        "lost": "INTEGER",
        "instance": "VARCHAR",
    },
    "agent-status": RECORD
    | {
        "status_desc": "VARCHAR",
        "status_group": "VARCHAR",
        "status_since": "TIMESTAMP",
        "last_status_change": "BIGINT",
        "previous_duration_ms": "BIGINT",
        "reason": "VARCHAR",
        "since": "TIMESTAMP",
        "labels": "MAP(VARCHAR, VARCHAR)",
    },
    "queued-calls": RECORD
    | {
        "change": "VARCHAR",
        "list": "VARCHAR",
        "call_sid": "VARCHAR",
        "reason": "VARCHAR",
        "call_type": "VARCHAR",
        "start_date": "TIMESTAMP",
        "skills": "VARCHAR[]",
        "waited_ms": "BIGINT",
    },
}


class NothingAddedError(Exception):
    """Why nothing was added: a topic that is missing, that is not the one in the files, or that cannot be read to its
    end."""


class Last(NamedTuple):
    """The last record of a partition in the files."""

    offset: int
    time: datetime


class Found(NamedTuple):
    """What a topic holds beyond its files: lines of JSON, how many, and how many offsets lie before them."""

    lines: Path
    records: int
    start: int


def append(data: Path, brokers: str = BROKERS, prefix: str = PREFIX) -> dict[str, int]:
    """Appends the records of each topic in TOPICS up to its end as of now. Returns how many, by topic.

    Raises ``NothingAddedError``, ``KafkaException``.
    """
    data.mkdir(parents=True, exist_ok=True)
    with (data / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at a time would write the same files
        return _append(data, brokers, prefix)


def _append(data: Path, brokers: str, prefix: str) -> dict[str, int]:
    admin = AdminClient({"bootstrap.servers": brokers})
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "not-used",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",  # where retention has deleted what comes next
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = {
                topic: _read(consumer, _ends(admin, prefix + topic), data / topic, Path(folder) / f"{topic}.json")
                for topic in TOPICS
            }
        finally:
            consumer.close()
        # Heartbeats come last here: no watermark appears before what it holds for.
        for topic in reversed(TOPICS):
            write(found[topic], data / topic)
    return {topic: one.records for topic, one in found.items()}


def _ends(admin: AdminClient, topic: str) -> list[TopicPartition]:
    """The partitions of a topic with their high watermarks: what an open transaction holds back counts as written."""
    found = admin.list_topics(timeout=10).topics.get(topic)  # of all: to ask for one by its name may create it
    if found is None or not found.partitions:
        raise NothingAddedError(f"there is no topic {topic}: does a bridge run, with this prefix (topics.prefix)?")
    partitions = [TopicPartition(topic, number) for number in found.partitions]
    latest = {partition: OffsetSpec.latest() for partition in partitions}
    ends = admin.list_offsets(latest, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=10)
    return [TopicPartition(topic, one.partition, end.result().offset) for one, end in ends.items()]


def _read(consumer: Consumer, ends: list[TopicPartition], folder: Path, file: Path) -> Found:
    known = _last(folder)  # its last records are read again, to see that it is the same topic
    offsets = {number: last.offset for number, last in known.items()}
    starts = [TopicPartition(end.topic, end.partition, offsets.get(end.partition, 0)) for end in ends]
    columns, count = TOPICS[folder.name], 0
    another = f"{ends[0].topic} is not the topic of the files in {folder}, but another Kafka's, or it was made anew: "
    another += "move them away, or use another --data"
    unread = {end.partition: end for end in ends}
    consumer.assign(starts)
    with file.open("w", encoding="utf-8") as lines:
        last = time.monotonic()
        while unread:
            for message in consumer.consume(1000, timeout=1.0):
                number = message.partition()
                if number in unread:
                    last = time.monotonic()
                if error := message.error():
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    if number in offsets and message.offset() <= offsets[number]:
                        raise NothingAddedError(another)
                    # The end of what can be read now: an open transaction may hold back the rest.
                    if number in unread and message.offset() >= unread[number].offset:
                        del unread[number]
                    continue
                record = decode(message.value(), message.headers())
                if number in offsets and message.offset() <= offsets[number]:
                    if message.offset() < offsets[number] or _time(record) != known[number].time:
                        raise NothingAddedError(another)
                    continue
                if record is None or isinstance(record, Unknown):  # a later release's, or not the bridge's
                    continue
                fields = msgspec.to_builtins(record)
                fields |= {"_partition": number, "_offset": message.offset()}
                lines.write(json.dumps({name: fields.get(name) for name in columns}) + "\n")
                count += 1
            if time.monotonic() - last > PATIENCE:
                where = ", ".join(f"{end.topic}/{end.partition}" for end in unread.values())
                raise NothingAddedError(
                    f"{where} cannot be read to the end, as a transaction has been open there for {PATIENCE:g} s "
                    "(kafka-transactions.sh find-hanging shows whose)"
                )
    return Found(file, count, sum(offset + 1 for offset in offsets.values()))


def write(found: Found, folder: Path) -> None:
    """Adds a file to the folder of a topic."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if found.records or not any(folder.glob("*.parquet")):  # an empty file is a table, too
        name = f"{found.start:012}.parquet"
        unfinished = folder / f"{name}.unfinished"
        with contextlib.chdir(found.lines.parent):
            rows = duckdb.read_json(found.lines.name, format="newline_delimited", columns=TOPICS[folder.name])
            rows.write_parquet(str(unfinished))
        unfinished.rename(folder / name)


def _last(folder: Path) -> dict[int, Last]:
    """The last record in the files, by partition."""
    if not any(folder.glob("*.parquet")):
        return {}
    with contextlib.chdir(folder):
        time = "observed_until" if folder.name == "heartbeats" else "observed_at"
        query = f"SELECT _partition, max(_offset), arg_max({time}, _offset) FROM '*.parquet' GROUP BY _partition"  # noqa: S608
        return {number: Last(*last) for number, *last in duckdb.sql(query).fetchall()}


def _time(record: Decoded) -> datetime | None:
    """What the files have as a record's time: UTC without a zone."""
    text = getattr(record, "observed_until", None) or getattr(record, "observed_at", None)
    return datetime.fromisoformat(text).replace(tzinfo=None) if text else None
