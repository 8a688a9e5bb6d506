"""Membership in the consumer group of the inbox: the owned partitions, and their records."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from bridge.kafka import internals
from bridge.kafka.clients import Clients
from bridge.kafka.errors import TWIN, KafkaUnavailableError, describe
from bridge.kafka.fetch_by_id import FetchById
from bridge.kafka.lifecycle import network_fault, started, stop_quietly, why_unavailable, with_deadline
from bridge.kafka.reading import fetch_records
from bridge.kafka.stable_offsets import Release, StableOffsets
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_UNSEEN = 5.0
"""Seconds without any partition of the inbox after which a new member, which looks at once, replaces this one."""
_UNCONFIRMED = 3
"""Session time-outs without an answered heartbeat after which a new member, with new clients, replaces this one."""
_TWIN_FOR = 60.0
"""Seconds for which a twin, which is seen only when it takes the membership over, is the reason."""


class ConsumerGroupMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """Membership in the consumer group.

    ``revoke`` is awaited before the partitions may go to another member; ``assign(partitions, kept)`` must not wait:
    ``kept`` says that no other member can have owned them in between. ``deliver(partition, records)`` gets the records
    of one partition, in order.
    """

    def __init__(
        self,
        clients: Clients,
        revoke: Callable[[], Awaitable[None]],
        assign: Callable[[set[int], bool], None],
        deliver: Callable[[int, Sequence[ConsumerRecord]], None],
    ) -> None:
        self._topic = clients.topic("inject")
        self._session_timeout = clients.session_timeout
        self._instance_id = clients.group_instance_id
        self._replaced_at = float("-inf")
        self._consumer = clients.group_consumer()
        self._revoke = revoke
        self._assign = assign
        self._deliver = deliver
        self._generation = -1
        self._rejoins = False
        """Whether to join again: see ``rejoin``."""
        self._ids: dict[TopicPartition, bytes] = {}
        """By partition: the id of the inbox that it is read from."""
        self._renewed_after = _UNCONFIRMED * clients.session_timeout
        self._started_at = self._seen_at = time.monotonic()
        self.confirmed_at = float("-inf")
        """When the last heartbeat that Kafka has answered was sent (monotonic seconds)."""
        self.problem: str | None = None
        """Why the inbox cannot be read, or the group not be joined."""
        self._heartbeat = asyncio.Condition()
        self.is_member = False
        self.stable = StableOffsets()

    async def start(self) -> None:
        await started(self._consumer)
        internals.on_heartbeat(self._consumer, self._confirm, self._unknown)
        self._ids = internals.fetch_with(self._consumer, FetchById).ids
        self._consumer.subscribe([self._topic], listener=self)

    async def run(self) -> None:
        """Delivers records until stopped, and waits out transient errors of Kafka. Raises ``KafkaError`` when the
        membership is lost for good, or has not been confirmed for three session time-outs.
        """
        failures = RepeatFilter()
        while True:
            try:
                found = await fetch_records(self._consumer, 1000)
                self.stable.look(self._consumer)  # before its owner asks for the releases
                for partition, messages in found.items():
                    self._deliver(partition.partition, messages)
                self.problem = self._unseen() or self._refused() or self._twin()
                if self._rejoins and self.is_member:
                    self._rejoins = False
                    internals.rejoin(self._consumer)
            except ConsumerStoppedError:
                return
            except KafkaError as error:
                if internals.has_left_for_good(self._consumer):
                    raise
                self.problem = describe(error, "read")
                METRICS.kafka_errors.labels("inbox").inc()
                if failures.is_new(error):
                    log.warning("inbox.read_failed", error=error)
                await asyncio.sleep(1)
            if (unseen := self._unseen()) is not None and time.monotonic() - self._seen_at > _UNSEEN:
                raise KafkaUnavailableError(unseen)
            silent = time.monotonic() - max(self._started_at, self.confirmed_at)
            if silent > self._renewed_after:
                why = self.problem or why_unavailable(self._consumer)
                raise KafkaUnavailableError(f"no heartbeat was answered for {silent:.0f} s: {why}")

    def _unseen(self) -> str | None:
        """What is wrong if the consumer knows of no partition of the inbox; it would look again only after minutes."""
        if not self.is_member or self._consumer.partitions_for_topic(self._topic):
            self._seen_at = time.monotonic()
            return None
        return f"{self._topic} does not exist, or this client is not authorised to describe it"

    def _refused(self) -> str | None:
        """Why the login prevents a connection, or None; the consumer itself waits silently. If one of several brokers
        is down, it continues with the others.
        """
        login = internals.login(self._consumer)
        if login is None or login.failure is None or network_fault(login.failure) is not None:
            return None
        return why_unavailable(self._consumer)

    def _twin(self) -> str | None:
        """What is wrong if another process has replaced this one in the group, which they do in turn."""
        replaced = time.monotonic() - self._replaced_at < _TWIN_FOR
        return TWIN.format(self._instance_id) if replaced else None

    async def stop(self) -> None:
        self.stable.clear()
        await stop_quietly(self._consumer.stop())

    def rejoin(self) -> None:
        """Lets the consumer look now which partitions the inbox has, and join again. The member that leads the group
        must do so, and need not know that it does: Kafka gives a static member that has started again its former
        assignment, and does not say that it is the leader (KIP-814)."""
        internals.refresh_metadata(self._consumer)
        self._rejoins = True

    # -- for the owner of a partition

    def read_from(self, partition: int, offset: int, inbox: str | None) -> None:
        """Starts or resumes the delivery of a partition's records: those of the inbox with this id, if it is known."""
        self._ids.pop(self._tp(partition), None)
        if inbox is not None:
            self._ids[self._tp(partition)] = bytes.fromhex(inbox)
        with contextlib.suppress(KafkaError):  # lost at this moment: the next assignment follows
            self._consumer.seek(self._tp(partition), offset)
            self._consumer.resume(self._tp(partition))

    def pause(self, partition: int) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.pause(self._tp(partition))

    def resume(self, partition: int) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.resume(self._tp(partition))

    def releases(self, partition: int) -> Sequence[Release]:
        """The ends of transactions that held the partition's records back; see ``StableOffsets``."""
        return self.stable.releases(self._tp(partition))

    async def end_offset(self, partition: int) -> int:
        tp = self._tp(partition)
        return int((await with_deadline(self._consumer.end_offsets([tp])))[tp])

    async def bounds(self, partition: int) -> tuple[int, int]:
        """The first offset that the inbox still has, and its end."""
        tp = self._tp(partition)
        begin = await with_deadline(self._consumer.beginning_offsets([tp]))
        return int(begin[tp]), await self.end_offset(partition)

    async def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Commits the inbox's offset outside of any transaction."""
        await self._consumer.commit({self._tp(partition): OffsetAndMetadata(offset, metadata)})

    def is_current(self) -> bool:
        """Whether Kafka has answered a heartbeat within the session time-out; otherwise another member may own the
        partitions.
        """
        return time.monotonic() - self.confirmed_at < self._session_timeout

    async def next_heartbeat(self, since: float | None = None) -> None:
        """Waits for a heartbeat that is sent after now, or after ``since`` (monotonic seconds), and answered, because
        an owner that was fenced may have lost its partitions.
        """
        since = time.monotonic() if since is None else since
        async with self._heartbeat:
            await self._heartbeat.wait_for(lambda: self.confirmed_at > since)

    # -- called by aiokafka

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.is_member = False
        METRICS.rebalances.inc()
        await self._revoke()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for partition in assigned:
            self._consumer.seek(partition, 0)  # a fetch that has begun already is thrown away
        generation = internals.generation(self._consumer)
        if self._generation < 0 and not assigned:
            self.rejoin()  # a static member's former assignment may date from a time without an inbox
        kept, self._generation = generation == self._generation + 1, generation
        self.is_member = True
        self._assign({partition.partition for partition in assigned}, kept)
        await self._confirm(time.monotonic())

    def _unknown(self) -> None:
        """Kafka does not know this member any more. A static one, whose session has not ended, was replaced."""
        if self._instance_id is not None and self.is_current():
            self._replaced_at = time.monotonic()

    async def _confirm(self, at: float) -> None:
        async with self._heartbeat:
            self.confirmed_at = at
            self._heartbeat.notify_all()

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)
