"""The consumer group over the inbox: who owns which partition, and the records of those that are owned."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import ConsumerStoppedError, KafkaError
from aiokafka.structs import ConsumerRecord, OffsetAndMetadata, TopicPartition

from bridge.kafka.clients import Clients, bounded, ended
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_HEARTBEAT_WAIT = 60.0


class ConsumerGroupMember(ConsumerRebalanceListener):  # type: ignore[misc]
    """Membership in the consumer group.

    ``revoke`` is awaited before the partitions may go to somebody else; ``assign(partitions, kept)`` must not wait:
    ``kept`` says
    that no other member can have had them in between. ``deliver(records)`` gets the records of one partition, in order.
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
        self._consumer = clients.group_consumer()
        self._revoke = revoke
        self._assign = assign
        self._deliver = deliver
        self._generation = -1
        self._confirmed_at = float("-inf")
        self._confirmed = asyncio.Condition()
        self.joined = False

    async def start(self) -> None:
        await bounded(self._consumer.start())
        self._wrap_heartbeat()
        self._consumer.subscribe([self._topic], listener=self)

    async def run(self) -> None:
        """Hand out records until stopped. Kafka's passing errors are waited out; raises ``KafkaError`` where it is
        for good."""
        failures = RepeatFilter()
        while True:
            try:
                for partition, messages in (await self._consumer.getmany(timeout_ms=1000)).items():
                    self._deliver(partition.partition, messages)
            except ConsumerStoppedError:
                return
            except KafkaError as error:
                if self._consumer._coordinator._coordination_task.done():
                    raise
                METRICS.kafka_errors.labels("inbox").inc()
                if failures.is_new(error):
                    log.warning("inbox.read_failed", error=error)
                await asyncio.sleep(1)

    async def stop(self) -> None:
        await ended(self._consumer.stop())

    # -- for the owner of a partition

    def read_from(self, partition: int, offset: int) -> None:
        """Begin, or go on, to hand out the records of a partition."""
        with contextlib.suppress(KafkaError):  # lost in this moment: the next assignment will tell
            self._consumer.seek(self._tp(partition), offset)
            self._consumer.resume(self._tp(partition))

    def pause(self, partition: int) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.pause(self._tp(partition))

    def resume(self, partition: int) -> None:
        with contextlib.suppress(KafkaError):
            self._consumer.resume(self._tp(partition))

    async def end_offset(self, partition: int) -> int:
        tp = self._tp(partition)
        return int((await bounded(self._consumer.end_offsets([tp])))[tp])

    async def commit(self, partition: int, offset: int, metadata: str) -> None:
        """Commit the inbox's offset, outside of any transaction."""
        await self._consumer.commit({self._tp(partition): OffsetAndMetadata(offset, metadata)})

    def holds(self) -> bool:
        """Whether Kafka has confirmed the membership within the session time-out: else somebody else may own by now."""
        return time.monotonic() - self._confirmed_at < self._session_timeout

    async def confirmed(self) -> None:
        """Wait for a heartbeat that is sent and answered from now on: who was fenced may be no owner any more."""
        since = time.monotonic()
        async with self._confirmed:
            await self._confirmed.wait_for(lambda: self._confirmed_at > since)

    # -- called by aiokafka

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.joined = False
        METRICS.rebalances.inc()
        await self._revoke()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        for partition in assigned:
            self._consumer.seek(partition, 0)  # a fetch that has begun already is thrown away
        generation = self._consumer._coordinator.generation
        kept, self._generation = generation == self._generation + 1, generation
        self.joined = True
        self._assign({partition.partition for partition in assigned}, kept)
        await self._confirm(time.monotonic())

    def _wrap_heartbeat(self) -> None:
        """aiokafka tells nobody that a heartbeat was answered."""
        coordinator = self._consumer._coordinator
        heartbeat = coordinator._do_heartbeat

        async def confirming() -> bool:
            sent = time.monotonic()
            answered: bool = await heartbeat()
            if answered and not coordinator._rejoin_needed_fut.done():
                await self._confirm(sent)
            return answered

        coordinator._do_heartbeat = confirming

    async def _confirm(self, at: float) -> None:
        async with self._confirmed:
            self._confirmed_at = at
            self._confirmed.notify_all()

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)
