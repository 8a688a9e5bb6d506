"""What Kafka Connect writes with the files of docs/kafka-connect.md is what a consumer reads, record by record.

`make sinks` runs this; it downloads Kafka Connect and the connectors into the cache, and is skipped in `make test`.
"""

import asyncio
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from asm_bridge_schemas.connect import connect_schemas
from asm_bridge_schemas.definitions import Schema
from asm_bridge_schemas.frame import schema_id, unframed
from bridge.testing.brokers import Broker
from bridge.testing.brokers.process import ProcessBroker, tail
from tests.support import ROOT
from tests.support.apicurio import Apicurio, needs_apicurio
from tests.support.chaos.facts import Message
from tests.support.chaos.harness import Lab, lab, until
from tests.support.sinks import ConnectWorker, Postgres, Row, iceberg, plugins

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.transactions,
    pytest.mark.skipif(not os.environ.get("SINKS"), reason="downloads Kafka Connect and sinks: run `make sinks`"),
    pytest.mark.skipif(not shutil.which("mvn"), reason="no mvn on this machine"),
    pytest.mark.timeout(600),
]
DOCUMENT = (ROOT / "docs" / "kafka-connect.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```properties\n# (.+)\n((?:.*\n)*?)```$", DOCUMENT, re.MULTILINE))
(JAVA,) = re.findall(r"^```java\n((?:.*\n)*?)```$", DOCUMENT, re.MULTILINE)
JSON = "org.apache.kafka.connect.json.JsonConverter"
FRAMED = "FramedJsonConverter"
TABLES = connect_schemas()
ICEBERG = {"skills": "list<string>", "agent_specific": "boolean", "waited_ms": "long", "start_date": "string"}
POSTGRES = {
    "skills": "ARRAY",
    "agent_specific": "boolean",
    "waited_ms": "bigint",
    "start_date": "timestamp with time zone",
}
"""Types of some columns of the queued calls."""
Program = TypeVar("Program", bound=ProcessBroker)
Tables = dict[str, Schema]
Read = dict[str, tuple[Message, Schema]]
"""By its place, each record, and the table that it was read with."""
TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)")
DROPPED = {"agent-status": {"transfer_members"}, "agent-state": {"calls", "labels", "status_transfer_members"}}
"""Columns that the document leaves out in PostgreSQL."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    if not shutil.which("postgres"):
        pytest.skip("no PostgreSQL on this machine")
    server = Postgres()
    with running(server):
        yield server


@pytest.fixture(scope="module")
def registry() -> Iterator[Apicurio]:
    with running(Apicurio()) as apicurio:
        yield apicurio


@pytest.mark.parametrize("version", ["4.1.0", "4.2.0"])
async def test_tables_have_what_a_consumer_reads(
    version: str, broker: Broker, postgres: Postgres, topics_prefix: str, tmp_path: Path
) -> None:
    """Kafka Connect fills Iceberg tables and PostgreSQL with every record of every topic, also with a column that a
    later release adds."""
    await fill_and_compare(version, broker, postgres, topics_prefix, tmp_path)


@needs_apicurio
async def test_tables_have_framed_records(
    broker: Broker, postgres: Postgres, registry: Apicurio, topics_prefix: str, tmp_path: Path
) -> None:
    """With the document's converter Kafka Connect 4.1 does the same with values that are framed for a Schema
    Registry."""
    await fill_and_compare("4.1.0", broker, postgres, topics_prefix, tmp_path, SCHEMA_REGISTRY__URL=registry.url)


async def fill_and_compare(
    version: str, broker: Broker, postgres: Postgres, topics_prefix: str, tmp_path: Path, **settings: str
) -> None:
    postgres.create(topics_prefix.strip("."))
    arguments = "--sessions", "8", "--change-rate", "2"
    read: Read = {}
    framed = bool(settings)
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await create_topic(the_lab, "control-iceberg")
        for tables in ({topic: older(table) for topic, table in TABLES.items()}, TABLES):
            await observe(the_lab, **settings)
            for message in (await the_lab.facts()).messages:
                if message.topic in TABLES:
                    read.setdefault(message.place, (message, tables[message.topic]))
            for topic, table in tables.items():
                (tmp_path / f"{topic}.json").write_text(json.dumps(table))
            files = configuration(the_lab, postgres.url, tmp_path, FRAMED if framed else JSON)
            with running(ConnectWorker(version, files, JAVA if framed else "")) as worker:
                in_iceberg, in_postgres = expected_in_iceberg(read, tables), expected_in_postgres(read, tables)
                await filled(postgres, worker, in_postgres)
                found = await asyncio.to_thread(iceberg, tmp_path / "warehouse", in_iceberg)
            assert {name: sorted_rows(table["rows"]) for name, table in found.items()} == in_iceberg
            assert postgres_rows(postgres, in_postgres) == in_postgres
    assert all([*in_iceberg.values(), *in_postgres.values()])
    assert {schema_id(m.value) is not None for m, _ in read.values() if m.value} == {framed}
    assert found["asm.queued_calls"]["columns"].items() >= ICEBERG.items()
    assert postgres.types("queued_calls").items() >= POSTGRES.items()


async def create_topic(the_lab: Lab, name: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(the_lab.prefix + name, 1, 1)])
    finally:
        await admin.close()


def older(table: Schema) -> Schema:
    """The table of a release that lacked the last column."""
    return {**table, "fields": table["fields"][:-1]}


async def observe(the_lab: Lab, **settings: str) -> None:
    """Runs a bridge until every kind of record has been published, and stops it."""
    await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1s", **settings)
    await the_lab.sim.post("thaw")
    listing = {"get_conversations": True, "conversations_interval": 0.5}
    agents = await the_lab.register_all(interval=0.2, labels={"site": "manila"}, **listing)
    for agent_id in agents:
        await the_lab.inject(agent_id, str(9_007_199_254_740_993 + len(the_lab.produced)))
    await the_lab.completed()
    await the_lab.produce("sessions", None, agents[-1].encode())
    await the_lab.sim.settle(agents[:-1])
    assert await the_lab.bridges["bridge"].stop() == 0


def configuration(the_lab: Lab, database: str, folder: Path, converter: str) -> list[str]:
    """The document's files with this test's places, and with a connector of each sink for each topic."""
    places = {
        "localhost:9092": the_lab.bootstrap_servers,
        "jdbc:postgresql://localhost:5432/asm": database,
        "/opt/connect-plugins": str(plugins()),
        "/etc/asm-tables": str(folder),
        "/var/lib/connect": str(folder),
        "/var/lib/warehouse": str(folder / "warehouse"),
        "interval-ms=60000": "interval-ms=1000",
        "interval.ms=10000": "interval.ms=1000",
        JSON: converter,
        "topics=asm.": f"topics={the_lab.prefix}",
        "topic=control-iceberg": f"topic={the_lab.prefix}control-iceberg",
    }
    files = [FILES["worker.properties"]]
    for topic in TABLES:
        for sink in ("iceberg", "postgresql"):
            text = FILES[f"{sink}.properties"] + FILES.get(f"{sink}.properties, for {topic} also", "")
            files.append(text.replace("queued-calls", topic).replace("queued_calls", topic.replace("-", "_")))
    for written, ours in places.items():
        assert any(written in text for text in files), written
        files = [text.replace(written, ours) for text in files]
    return files


@contextmanager
def running(program: Program) -> Iterator[Program]:
    """Runs within the block; if that fails, the end of its log is shown."""
    program.start()
    try:
        yield program
    except BaseException as error:
        error.add_note(f"--- {program.name}'s log ends:\n{tail((program.home / 'log').read_bytes(), 60)}")
        raise
    finally:
        program.stop()


async def filled(postgres: Postgres, worker: ConnectWorker, rows: dict[str, list[Row]]) -> None:
    """Waits until PostgreSQL has these rows, or for so long that it has others."""

    async def has_them() -> bool:
        assert not worker.failures()
        return await asyncio.to_thread(postgres_rows, postgres, rows) == rows

    with suppress(TimeoutError):
        await until(has_them, "PostgreSQL has the rows", 60)


def postgres_rows(postgres: Postgres, tables: Iterable[str]) -> dict[str, list[Row]]:
    return {table: sorted_rows(map(with_times, postgres.rows(table))) for table in tables}


def expected_in_iceberg(read: Read, tables: Tables) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {f"asm.{topic.replace('-', '_')}": [] for topic in TABLES}
    for message, table in read.values():
        if message.value is not None:
            rows[f"asm.{message.topic.replace('-', '_')}"].append(row(message, table, tables[message.topic]))
    return {name: sorted_rows(found) for name, found in rows.items()}


def expected_in_postgres(read: Read, tables: Tables) -> dict[str, list[Row]]:
    """Every record of a topic of events; the last state of each agent."""
    rows: dict[str, dict[Any, Row]] = {topic: {} for topic in TABLES}
    for message, table in sorted(read.values(), key=lambda one: one[0].offset):
        key = message.key if message.topic == "agent-state" else message.place
        if message.value is None:
            rows[message.topic].pop(key, None)
            continue
        columns = row(message, table, tables[message.topic])
        if message.topic in ("agent-state", "agent-messages"):
            columns = flat(columns, tables[message.topic])
        columns = {name: value for name, value in columns.items() if name not in DROPPED.get(message.topic, ())}
        if message.topic != "agent-state":
            columns |= {"kafka_partition": message.partition, "kafka_offset": message.offset}
        rows[message.topic][key] = columns
    return {topic.replace("-", "_"): sorted_rows(map(with_times, found.values())) for topic, found in rows.items()}


def row(message: Message, table: Schema, today: Schema) -> Row:
    """The columns of a record that was read with a table; those that were added since then are null."""
    known: Row = column(json.loads(unframed(message.value or b"")), table)
    return {field["field"]: known.get(field["field"]) for field in today["fields"]}


def column(value: Any, schema: Schema) -> Any:
    if value is None:
        return None
    if schema["type"] == "struct":
        return {field["field"]: column(value.get(field["field"]), field) for field in schema["fields"]}
    return [column(item, schema["items"]) for item in value] if schema["type"] == "array" else value


def flat(columns: Row, table: Schema) -> Row:
    """As Kafka's Flatten does it."""
    found: Row = {}
    for field in table["fields"]:
        name, value = field["field"], columns[field["field"]]
        if field["type"] == "struct":
            inner = value or {one["field"]: None for one in field["fields"]}
            found |= {f"{name}_{one}": inner[one] for one in inner}
        else:
            found[name] = value
    return found


def with_times(columns: Row) -> Row:
    """The row with its times in one form."""
    return {
        name: datetime.fromisoformat(value).isoformat() if isinstance(value, str) and TIME.fullmatch(value) else value
        for name, value in columns.items()
    }


def sorted_rows(rows: Any) -> list[Row]:
    return sorted(rows, key=lambda columns: json.dumps(columns, sort_keys=True))
