"""aiokafka's private parts, as of aiokafka 0.14.0, for purposes that its public interface does not cover.

No other module uses an attribute of aiokafka that begins with an underscore, except for ``connection`` and
``fetch_by_id``, which extend its classes. pyproject.toml admits 0.14 only; tests/unit/test_internals.py lists the
parts, and fails when one of them is gone.
"""

import asyncio
import contextlib
import copy
import functools
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

import aiokafka.client
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import CorruptRecordException, IncompatibleBrokerVersion, ProducerClosed, for_code
from aiokafka.producer import message_accumulator, sender, transaction_manager
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.record import default_records
from aiokafka.record.default_records import DefaultRecordBatchBuilder, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from bridge.kafka.errors import REFUSED_RECORDS
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

C = TypeVar("C")
_compiled_records = sys.modules[DefaultRecordBatchBuilder.__module__]
_FETCH_ALLOWANCE = 20.0
_UNKNOWN_REQUEST = (NotImplementedError, IncompatibleBrokerVersion)


# -- producers


def compress_quickly() -> None:
    """Makes gzip compress with level 1: aiokafka asks for level 9, ten times as costly for a tenth less size."""
    modules: list[Any] = [_compiled_records, default_records]
    for module in modules:
        if hasattr(module, "gzip_encode"):
            module.gzip_encode = _gzip


def _gzip(payload: bytes) -> bytes:
    compressor = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return compressor.compress(payload) + compressor.flush()


def size_in_batch(compression: str | None, **record: Any) -> int:
    """The bytes of a batch with this record alone, as it would be sent."""
    codec = 0 if compression is None else AIOKafkaProducer._COMPRESSORS[compression][1]
    batch = BatchBuilder(0, codec, is_transactional=1)
    batch.append(**record)
    return len(batch._build())


def is_in_transaction(producer: AIOKafkaProducer) -> bool:
    return producer._txn_manager is not None and bool(producer._txn_manager.is_in_transaction())


def on_transaction_error(producer: AIOKafkaProducer, first: Callable[[BaseException], None]) -> None:
    """Calls ``first`` with the error that fails a transaction: the producer's methods often raise only a consequence of
    it."""
    transactions = producer._txn_manager
    if transactions is None:
        return
    abortable, fatal = transactions.error_transaction, transactions.fatal_error

    def error_transaction(error: BaseException) -> None:
        first(error)
        abortable(error)

    def fatal_error(error: BaseException) -> None:
        first(error.__cause__ or error)
        fatal(error)

    transactions.error_transaction, transactions.fatal_error = error_transaction, fatal_error


def add_to_transaction(producer: AIOKafkaProducer, partition: TopicPartition) -> None:
    """Makes a partition part of the transaction without writing to it: the commit fails unless that is allowed."""
    producer._txn_manager.maybe_add_partition_to_txn(partition)


async def add_group_to_transaction(producer: AIOKafkaProducer, group_id: str) -> None:
    """Lets the transaction begin at its coordinator, without anything to write. Raises ``KafkaError``."""
    while not await producer._sender._do_add_offsets_to_txn(group_id):
        pass  # it has waited for as long as aiokafka waits between two attempts


def transactional_id(producer: AIOKafkaProducer) -> str:
    return str(producer._txn_manager.transactional_id)


async def ask_coordinator(producer: AIOKafkaProducer, request: Any) -> Any:
    """Sends a request to the coordinator of the producer's transactions. Returns the response, or None if the broker is
    too old to know the request. Raises ``KafkaError``."""
    node = await producer._sender._find_coordinator(CoordinationType.TRANSACTION, transactional_id(producer))
    with contextlib.suppress(*_UNKNOWN_REQUEST):
        return await producer.client.send(node, request, group=ConnectionGroup.COORDINATION)
    return None


_ERRORS = "errors_of_topics"
"""The name under which a producer's sender keeps the last error of each topic."""


def last_error(producer: AIOKafkaProducer, topic: str) -> str | None:
    """The name of Kafka's last answer to a batch for the topic, if that was an error: aiokafka tries some again,
    silently and without end."""
    error = producer._sender.__dict__.get(_ERRORS, {}).get(topic)
    return None if error is None else str(error.__name__)


def awaited_topics(producer: AIOKafkaProducer) -> set[str]:
    """The topics that Kafka has not yet added to the transaction."""
    transactions = producer._txn_manager
    return set() if transactions is None else {partition.topic for partition in transactions.partitions_to_add()}


async def abandon(producer: AIOKafkaProducer) -> None:
    """Ends the leftovers of a cancelled ``stop()``: a sender that keeps trying, and its waiters."""
    if producer._sender is not None:
        producer._message_accumulator.fail_all(ProducerClosed())
        await asyncio.gather(producer._sender.close(), producer.client.close())


def _retrieved(make: Callable[..., asyncio.Future[Any]]) -> Callable[..., asyncio.Future[Any]]:
    """``make`` with the exception of each future marked as retrieved. When a producer fails, aiokafka fails all of its
    futures and tasks, of which only one is awaited; asyncio would log each of the others with its stack."""

    def retrieve(done: "asyncio.Future[Any]") -> None:
        if not done.cancelled():
            done.exception()

    def made(*args: Any) -> asyncio.Future[Any]:
        future = make(*args)
        future.add_done_callback(retrieve)
        return future

    return made


class _ProduceHandler(sender.SendProduceReqHandler):  # type: ignore[misc]
    """Gives the numbers of a batch that Kafka refused to the next one, as Java's producer does: Kafka has not counted
    it, and takes no batch after a gap. At once, before the next batch has its numbers. Remembers Kafka's errors."""

    def handle_response(self, response: Any) -> None:
        super().handle_response(response)
        errors = self._sender.__dict__.setdefault(_ERRORS, {})
        for topic, partitions in response.topics:
            for _, code, *_ in partitions:
                errors[topic] = for_code(code) if code else None
        numbers = self._sender._txn_manager
        for partition, batch in self._batches.items():
            # What was sent twice may have been written before it was refused.
            if numbers is None or batch.retry_count > 1 or not batch.future.done():
                continue
            if isinstance(batch.future.exception(), REFUSED_RECORDS):
                numbers.increment_sequence_number(partition, -batch.record_count)


sender.SendProduceReqHandler = _ProduceHandler
message_accumulator.create_future = _retrieved(message_accumulator.create_future)
transaction_manager.create_future = _retrieved(transaction_manager.create_future)
sender.create_task = _retrieved(sender.create_task)


# -- admin clients


def brokers(admin: AIOKafkaAdminClient) -> list[tuple[str, int]]:
    """Host and port of every broker, as the brokers advertise them."""
    return sorted((broker.host, broker.port) for broker in admin._client.cluster.brokers())


async def send_request(admin: AIOKafkaAdminClient, request: Any, node: int | None = None) -> Any:
    """Sends a request to a broker (any one for None). Returns the response, or None if the broker is too old to know
    the request. Raises ``KafkaError``."""
    with contextlib.suppress(*_UNKNOWN_REQUEST):
        return await admin._send_request(request, node)
    return None


# -- all clients: a topic that is deleted must not come back with the broker's own number of partitions because a client
# asked for it

aiokafka.client.MetadataRequest = functools.partial(aiokafka.client.MetadataRequest, allow_auto_topic_creation=False)


# -- consumers


def refresh_metadata(consumer: AIOKafkaConsumer) -> None:
    """Lets a consumer look now which partitions its topics have: by itself it does so every few minutes."""
    consumer._client.force_metadata_update()


def fetch_with(consumer: AIOKafkaConsumer, wrapped: Callable[[Any], C]) -> C:
    """Lets a consumer fetch with its client ``wrapped`` in another one, and returns that."""
    consumer._fetcher._client = client = wrapped(consumer._fetcher._client)
    return client


async def high_watermarks(
    consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, int]:
    """The ends of partitions; the ``end_offsets`` of a consumer that reads committed records stop at the first open
    transaction. Raises ``KafkaError``."""
    asking = copy.copy(consumer._fetcher)  # its tasks continue with the original
    asking._isolation_level = READ_UNCOMMITTED
    ends: dict[TopicPartition, int] = await asking.end_offsets(list(partitions), timeout_ms)
    return ends


# -- members of a group


def has_left_for_good(consumer: AIOKafkaConsumer) -> bool:
    """Whether the consumer's coordination, or its heartbeats, have ended with an error: it will not join again."""
    coordinator = consumer._coordinator
    heartbeats = coordinator._heartbeat_task
    failed = heartbeats is not None and heartbeats.done() and not heartbeats.cancelled() and heartbeats.exception()
    return bool(failed or coordinator._coordination_task.done())


def generation(consumer: AIOKafkaConsumer) -> int:
    """The group's generation that the consumer is a member of."""
    return int(consumer._coordinator.generation)


def rejoin(consumer: AIOKafkaConsumer) -> None:
    """Lets the consumer join its group again; without effect while it does so already."""
    consumer._coordinator.request_rejoin()


def on_heartbeat(
    consumer: AIOKafkaConsumer, confirm: Callable[[float], Awaitable[None]], unknown: Callable[[], None]
) -> None:
    """Awaits ``confirm(sent_at)`` (monotonic seconds) for each heartbeat that Kafka answers without asking for a
    rejoin. Calls ``unknown`` when Kafka does not know the member any more.

    The consumer must have been started.
    """
    coordinator = consumer._coordinator
    heartbeat = coordinator._do_heartbeat

    async def confirming() -> bool:
        sent_at = time.monotonic()
        answered: bool = await heartbeat()
        if answered and not coordinator._rejoin_needed_fut.done():
            await confirm(sent_at)
        elif coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID:
            unknown()
        return answered

    coordinator._do_heartbeat = confirming


# -- connections (``connection`` has ours)


def allowance(request: Any) -> float:
    """The seconds that an answer may take beyond the usual time-out: until the other members of a group have joined, or
    while records arrive over a slow network."""
    if isinstance(request, JoinGroupRequest):
        return float(request._rebalance_timeout / 1000)
    return _FETCH_ALLOWANCE if isinstance(request, FetchRequest) else 0.0


def servers(client: Any) -> str:
    """The bootstrap servers that a client was made with."""
    return str(_inner(client)._bootstrap_servers)


def login(client: Any) -> Any:
    """The ``Login`` that a client was made with, if any."""
    return _inner(client)._sasl_oauth_token_provider


def _inner(client: Any) -> Any:
    return client.client if isinstance(client, AIOKafkaProducer) else client._client


# -- records: a header's name that is not UTF-8 must not cost more than that name. aiokafka's reader in C raises
# UnicodeDecodeError in the middle of a batch, drops the records before it, and does the same at each new attempt.


class _LenientBytes(bytearray):
    """Bytes whose parts can always be decoded; aiokafka's Python reader decodes only the header names of a record."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _LenientBytes(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "") -> str:
        return super().decode(encoding, "backslashreplace")


class _RecordBatch:
    """A batch of records, read by aiokafka's fast reader as far as possible, and then by its slow one."""

    __slots__ = ("_batch", "_partition", "_raw")

    def __init__(self, batch: Any, raw: bytes, partition: Any) -> None:
        self._batch = batch
        self._raw = raw
        self._partition = partition

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._batch
        except (UnicodeDecodeError, CorruptRecordException) as error:
            slow = _DefaultRecordBatchPy(self._raw)
            slow._maybe_uncompress()
            slow._buffer = _LenientBytes(slow._buffer)
            yield from slow  # from its beginning: the fetcher skips the records it has returned
            METRICS.kafka_errors.labels("header_name").inc()
            if _unreadable_names.is_new(error):
                log.warning("record.header_name_unreadable", partition=self._partition, error=error)


class _Records:
    """The fetched records of one partition, batch by batch."""

    def __init__(self, raw: bytes) -> None:
        self._records = MemoryRecords(raw)
        self._raw = raw
        self._position = 0
        self.partition = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def next_batch(self) -> Any:
        batch, begin = self._records.next_batch(), self._position
        _, length, _, magic = _BATCH_HEAD.unpack_from(self._raw, begin)
        self._position += _LENGTH_COUNTS_FROM + length
        return batch if magic < 2 else _RecordBatch(batch, self._raw[begin : self._position], self.partition)


class _PartitionRecords(fetcher.PartitionRecords):  # type: ignore[misc]
    def __init__(self, partition: TopicPartition, records: _Records, *rest: Any) -> None:
        records.partition = f"{partition.topic}/{partition.partition}"
        super().__init__(partition, records, *rest)


_BATCH_HEAD = struct.Struct(">qiib")
"""A batch's first offset, its length from after that field, its leader's epoch and its format (KIP-98)."""
_LENGTH_COUNTS_FROM = 12
_unreadable_names = RepeatFilter()

fetcher.MemoryRecords = _Records
fetcher.PartitionRecords = _PartitionRecords
