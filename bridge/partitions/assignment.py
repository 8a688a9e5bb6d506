"""The partitions that this process owns: those that Kafka's consumer group assigns, each with its owner."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import structlog

from bridge.agents.injection import KafkaRecord
from bridge.agents.step import KnownOutcome
from bridge.kafka.errors import describe, stack_of
from bridge.kafka.group import ConsumerGroupMember
from bridge.kafka.partitioner import partition_for
from bridge.partitions.owner import Failures, PartitionOwner, Shared
from bridge.partitions.recovery import Remembered
from bridge.partitions.watcher import PartitionAgents
from bridge.registry.registry import InvalidEntry
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_REVOKE_SHARE = 0.6
"""Share of the session time-out for the owners to quiesce in, before a rebalance continues without them."""


class Assignment:
    """``owners`` by partition. ``member``: the membership in the group, None before the first one."""

    def __init__(self, shared: Shared) -> None:
        self.member: ConsumerGroupMember | None = None
        self._shared = shared
        self._owners: dict[int, PartitionOwner] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: dict[int, Mapping[int, KnownOutcome]] = {}
        """The outcomes, by partition, that its last owner here could not write. They are kept across memberships."""
        self._failures: defaultdict[int, Failures] = defaultdict(Failures)
        self._draining = False
        self.problem: str | None = None
        """Why the last membership ended, until a heartbeat of the next one is answered."""
        self._confirmed_at = float("-inf")
        self._running: asyncio.TaskGroup

    @property
    def owners(self) -> Mapping[int, PartitionOwner]:
        return self._owners

    @property
    def confirmed_at(self) -> float:
        """When Kafka last confirmed a membership of this process (monotonic seconds)."""
        return max(self._confirmed_at, self.member.confirmed_at if self.member else self._confirmed_at)

    def is_current(self) -> bool:
        """Whether this process may act as owner: one that was paused must not send what the new owner sends."""
        return self.member is not None and self.member.is_current()

    async def run(self) -> None:
        """Runs as a member of the group until drained or cancelled; a member that Kafka excludes joins again."""
        failures = RepeatFilter()
        async with asyncio.TaskGroup() as self._running:
            while not self._draining:
                member = None
                try:
                    member = self.member = ConsumerGroupMember(
                        self._shared.clients, self._revoke, self._assign, self._deliver
                    )
                    await member.start()
                    await member.run()
                except Exception as error:
                    self.problem = describe(error)
                    self._confirmed_at = self.confirmed_at
                    METRICS.kafka_errors.labels("group").inc()
                    if failures.is_new(error):
                        log.warning(
                            "group.left", group=self._shared.clients.group_id, error=error, exc_info=stack_of(error)
                        )
                    await self._end_all()
                    if member is not None:
                        await member.stop()
                    await asyncio.sleep(1)

    async def drain(self, timeout: float) -> None:
        """Hands all partitions over, within ``timeout`` seconds, and leaves the group."""
        self._draining = True
        log.info("run.draining", partitions=len(self._owners))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(owner.suspend() for owner in self._owners.values()))
        await self._end_all()
        if self.member is not None:
            await self.member.stop()

    def rejoin(self) -> None:
        """Lets the group share the inbox's partitions again: there are others now."""
        if self.member is not None:
            self.member.rejoin()

    # -- for the registry

    def sync(self, agent_id: str) -> None:
        """Applies a change of an agent's registry entry."""
        for agents in self._agents_of(agent_id):
            agents.sync(agent_id)

    def dead_letter(self, entry: InvalidEntry) -> None:
        """Handles a registry entry that is invalid."""
        for agents in self._agents_of(entry.key):
            agents.dead_letter(entry)

    def _agents_of(self, key: str | bytes) -> Iterator[PartitionAgents]:
        """The agents of the partition that ``key`` belongs to, if it is owned here and recovered."""
        if not self._owners:
            return
        owner = self._owners.get(partition_for(key, self._shared.partitions))
        if owner is not None and owner.agents is not None:
            yield owner.agents

    # -- for the group

    async def _revoke(self) -> None:
        """Quiesces in the available time; a partition that does not is taken over as if its owner had died."""
        suspending = [asyncio.ensure_future(owner.suspend()) for owner in self._owners.values()]
        if suspending:
            await asyncio.wait(suspending, timeout=self._shared.clients.session_timeout * _REVOKE_SHARE)

    def _assign(self, partitions: set[int], kept: bool) -> None:
        if self._draining:  # from a rebalance that was in progress: these owners would never be ended
            return
        remembered: dict[int, Remembered | None] = {}
        for number, owner in list(self._owners.items()):
            if number not in partitions or not (kept and owner.resume()):
                if number in partitions and owner.held:
                    self._held[number] = owner.held
                if kept:  # otherwise another process may have owned it in between
                    remembered[number] = owner.remembered
                self._end(number)
        for number in partitions - self._owners.keys():
            assert self.member is not None
            held, failures = self._held.pop(number, {}), self._failures[number]
            owner = PartitionOwner(number, self.member, self._shared, held, failures, remembered.get(number))
            self._owners[number] = owner
            self._tasks[number] = self._running.create_task(owner.run())
        log.info("partitions.assigned", partitions=sorted(partitions), kept=len(partitions) if kept else 0)

    def _deliver(self, partition: int, messages: Sequence[KafkaRecord]) -> None:
        if partition in self._owners:
            self._owners[partition].deliver(messages)

    def _end(self, partition: int) -> asyncio.Task[None]:
        del self._owners[partition]
        task = self._tasks.pop(partition)
        task.cancel()
        return task

    async def _end_all(self) -> None:
        owners = dict(self._owners)
        await asyncio.gather(*map(self._end, owners), return_exceptions=True)
        self._held |= {number: owner.held for number, owner in owners.items() if owner.held}
