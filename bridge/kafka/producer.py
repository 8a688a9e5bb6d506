"""The producer of a partition: it fences the former owner, and writes records in batches."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Outgoing


class PartitionProducer:
    """Every method raises ``KafkaError``; after that, only ``close`` may be called."""

    def __init__(self, clients: Clients, producer: AIOKafkaProducer, partition: int) -> None:
        self._clients = clients
        self._producer = producer
        self._partition = partition

    @classmethod
    async def start(cls, clients: Clients, partition: int) -> "PartitionProducer":
        """In ``exactly_once`` no former owner can write to the partition any more. Raises ``NoTransactionsError``."""
        return cls(clients, await clients.start_producer(partition), partition)

    async def begin(self) -> None:
        await self._producer.begin_transaction()

    async def commit(self) -> None:
        await self._producer.commit_transaction()

    async def add_offset(self, offset: int, metadata: str) -> None:
        """Commit the inbox's offset with the transaction."""
        inbox = TopicPartition(self._clients.topic("inject"), self._partition)
        with _failed_transaction():
            await self._producer.send_offsets_to_transaction(
                {inbox: OffsetAndMetadata(offset, metadata)}, self._clients.group_id
            )

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Send, and wait for every acknowledgement: a commit would succeed without a record that failed.

        A batch for each partition that is written to, or more of them where they are large: one message a ``send()``
        costs aiokafka several times as much.
        """
        by_partition: dict[tuple[str, int], list[Outgoing]] = {}
        for m in messages:
            partition = self._partition if m.partition is None else m.partition
            by_partition.setdefault((m.topic, partition), []).append(m)
        acks: list[asyncio.Future[Any]] = []
        for (topic, partition), there in by_partition.items():
            for batch in self._batches(there):
                with _failed_transaction():
                    ack = await self._producer.send_batch(batch, self._clients.topic(topic), partition=partition)
                ack.add_done_callback(_retrieve)
                acks.append(ack)
        await asyncio.gather(*acks)

    async def close(self) -> None:
        """What was not committed is dropped."""
        await self._clients.close(self._producer)

    def _batches(self, messages: list[Outgoing]) -> Iterator[BatchBuilder]:
        batch = self._producer.create_batch()
        for m in messages:
            if _add(batch, m) is None:  # it is full
                yield batch
                batch = self._producer.create_batch()
                _add(batch, m)
        yield batch


@contextlib.contextmanager
def _failed_transaction() -> Iterator[None]:
    """Where a transaction has failed meanwhile, for one because another owner has fenced this one, aiokafka raises
    ``IllegalOperation``, which is not a ``KafkaError``."""
    try:
        yield
    except IllegalOperation as error:
        raise KafkaError(f"the transaction has failed: {error}") from error


def _add(batch: BatchBuilder, m: Outgoing) -> object | None:
    return cast("object | None", batch.append(timestamp=m.timestamp, key=m.key, value=m.value, headers=m.headers))


def _retrieve(ack: asyncio.Future[Any]) -> None:
    """The first of several failures is raised; asyncio would log the others as never retrieved."""
    if not ack.cancelled():
        ack.exception()
