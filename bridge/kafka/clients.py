"""aiokafka's clients, all built in the same way, and the producers of partitions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    UnknownError,
    UnsupportedVersionError,
)
from aiokafka.structs import TopicPartition

from bridge.kafka import connection as _  # noqa: F401 - makes its connections those of aiokafka's clients
from bridge.kafka import internals
from bridge.kafka.errors import KafkaUnavailableError, NoTransactionsError
from bridge.kafka.lifecycle import connected, stop_quietly, why_unavailable, with_deadline
from bridge.kafka.limits import Limits
from bridge.kafka.login import login_of
from bridge.settings import KafkaSettings, TopicsSettings

ASSIGNOR: str = StickyPartitionAssignor.name
"""How the group's members agree upon their partitions."""
_TRANSACTION_TIMEOUT_MS = 20_000
_MAX_REQUEST = 16 * 1024 * 1024
MAX_BATCH_BYTES = 900_000
"""The size of a batch, which every topic must accept: less than the 1 MB that managed services allow. A larger record
is sent alone."""
_LIFE: dict[str, Any] = {
    "connections_max_idle_ms": 180_000,
    "metadata_max_age_ms": 180_000,
    "request_timeout_ms": 10_000,
}
"""Many firewalls silently drop a connection after 4 minutes without traffic. An unanswered request closes its
connection well within our own deadlines."""
_NOT_SUPPORTED = (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion)
"""The answers of a broker without transactions, or without idempotence."""


def login_arguments(connection: Mapping[str, Any]) -> dict[str, Any]:
    """aiokafka's arguments for a connection, in place of ``login``. Raises ``LoginError``."""
    arguments = dict(connection)
    login = arguments.pop("login", None)
    return arguments if login is None else arguments | login_of(login).arguments()


def _client_arguments(connection: Mapping[str, Any]) -> dict[str, Any]:
    return _LIFE | login_arguments(connection)


def new_reader(connection: Mapping[str, Any]) -> AIOKafkaConsumer:
    """A consumer outside any group that reads committed records, from the beginning unless a position is set."""
    return AIOKafkaConsumer(
        **_client_arguments(connection),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=_MAX_REQUEST,
    )


def new_producer(connection: Mapping[str, Any], **kind: Any) -> AIOKafkaProducer:
    """A producer that waits for all replicas; ``kind``: further arguments of aiokafka's."""
    internals.compress_quickly()
    return AIOKafkaProducer(**_client_arguments(connection), **kind, acks="all", max_request_size=_MAX_REQUEST)


@asynccontextmanager
async def open_admin(connection: Mapping[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client, started. Raises ``KafkaUnavailableError``."""
    async with connected(AIOKafkaAdminClient(**_client_arguments(connection))) as admin:
        yield admin


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stops a producer, and aborts its transaction first, or readers would wait for its time-out."""
    if internals.is_in_transaction(producer):
        await stop_quietly(producer.abort_transaction())
    await stop_quietly(producer.stop())
    await stop_quietly(internals.abandon(producer))


@dataclass(slots=True)
class Clients:
    """How to reach Kafka. ``connection``: the arguments of every aiokafka client; ``topic``: the full name of a topic;
    ``limits``: the sizes that the topics accept, once they have been read.
    """

    connection: dict[str, Any]
    group_id: str
    topic: Callable[[str], str]
    exactly_once: bool = True
    compression: str | None = "gzip"
    session_timeout: float = 10.0
    group_instance_id: str | None = None
    limits: Limits = field(default_factory=Limits)
    _shared: AIOKafkaProducer | None = field(default=None, init=False, repr=False)
    """The producer of all partitions in ``at_least_once``."""
    _shared_changes: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)
    """Held while it starts or stops."""

    @classmethod
    def of(cls, kafka: KafkaSettings, topics: TopicsSettings) -> "Clients":
        return cls(
            connection=kafka.client_arguments(),
            group_id=kafka.group_id,
            topic=topics.name,
            exactly_once=kafka.delivery == "exactly_once",
            compression=kafka.compression_type,
            session_timeout=kafka.session_timeout,
            group_instance_id=kafka.group_instance_id,
            limits=Limits(kafka.compression_type),
        )

    @property
    def member_client_id(self) -> str:
        """The client id of the group's members: others in the group are strangers."""
        return f"asm-bridge-{self.topic('inject')}"

    async def start_producer(self, partition: int | str) -> AIOKafkaProducer:
        """Starts the producer of a partition, to be given back to ``close``.

        In ``exactly_once`` it is the partition's own: its transactional id fences a former owner. Raises
        ``NoTransactionsError`` where the broker has none. In ``at_least_once`` all partitions share one, which writes
        in one request what they write at the same time; it is idempotent if the broker supports that.
        """
        if self.exactly_once:
            return await self._start_transactional(partition)
        async with self._shared_changes:
            if self._shared is None:
                try:
                    self._shared = await self._started(enable_idempotence=True)
                except _NOT_SUPPORTED:
                    self._shared = await self._started()
            return self._shared

    @asynccontextmanager
    async def trial_producer(self, purpose: int | str = "check") -> AsyncIterator[AIOKafkaProducer]:
        """A separate transactional producer that writes nothing; its open transaction is aborted at the end. It fences
        another producer for the same ``purpose``. Raises as ``start_producer`` does in ``exactly_once``."""
        producer = await self._start_transactional(purpose)
        try:
            yield producer
        finally:
            await _stop(producer)

    async def _start_transactional(self, partition: int | str) -> AIOKafkaProducer:
        name = f"{self.group_id}-{partition}"
        try:
            return await self._started(transactional_id=name, transaction_timeout_ms=_TRANSACTION_TIMEOUT_MS)
        except _NOT_SUPPORTED as error:
            raise NoTransactionsError(type(error).__name__) from error

    async def _started(self, **kind: Any) -> AIOKafkaProducer:
        producer = new_producer(
            self.connection, **kind, compression_type=self.compression, max_batch_size=MAX_BATCH_BYTES
        )
        try:
            await with_deadline(producer.start())
        except BaseException as error:
            await _stop(producer)
            if isinstance(error, KafkaConnectionError):
                raise KafkaUnavailableError(why_unavailable(producer, error)) from error
            raise
        return producer

    async def close(self, producer: AIOKafkaProducer) -> None:
        """Stops a producer.

        The one that all partitions share is stopped for all of them: those that still write fail, and open again. If it
        were kept for the others, records that one partition has given up could still be written after that partition
        was read again.
        """
        if self.exactly_once:
            await _stop(producer)
            return
        async with self._shared_changes:
            if producer is self._shared:
                self._shared = None
                await _stop(producer)

    def group_consumer(self) -> AIOKafkaConsumer:
        """The inbox's consumer. It commits nothing itself, since offsets are committed with the steps."""
        timeout = int(self.session_timeout * 1000)
        arguments = _client_arguments(self.connection)
        # A connection that has died must be noticed before the group has lost us.
        arguments["request_timeout_ms"] = min(arguments["request_timeout_ms"], max(timeout // 2, 1000))
        return AIOKafkaConsumer(
            **arguments,
            client_id=self.member_client_id,
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

    async def committed(self, topic_partition: tuple[str, int]) -> tuple[int | None, str]:
        """The group's committed offset (None: none) and its metadata, which ``consumer.committed()`` would drop.

        ``topic_partition``: the topic's full name, and the number.

        Raises ``KafkaError`` also where the coordinator is not ready: aiokafka overlooks the error of the whole answer
        (KIP-88), and an answer without our partition would look as if nothing had ever been committed.
        """
        partition = TopicPartition(*topic_partition)
        async with open_admin(self.connection) as admin:
            found = await with_deadline(admin.list_consumer_group_offsets(self.group_id, partitions=[partition]))
        if partition not in found:
            raise GroupCoordinatorNotAvailableError(f"the offset of {partition} is missing in the answer")
        offset, metadata = found[partition]
        return (None, "") if offset < 0 else (offset, metadata)
