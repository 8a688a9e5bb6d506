"""Reading topics outside of any group: from their beginning to their end, or from now on."""

import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import ConsumerStoppedError, TopicAuthorizationFailedError
from aiokafka.structs import ConsumerRecord, TopicPartition

from bridge.kafka import internals
from bridge.kafka.clients import new_reader
from bridge.kafka.errors import HeldBackError, KafkaError, UnreadableRecordsError
from bridge.kafka.lifecycle import CALL_DEADLINE, connected, with_deadline
from bridge.kafka.stable_offsets import StableOffsets, held_back, name_of

_DEADLINE_MS = int(CALL_DEADLINE * 1000)


async def fetch_records(consumer: AIOKafkaConsumer, timeout_ms: int) -> dict[TopicPartition, list[ConsumerRecord]]:
    """A consumer's next records by partition; none if none comes within the time. Raises ``KafkaError`` only, and
    ``ConsumerStoppedError``."""
    try:
        records: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(timeout_ms=timeout_ms)
    except (KafkaError, ConsumerStoppedError):
        raise
    except Exception as error:  # a record whose bytes aiokafka cannot handle must not end the process
        raise UnreadableRecordsError(repr(error)) from error
    return records


class Reader:
    """Reads the committed records of some partitions."""

    def __init__(self, consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> None:
        self._consumer = consumer
        self._unread = {partition: end for partition, end in ends.items() if end > 0}
        self._positions: dict[TopicPartition, int] = {}
        self._fetched = False
        self.begins: dict[TopicPartition, int] = {}
        """The first offset of each partition that has an end."""
        self._silent_for = 0.0
        self._answers: list[int | None] = []
        self._answered_at = time.monotonic()

    @property
    def at_end(self) -> bool:
        """Whether every record that was there when the reader was opened has been fetched."""
        return not self._unread

    async def fetch(self, timeout: float = 0.5) -> list[ConsumerRecord]:
        """The next records, those of each partition in order; none if none comes within ``timeout`` seconds.

        Raises ``KafkaError``, ``HeldBackError`` among them where a transaction is open before the end for 30 s, and
        ``TimeoutError`` where the end has not been reached and nothing comes for 30 s.
        """
        # After records there may be the end of a transaction, which only another call reads: one that would wait.
        wait = 0 if self._fetched else int(timeout * 1000)
        begin = time.monotonic()
        found = await fetch_records(self._consumer, wait)
        self._fetched = bool(found)
        await self.look_for_end(time.monotonic() - begin)
        return [record for records in found.values() for record in records]

    def check_answered(self) -> None:
        """To be called after each fetch. Raises ``TimeoutError`` if no fetch has been answered for 30 s: aiokafka's
        consumer tries again silently, and only at the addresses that the brokers had; another one asks the bootstrap
        servers where they are now."""
        now = time.monotonic()
        answers = [self._consumer.last_poll_timestamp(partition) for partition in self._consumer.assignment()]
        if answers != self._answers:
            self._answers, self._answered_at = answers, now
        elif now - self._answered_at > CALL_DEADLINE:
            raise TimeoutError(f"no answer from Kafka for {now - self._answered_at:.0f} s")

    def watch(self, stable: StableOffsets) -> None:
        """Updates ``stable`` with the offsets of the last fetch."""
        stable.look(self._consumer)

    async def look_for_end(self, waited: float = 0.0) -> None:
        """Updates ``at_end``, after a fetch that took ``waited`` seconds. Raises as ``fetch`` does."""
        if not self._unread:
            return
        positions = {partition: await with_deadline(self._consumer.position(partition)) for partition in self._unread}
        self._silent_for = self._silent_for + waited if positions == self._positions else 0.0
        self._positions = positions
        self.begins = positions | self.begins
        if self._silent_for > CALL_DEADLINE:
            self._raise_held_back()
            raise TimeoutError(f"no record of {', '.join(map(name_of, self._unread))} came within {CALL_DEADLINE:g} s")
        for partition, position in positions.items():
            # Tansu's end_offsets is too low, but the offset in its fetch responses is right.
            end = max(self._unread[partition], self._consumer.last_stable_offset(partition) or 0)
            self._unread[partition] = end
            if position >= end:
                del self._unread[partition]

    def _raise_held_back(self) -> None:
        for partition, end in self._unread.items():
            stable = self._consumer.last_stable_offset(partition)
            if stable is not None and 0 <= stable < end:
                raise HeldBackError(held_back(partition, stable, time.time() - self._silent_for))


@asynccontextmanager
async def open_reader(
    connection: Mapping[str, Any], partitions: Iterable[tuple[str, int]], *, from_end: bool = False
) -> AsyncIterator[Reader]:
    """A reader of these partitions (topic's full name and number), from their beginning or, with ``from_end``, from now
    on.

    ``connection``: the arguments of every aiokafka client. Raises ``KafkaUnavailableError``, ``KafkaError``,
    ``TimeoutError``.
    """
    consumer = new_reader(connection)
    async with connected(consumer):
        assigned = [TopicPartition(*partition) for partition in partitions]
        consumer.assign(assigned)
        # Before the first fetch is sent: later requests wait for its answer, which takes half a second if there is
        # nothing to read.
        if from_end:
            for partition, end in (await with_deadline(consumer.end_offsets(assigned))).items():
                consumer.seek(partition, end)
        # Not the last stable offset: records behind an open transaction count as written.
        try:
            ends = {} if from_end else await internals.high_watermarks(consumer, assigned, _DEADLINE_MS)
        except TopicAuthorizationFailedError as error:  # aiokafka does not say of which
            raise TopicAuthorizationFailedError({partition.topic for partition in assigned}) from error
        reader = Reader(consumer, ends)
        await reader.look_for_end()
        yield reader


async def read_to_end(
    connection: Mapping[str, Any],
    partitions: Iterable[tuple[str, int]],
    begins: dict[TopicPartition, int] | None = None,
) -> AsyncIterator[ConsumerRecord]:
    """Every committed record of these partitions up to their end as it is now, open transactions included, which are
    waited for; those of a partition in order. ``begins`` is given the first offset of each partition.

    Raises as ``open_reader`` and ``Reader.fetch`` do.
    """
    async with open_reader(connection, partitions) as reader:
        if begins is not None:
            begins |= reader.begins
        while not reader.at_end:
            for record in await reader.fetch():
                yield record
