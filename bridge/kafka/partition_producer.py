"""The producer of a partition: it fences the former owner, and writes records in batches."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, TopicAuthorizationFailedError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from bridge.kafka import internals
from bridge.kafka.clients import MAX_BATCH_BYTES, Clients
from bridge.kafka.connection import unreachable
from bridge.kafka.errors import (
    EXPECTED_ERRORS,
    REFUSED_RECORDS,
    InvalidTimestampError,
    RefusedRecordsError,
    advised,
)
from bridge.kafka.kafka_clock import Reading, read_clock, reading_of
from bridge.kafka.lifecycle import with_deadline
from bridge.kafka.outgoing import Outgoing

_CLOCK_DEADLINE = 1.0


class _Sent(NamedTuple):
    """A batch, ``part`` of what is ``there`` for its partition of ``topic``, which has its full name."""

    topic: str
    there: list[Outgoing]
    part: list[Outgoing]


class PartitionProducer:
    """Every method raises ``KafkaError``; after that, only ``close`` may be called, or ``restart``."""

    def __init__(self, clients: Clients, producer: AIOKafkaProducer, partition: int) -> None:
        self._clients = clients
        self._partition = partition
        self._producer: AIOKafkaProducer
        self._first_error: BaseException | None
        self._sending_to: str | None
        self._began = 0.0
        self._acks: dict[asyncio.Future[Any], _Sent] = {}
        self._use(producer)

    @classmethod
    async def start(cls, clients: Clients, partition: int) -> "PartitionProducer":
        """Starts the producer; in ``exactly_once`` this fences every former owner. Raises ``NoTransactionsError``."""
        kind = PartitionProducer if clients.exactly_once else PlainProducer
        return kind(clients, await clients.start_producer(partition), partition)

    async def begin(self) -> None:
        self._began = time.monotonic()
        await self._producer.begin_transaction()

    async def commit(self) -> None:
        with self._named():
            await self._producer.commit_transaction()

    async def read_clock(self) -> Reading | None:
        """Kafka's clock, from the transaction that is open, or None. A failure fails nothing else."""
        try:
            return await with_deadline(reading_of(self._producer, self._began), _CLOCK_DEADLINE)
        except (KafkaError, TimeoutError):
            return None

    def add_topics(self, topics: Iterable[str]) -> None:
        """Lets the transaction fail at its commit unless it may write to our partition of these topics, to which
        nothing is written."""
        for topic in topics:
            internals.add_to_transaction(self._producer, TopicPartition(self._clients.topic(topic), self._partition))

    @property
    def unanswered(self) -> str | None:
        """What Kafka has not answered about, or has answered with an error that is tried again; and the brokers to
        which there is no connection."""
        waiting = {sent.topic for ack, sent in self._acks.items() if not ack.done() or ack.cancelled()}
        waiting |= {self._sending_to} if self._sending_to else internals.awaited_topics(self._producer)
        named = []
        for topic in sorted(waiting):
            error = internals.last_error(self._producer, topic)
            named.append(f"{topic} ({advised(error)})" if error else topic)
        gone = unreachable()
        if not named:
            return gone
        return f"no answer from Kafka about {', '.join(named)}{f' ({gone})' if gone else ''}"

    async def add_offset(self, offset: int, metadata: str) -> None:
        """Commits the inbox's offset with the transaction."""
        inbox = TopicPartition(self._clients.topic("inject"), self._partition)
        try:
            with self._named():
                await self._producer.send_offsets_to_transaction(
                    {inbox: OffsetAndMetadata(offset, metadata)}, self._clients.group_id
                )
        except TopicAuthorizationFailedError as error:
            if error.args:  # the first error of the transaction, which names its topics
                raise
            denied = TopicAuthorizationFailedError(inbox.topic)
            denied.verb = "read"  # this is the right that a commit of offsets needs
            raise denied from error

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Sends messages and waits for every acknowledgement: a commit would succeed without a record that failed.
        Raises ``RefusedRecordsError`` with the messages of the topic that refused one.

        A batch for each partition that is written to, or more of them where they are large: one message a ``send()``
        costs aiokafka several times as much.
        """
        by_partition: dict[tuple[str, int], list[Outgoing]] = {}
        for m in messages:
            partition = self._partition if m.partition is None else m.partition
            by_partition.setdefault((m.topic, partition), []).append(m)
        acks = self._acks = {}
        with self._named():
            try:
                for (topic, partition), there in by_partition.items():
                    self._sending_to = self._clients.topic(topic)
                    ack: asyncio.Future[Any] | None = None
                    for batch, part in self._batches(there, self._clients.limits[topic]):
                        if ack is not None:
                            await ack  # Kafka may take what comes after a batch that it refuses
                        ack = await self._producer.send_batch(batch, self._sending_to, partition=partition)
                        acks[ack] = _Sent(self._sending_to, there, part)
                self._sending_to = None
                await asyncio.gather(*acks)
            except REFUSED_RECORDS as error:
                sent = next(sent for ack, sent in acks.items() if ack.done() and ack.exception() is error)
                raise RefusedRecordsError(sent.topic, type(error).__name__, sent.there) from error

    async def takes(self, messages: Sequence[Outgoing], at: float) -> bool:
        """Whether Kafka accepts these messages together. ``at``: the present time (seconds since 1970)."""
        try:
            await with_deadline(self.try_out(messages, at))
        except RefusedRecordsError:
            await self.restart()
            return False
        return True

    async def takes_canary(self, canary: Outgoing, at: float) -> bool | None:
        """Whether Kafka takes a message that is not to be written; None if that cannot be tried."""
        return await self.takes([canary], at)

    async def try_out(self, messages: Sequence[Outgoing], at: float) -> None:
        """Sends messages in a transaction that is aborted, so that no reader of what is committed sees them: with the
        time ``at``, as a trial may come long after them. Raises ``RefusedRecordsError``."""
        await self.begin()
        await self.send([m._replace(timestamp=round(at * 1000)) for m in messages])
        with self._named():
            await self._producer.abort_transaction()

    async def restart(self) -> None:
        """Continues after a refusal: Kafka accepts no batch after one that it refused, because the numbers of its
        records would be missing. Fences an owner that has taken over in between."""
        await self.close()
        self._use(await self._clients.start_producer(self._partition))

    def _use(self, producer: AIOKafkaProducer) -> None:
        self._producer, self._first_error, self._sending_to, self._acks = producer, None, None, {}
        self.started_at = time.monotonic()
        internals.on_transaction_error(producer, self._note)

    async def close(self) -> None:
        """Closes the producer; records that were not committed are dropped."""
        await self._clients.close(self._producer)

    def _note(self, error: BaseException) -> None:
        self._first_error = self._first_error or error

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Raises the first error of a transaction, not a consequence of it, such as ``InvalidTxnState``. Where it has
        failed meanwhile aiokafka raises ``IllegalOperation``, which is not a ``KafkaError``."""
        try:
            yield
        except (KafkaError, IllegalOperation) as error:
            if isinstance(self._first_error, KafkaError) and self._first_error is not error:
                raise self._first_error from error
            if isinstance(error, KafkaError):
                raise
            raise KafkaError(f"the transaction has failed: {error}") from error

    def _batches(self, messages: list[Outgoing], limit: int) -> Iterator[tuple[BatchBuilder, list[Outgoing]]]:
        """Batches with their messages. ``limit``: of a batch, if the topic accepts less than the producer collects."""
        batch, small, begin = self._producer.create_batch(), limit < MAX_BATCH_BYTES, 0
        for number, m in enumerate(messages):
            full = small and batch.record_count() and batch.size() + len(m.value or b"") > limit
            if full or _add(batch, m) is None:
                yield batch, messages[begin:number]
                batch, begin = self._producer.create_batch(), number
                _add(batch, m)
        yield batch, messages[begin:]


class PlainProducer(PartitionProducer):
    """Without transactions: what Kafka takes is written for good, and is not written again until ``commit``.

    A batch that Kafka refuses changes nothing for the producer, which all partitions share.
    """

    def __init__(self, clients: Clients, producer: AIOKafkaProducer, partition: int) -> None:
        super().__init__(clients, producer, partition)
        self._written: dict[int, Outgoing] = {}
        """By ``id()``; they are kept, so that no other message has that id."""
        self._intact = False
        """Whether nothing of ours is left in the producer, and it works."""

    async def send(self, messages: Sequence[Outgoing]) -> None:
        """Writes those that were not written yet, in order: nothing of a partition after a batch that is refused.
        Raises ``RefusedRecordsError`` with those that the refusing partition still lacks."""
        missing = [m for m in messages if id(m) not in self._written] if self._written else messages
        self._intact = False
        try:
            await super().send(missing)
        except RefusedRecordsError as error:
            await asyncio.wait(self._acks)
            self._intact = True
            taken = [m for ack, sent in self._acks.items() if ack.exception() is None for m in sent.part]
            self._written |= {id(m): m for m in taken}
            left = [m for m in error.messages if id(m) not in self._written]
            raise RefusedRecordsError(error.topic, error.why, left) from error.__cause__
        self._written |= {id(m): m for m in missing}

    async def takes(self, messages: Sequence[Outgoing], at: float) -> bool:
        """Whether Kafka takes these messages, with their own times: those that it takes are written. Raises
        ``RefusedRecordsError`` where a time is refused."""
        try:
            await with_deadline(self.send(messages))
        except RefusedRecordsError as error:
            if isinstance(error.__cause__, InvalidTimestampError):
                raise
            return False
        return True

    async def takes_canary(self, canary: Outgoing, at: float) -> bool | None:
        """Tried in a transaction, where the broker has them and the login may use them."""
        try:
            async with self._clients.trial_producer(self._partition) as producer:
                trial = PartitionProducer(self._clients, producer, self._partition)
                await with_deadline(trial.try_out([canary], at))
        except RefusedRecordsError:
            return False
        except EXPECTED_ERRORS:
            return None
        return True

    async def read_clock(self) -> Reading | None:
        with contextlib.suppress(KafkaError):
            return await read_clock(self._clients)
        return None

    async def commit(self) -> None:
        """Forgets what was written."""
        self._written = {}

    async def restart(self) -> None:
        """Nothing is needed after a refusal."""

    async def close(self) -> None:
        """Closes the producer for all partitions, unless a refusal is the only failure."""
        if not self._intact:
            await super().close()


def _add(batch: BatchBuilder, m: Outgoing) -> object | None:
    return cast("object | None", batch.append(timestamp=m.timestamp, key=m.key, value=m.value, headers=m.headers))
