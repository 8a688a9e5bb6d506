"""Topics to Parquet: appends to a folder what the topics hold beyond it.

    data/agent-status/000000000000.parquet     one file per topic and run, named by how many offsets lie before it

A file appears whole or not at all, and the offsets in the files say where the next run goes on: no consumer group, and
no record twice. Personal data (phone numbers, messages) is left out.
"""

import json
import os
import tempfile
from pathlib import Path

import duckdb
import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from asm_bridge_schemas.consume import Unknown, decode

BROKERS = os.environ.get("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")
PREFIX = os.environ.get("ASM_BRIDGE_TOPICS__PREFIX", "asm.")

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


def append(data: Path, brokers: str = BROKERS, prefix: str = PREFIX) -> dict[str, int]:
    """Appends the records of each topic in TOPICS up to its end as of now. Returns how many, by topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "not-used",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
        }
    )
    try:
        return {topic: _append(consumer, prefix + topic, data / topic, TOPICS[topic]) for topic in TOPICS}
    finally:
        consumer.close()


def _append(consumer: Consumer, topic: str, folder: Path, columns: dict[str, str]) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    following = _following(folder)
    starts = {number: following.get(number, 0) for number in partitions}
    count = 0
    with tempfile.NamedTemporaryFile("w", suffix=".json") as lines:
        consumer.assign([TopicPartition(topic, number, offset) for number, offset in starts.items()])
        open_partitions = set(partitions)
        while open_partitions:
            for message in consumer.consume(1000, timeout=1.0):
                if error := message.error():
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    open_partitions.discard(message.partition())
                    continue
                record = decode(message.value(), message.headers())
                if record is None or isinstance(record, Unknown):  # a later release's, or not the bridge's
                    continue
                fields = msgspec.to_builtins(record)
                fields |= {"_partition": message.partition(), "_offset": message.offset()}
                lines.write(json.dumps({name: fields.get(name) for name in columns}) + "\n")
                count += 1
        lines.flush()
        if count or not following:  # an empty file is a table, too
            name = f"{sum(starts.values()):012}.parquet"
            unfinished = folder / f"{name}.unfinished"
            read = f"read_json('{lines.name}', format = 'newline_delimited', columns = {columns})"
            duckdb.execute(f"COPY (SELECT * FROM {read}) TO '{unfinished}' (FORMAT parquet)")  # noqa: S608
            unfinished.rename(folder / name)
    return count


def _following(folder: Path) -> dict[int, int]:
    """The offset after the last one in the files, by partition."""
    if not any(folder.glob("*.parquet")):
        return {}
    files = f"read_parquet('{folder}/*.parquet')"
    query = f"SELECT _partition, max(_offset) + 1 FROM {files} GROUP BY _partition"  # noqa: S608
    return dict(duckdb.execute(query).fetchall())
