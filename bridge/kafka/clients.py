"""aiokafka's clients, built one way, with a deadline on each call that could wait for ever."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    ProducerClosed,
    UnknownError,
    UnsupportedVersionError,
)
from aiokafka.structs import ConsumerRecord, TopicPartition

T = TypeVar("T")

DEADLINE = 30.0
"""Seconds after which a call to Kafka counts as failed."""
_STOP_DEADLINE = 5.0
_TRANSACTION_TIMEOUT_MS = 20_000
MAX_REQUEST = 16 * 1024 * 1024
_WITHOUT = (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion)
"""What a broker without transactions, or without idempotence, answers."""


class NoTransactionsError(Exception):
    """The broker has no transactions, which ``exactly_once`` needs."""


async def ended(call: Coroutine[Any, Any, Any], deadline: float = 10.0) -> None:
    """Let a client stop, in the time there is, whatever comes of it.

    In a task of its own: in an outage aiokafka's ``stop()`` lets the cancellation of its own parts out, which would
    look as if we were cancelled.
    """
    stopping = asyncio.ensure_future(call)
    await asyncio.wait([stopping], timeout=deadline)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled():
        stopping.exception()


async def _stop(producer: AIOKafkaProducer) -> None:
    """One in a transaction aborts first, or readers would wait for its time-out."""
    transactions = producer._txn_manager
    if transactions is not None and transactions.is_in_transaction():
        await ended(producer.abort_transaction(), _STOP_DEADLINE)
    await ended(producer.stop(), _STOP_DEADLINE)
    await ended(_silence(producer), _STOP_DEADLINE)
    waiter = None if transactions is None else transactions._transaction_waiter
    if waiter is not None and waiter.done() and not waiter.cancelled():
        waiter.exception()  # told by what failed; asyncio would log it as never retrieved


async def _silence(producer: AIOKafkaProducer) -> None:
    """A ``stop()`` that was cut off leaves a sender that goes on trying, and those who wait for it."""
    sender = producer._sender
    if sender is not None:
        producer._message_accumulator.fail_all(ProducerClosed())
        await asyncio.gather(sender.close(), producer.client.close())


def reader(connection: dict[str, Any]) -> AIOKafkaConsumer:
    """A consumer outside any group that sees what is committed, from the beginning where it is not told otherwise."""
    return AIOKafkaConsumer(
        **connection,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=MAX_REQUEST,
    )


async def bounded(call: Awaitable[T], deadline: float = DEADLINE) -> T:
    async with asyncio.timeout(deadline):
        return await call


@dataclass(slots=True)
class _Shared:
    """The producer of all partitions in ``at_least_once``; ``lock``: while it starts or stops."""

    producer: AIOKafkaProducer | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Clients:
    """How to reach Kafka. ``connection``: what every aiokafka client takes; ``topic``: the full name of a topic."""

    connection: dict[str, Any]
    group_id: str
    topic: Callable[[str], str]
    exactly_once: bool = True
    compression: str | None = "lz4"
    session_timeout: float = 10.0
    group_instance_id: str | None = None
    _shared: _Shared = field(default_factory=_Shared, init=False, repr=False)

    async def start_producer(self, partition: int | str) -> AIOKafkaProducer:
        """The producer of a partition, to be given back to ``close``.

        In ``exactly_once`` it is the partition's own: its transactional id is what fences a former owner. Raises
        ``NoTransactionsError`` where the broker has none. In ``at_least_once`` all partitions have the same one, which
        writes in one request what they write at a time; it does without idempotence if need be.
        """
        if self.exactly_once:
            return await self._start_transactional(partition)
        async with self._shared.lock:
            if self._shared.producer is None:
                self._shared.producer = await self._start_plain()
            return self._shared.producer

    async def _start_transactional(self, partition: int | str) -> AIOKafkaProducer:
        transactional_id = f"{self.group_id}-{partition}"
        try:
            return await self._started(
                transactional_id=transactional_id, transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS
            )
        except _WITHOUT as error:
            raise NoTransactionsError(type(error).__name__) from error

    async def _start_plain(self) -> AIOKafkaProducer:
        try:
            return await self._started(enable_idempotence=True)
        except _WITHOUT:
            return await self._started()

    async def _started(self, **kind: Any) -> AIOKafkaProducer:
        producer = self._producer(**kind)
        try:
            await bounded(producer.start())
        except BaseException:
            await _stop(producer)
            raise
        return producer

    def _producer(self, **kind: Any) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self.connection,
            **kind,
            acks="all",
            compression_type=self.compression,
            max_batch_size=1024 * 1024,
            max_request_size=MAX_REQUEST,
        )

    async def close(self, producer: AIOKafkaProducer) -> None:
        """Stop a producer.

        The one that all partitions share is stopped for all of them: who still writes then fails, and opens anew. Were
        it kept for the others, what a partition gave up could still be written after the partition was read again.
        """
        if self.exactly_once:
            await _stop(producer)
            return
        async with self._shared.lock:
            if producer is self._shared.producer:
                self._shared.producer = None
                await _stop(producer)

    def group_consumer(self) -> AIOKafkaConsumer:
        """The inbox's consumer. It commits nothing itself: offsets go along with the steps."""
        timeout = int(self.session_timeout * 1000)
        return AIOKafkaConsumer(
            **self.connection,
            group_id=self.group_id,
            group_instance_id=self.group_instance_id,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            session_timeout_ms=timeout,
            heartbeat_interval_ms=min(3000, timeout // 6),
            rebalance_timeout_ms=timeout,
        )

    async def read_whole(self, partition: TopicPartition) -> AsyncIterator[ConsumerRecord]:
        """Every committed record of a partition, up to its end as it is now."""
        async for messages, whole in self.follow(partition):
            for message in messages:
                yield message
            if whole:
                return

    async def follow(self, partition: TopicPartition) -> AsyncIterator[tuple[list[ConsumerRecord], bool]]:
        """Committed records from the beginning, for ever; with each batch, whether the end (as it was) has been
        reached."""
        consumer = reader(self.connection)
        try:
            await bounded(consumer.start())
            consumer.assign([partition])
            # Before anything that waits for the first fetch to be sent: what comes after it waits until it is answered,
            # which where there is nothing to read is half a second.
            end = (await bounded(consumer.end_offsets([partition])))[partition]
            whole = end == 0 or await bounded(consumer.position(partition)) >= end
            yield [], whole
            messages: list[ConsumerRecord] = []
            while True:
                # After messages there may be a transaction's end, which only another call reads: one that would wait.
                wait = 0 if messages else 500
                messages = (await consumer.getmany(partition, timeout_ms=wait)).get(partition, [])
                # Tansu's end_offsets is too low, but what a fetch brings along is right.
                end = max(end, (not whole and consumer.last_stable_offset(partition)) or 0)
                whole = whole or await bounded(consumer.position(partition)) >= end
                yield messages, whole
        finally:
            await ended(consumer.stop(), _STOP_DEADLINE)

    async def committed(self, partition: TopicPartition) -> tuple[int | None, str]:
        """The group's committed offset (None: none) and its metadata, which ``consumer.committed()`` would drop.

        Raises ``KafkaError`` also where the coordinator is not ready: aiokafka overlooks the error of the whole answer
        (KIP-88), and an answer without our partition would look as if nothing had ever been committed.
        """
        admin = AIOKafkaAdminClient(**self.connection)
        await bounded(admin.start())
        try:
            found = await bounded(admin.list_consumer_group_offsets(self.group_id, partitions=[partition]))
        finally:
            await ended(admin.close(), _STOP_DEADLINE)
        if partition not in found:
            raise GroupCoordinatorNotAvailableError(f"the offset of {partition} was not told")
        offset, metadata = found[partition]
        return (None, "") if offset < 0 else (offset, metadata)
