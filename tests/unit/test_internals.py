"""aiokafka's private parts: they exist, only one module uses them, and records are read through them."""

import ast
import asyncio
import gc
import gzip
import inspect
import re
import struct
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka.client
import pytest
from aiokafka.codec import gzip_encode
from aiokafka.consumer import fetcher
from aiokafka.errors import KafkaError
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder, MessageBatch
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs

from bridge.kafka import internals
from bridge.telemetry.metrics import METRICS
from tests.support.poison import checked

ROOT = Path(__file__).parents[2]
NAME = b"gr\xf6sse"
"""A header's name in Latin-1: it is not UTF-8."""

READ_IN = "0.14"
"""The release of aiokafka in which the private parts were read."""

PARTS = {
    "aiokafka.producer.producer.AIOKafkaProducer": (
        "_COMPRESSORS", "_txn_manager", "_sender", "_message_accumulator", "client",
    ),
    "aiokafka.producer.transaction_manager.TransactionManager": (
        "create_future()", "error_transaction", "fatal_error", "increment_sequence_number", "is_in_transaction",
        "maybe_add_partition_to_txn", "partitions_to_add", "transactional_id",
    ),
    "aiokafka.producer.message_accumulator.MessageAccumulator": ("fail_all",),
    "aiokafka.producer.message_accumulator.BatchBuilder": ("_build",),
    "aiokafka.producer.message_accumulator.MessageBatch": ("create_future()", "future", "record_count", "retry_count"),
    "aiokafka.producer.sender.Sender": (
        "create_task(", "close", "_do_add_offsets_to_txn", "_find_coordinator", "_txn_manager",
        "SendProduceReqHandler(self, batches)",
    ),
    "aiokafka.producer.sender.SendProduceReqHandler": ("_batches", "self.handle_response(response)"),
    "aiokafka.admin.client.AIOKafkaAdminClient": ("_client", "_send_request"),
    "aiokafka.client.AIOKafkaClient": (
        "cluster", "close", "MetadataRequest(", "force_metadata_update", "_bootstrap_servers",
        "_sasl_oauth_token_provider",
    ),
    "aiokafka.consumer.consumer.AIOKafkaConsumer": ("_client", "_coordinator", "_fetcher"),
    "aiokafka.consumer.group_coordinator.GroupCoordinator": (
        "_coordination_task", "_do_heartbeat", "_heartbeat_task", "_rejoin_needed_fut", "generation", "request_rejoin",
        "self.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID",
    ),
    "aiokafka.conn.AIOKafkaConnection": (
        "_request_timeout", "_ssl_context", "_sasl_plain_username", "_sasl_plain_password",
        "_sasl_oauth_token_provider", "_requests", "_writer", "_loop", "authenticator_oauth",
        "SaslAuthenticateRequest(payload)",
    ),
    "aiokafka.protocol.group.JoinGroupRequest": ("_rebalance_timeout",),
    "aiokafka.protocol.fetch.FetchRequest": (
        "_isolation_level", "_max_bytes", "_max_wait_ms", "_min_bytes", "_rack_id", "_topics",
    ),
    "aiokafka.record.default_records._DefaultRecordBatchPy": ("_maybe_uncompress", "_buffer"),
    "aiokafka.consumer.fetcher.Fetcher": (
        "MemoryRecords(", "PartitionRecords(", "OffsetRequest(-1, self._isolation_level,",
        "response = await self._client.send(node_id, request)", "response.API_VERSION >= 11", "in response.topics:",
    ),
    "aiokafka.consumer.fetcher.PartitionRecords": (
        "has_next()", "next_batch()", "for record in next_batch", "if record.offset < self.next_fetch_offset:",
    ),
}  # fmt: skip
"""By class: the names that its source must contain for bridge/kafka/internals.py and connection.py to work."""


def test_the_private_parts_were_read_in_the_installed_aiokafka() -> None:
    """READ_IN names the installed release of aiokafka; before you change it, read kafka/internals.py against the new
    release.
    """
    assert version("aiokafka").startswith(f"{READ_IN}.")


@pytest.mark.parametrize(("cls", "part"), [(cls, part) for cls, parts in PARTS.items() for part in parts])
def test_each_private_part_is_there(cls: str, part: str) -> None:
    """Every private part of aiokafka that the bridge uses exists."""
    module, name = cls.rsplit(".", 1)
    found = getattr(import_module(module), name, None)
    found = next((one for one in getattr(found, "__mro__", ()) if one.__module__ == module), None)
    assert found is not None, f"aiokafka has no {cls} any more, which bridge/kafka/internals.py needs"
    pattern = re.escape(part) + (r"\b" if part[-1].isidentifier() else "")
    assert re.search(pattern, inspect.getsource(found)), f"{cls} has no {part} any more: mend bridge/kafka/internals.py"


def private_attributes(path: Path) -> list[str]:
    """The accesses to a private attribute of anything but ``self`` and ``cls``; ``_replace`` is not one."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__")
        if node.attr != "_replace"
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    ]


@pytest.mark.parametrize("package", ["kafka", "registry", "check", "partitions"])
def test_no_other_module_touches_a_private_part(package: str) -> None:
    """Only bridge/kafka/internals.py uses private attributes of aiokafka."""
    modules = sorted((ROOT / "bridge" / package).glob("*.py"))
    assert modules
    found = [line for path in modules if path.name != "internals.py" for line in private_attributes(path)]
    assert found == []


def batch(codec: int, names: list[bytes], first: int = 0) -> bytes:
    """A record batch with one record per header name, whose bytes are not checked."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for number, name in enumerate(names):
        headers: list[tuple[str, bytes | None]] = [("sound", b"1"), ("?" * len(name), b"2"), ("empty", None)]
        builder.append(number, 1000 + number, b"key-%d" % number, b"value", headers)
    raw = bytearray(builder.build())
    for name in names:
        raw[:] = raw.replace(b"?" * len(name), name, 1)
    raw[:8] = struct.pack(">q", first)
    if codec:
        raw = compressed(raw)
    return checked(raw)


def compressed(raw: bytearray) -> bytearray:
    """The batch, compressed with gzip."""
    packed = bytearray(raw[:61]) + gzip_encode(bytes(raw[61:]))
    packed[21:23] = struct.pack(">h", 1)
    packed[8:12] = struct.pack(">i", len(packed) - 12)
    return packed


def fetched(raw: bytes, position: int = 0) -> list[Any]:
    """The records that the consumer returns for a fetched partition."""
    partition = TopicPartition("asm.inject", 3)
    return list(fetcher.PartitionRecords(partition, fetcher.MemoryRecords(raw), [], position, None, None, True, 1))


@pytest.mark.parametrize("codec", [0, 1], ids=["plain", "gzip"])
def test_a_header_name_that_is_not_utf8_costs_that_name_only(codec: int) -> None:
    """A header name that is not UTF-8 is shown with escaped bytes; the record keeps its key, value and
    other headers.
    """
    records = fetched(batch(codec, [b"a", NAME, b"b", NAME]) + batch(codec, [b"c"], first=4))
    assert [(one.offset, one.key, one.value, one.timestamp) for one in records[:4]] == [
        (number, b"key-%d" % number, b"value", 1000 + number) for number in range(4)
    ]
    names = ["a", "gr\\xf6sse", "b", "gr\\xf6sse", "c"]
    assert [one.headers for one in records] == [(("sound", b"1"), (name, b"2"), ("empty", None)) for name in names]


def test_records_before_the_position_are_left_out() -> None:
    """A batch that is fetched again from its middle, after an unreadable name, continues at the position."""
    assert [one.offset for one in fetched(batch(0, [b"a", NAME, b"b"]), 2)] == [2]


def test_an_unreadable_name_is_counted_and_logged_once() -> None:
    """Each batch with an unreadable name counts; the log names the partition, once for the same name."""
    counter = METRICS.kafka_errors.labels("header_name")
    before = counter._value.get()
    with capture_logs() as logged:
        for _ in range(2):
            fetched(batch(0, [b"b\xe4ume"]))
    (line,) = logged
    assert (line["event"], line["partition"]) == ("record.header_name_unreadable", "asm.inject/3")
    assert counter._value.get() == before + 2


def test_no_client_makes_a_broker_create_a_topic() -> None:
    """What a client asks about a deleted topic does not bring it back, on brokers that create topics automatically."""
    request = aiokafka.client.MetadataRequest(["asm.inject"]).prepare({3: (0, 5)})
    assert request.allow_auto_topic_creation is False


def test_gzip_compresses_quickly() -> None:
    """A batch is compressed with level 1, by the compiled part of aiokafka too, and any client can read it."""
    internals.compress_quickly()
    assert internals._compiled_records.gzip_encode is internals._gzip
    builder = DefaultRecordBatchBuilder(
        magic=2, compression_type=1, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=100_000,
    )  # fmt: skip
    builder.append(0, timestamp=1, key=b"a", value=b"x" * 10_000, headers=[])
    written = bytes(builder.build())
    assert len(written) < 200
    assert gzip.decompress(written[61:]).count(b"x") == 10_000


async def test_a_failed_producer_leaves_nothing_to_asyncio() -> None:
    """Of the futures and tasks that aiokafka fails together one is awaited; asyncio logs none of the others as never
    retrieved."""
    loop, logged = asyncio.get_running_loop(), list[dict[str, Any]]()
    loop.set_exception_handler(lambda _, context: logged.append(context))
    error = KafkaError("fenced")

    async def fails() -> None:
        raise error

    try:
        transactions = TransactionManager("id", 1000)
        transactions.set_pid_and_epoch(1, 1)
        transactions.begin_transaction()
        transactions.add_offsets_to_txn({}, "group")
        transactions.fatal_error(error)
        batch = MessageBatch(TopicPartition("asm.agent-status", 0), BatchBuilder(1, 0, is_transactional=1), 1, 0)
        batch.failure(error)
        await asyncio.wait([sender.create_task(fails())])
        del transactions, batch
        await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert logged == []


@pytest.mark.parametrize(
    ("code", "attempts", "next_number"), [(10, 1, 7), (87, 1, 7), (0, 1, 10), (45, 1, 10), (10, 2, 10)]
)
async def test_the_numbers_of_a_refused_batch_are_given_to_the_next(code: int, attempts: int, next_number: int) -> None:
    """Kafka has not counted a batch that it refuses for its records, and takes no batch after a gap. One that was
    written, or may have been, keeps its numbers."""
    partition, numbers = TopicPartition("asm.conversations", 3), TransactionManager(None, 0)
    numbers.increment_sequence_number(partition, 10)
    sent = MessageBatch(partition, BatchBuilder(1000, 0), 1, 0)
    for _ in range(3):
        sent.append(b"a", b"{}", 0)
    for _ in range(attempts):
        sent.drain_ready()
    owner: Any = SimpleNamespace(_txn_manager=numbers, client=None, _retry_backoff=0)
    answer = SimpleNamespace(API_VERSION=4, topics=[(partition.topic, [(partition.partition, code, 0, -1)])])
    sender.SendProduceReqHandler(owner, {partition: sent}).handle_response(answer)
    assert numbers.sequence_number(partition) == next_number
    await asyncio.gather(sent.future, return_exceptions=True)
