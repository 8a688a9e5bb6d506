"""The life of one owned partition: recover, watch its agents, commit, hand over; from the start whenever it fails."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from asm_bridge_schemas.records import PartitionHeartbeat
from bridge.agents.agent import Agent
from bridge.agents.injection import KafkaRecord
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import EXPECTED_ERRORS
from bridge.kafka.group import ConsumerGroupMember
from bridge.partitions.journal import Journal, PartitionLost
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.registry.registry import Registry
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_SWEEP = 0.25
"""Seconds between looks at the deadlines of waiting entries: at the same time in all partitions, and with a slot of the
poller, because waking up costs more than looking."""


_STALLED = 2.0
"""Seconds of a commit after which no agent was polled until it ended."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the partitions of a process share; ``partitions``: how many there are, intervals in seconds; ``instance``:
    the process's name."""

    partitions: int
    commit_interval: float
    heartbeat_interval: float
    instance: str
    clients: Clients
    encoder: Encoder
    registry: Registry
    reschedule: Callable[[Agent, PartitionAgents], None]
    policy: Policy


class PartitionOwner:
    """Runs until cancelled. ``suspend`` hands the partition over; ``resume`` takes it back if it had no other owner in
    between."""

    def __init__(self, partition: int, group: ConsumerGroupMember, shared: Shared) -> None:
        self.partition = partition
        self.agents: PartitionAgents | None = None
        self._group = group
        self._shared = shared
        self._journal: Journal | None = None
        self._flush_now = asyncio.Event()
        self._suspended: asyncio.Future[bool] | None = None
        self._resumed = asyncio.Event()
        self._inbox_paused = False
        self._next_heartbeat = 0.0

    @property
    def ready(self) -> bool:
        """Whether the agents are watched and steps can be committed."""
        return self.agents is not None and self.agents.accepting

    async def run(self) -> None:
        failures = RepeatFilter()
        while True:
            try:
                await self._own()
            except Exception as error:  # whatever it was: the one way back, and no other partition notices
                METRICS.partitions_lost.inc()
                expected = isinstance(error, (PartitionLost, *EXPECTED_ERRORS))
                stack = error if not expected and failures.is_new(error) else None
                log.warning("partition.lost", partition=self.partition, error=error, exc_info=stack)
            finally:
                await self._release()
            await self._group.next_heartbeat()

    async def _own(self) -> None:
        """Journal and agents are made afresh: what a late answer still appends to the former ones is never written."""
        shared = self._shared
        journal = Journal(self.partition, shared.clients, shared.encoder, self._group.commit, shared.policy.clock)
        self._journal = journal
        clean = await journal.recover()
        repeated_below = 0 if clean else await self._group.end_offset(self.partition)
        agents = PartitionAgents(journal, shared.partitions, shared.registry, shared.reschedule, shared.policy)
        self.agents = agents
        agents.begin(repeated_below)
        self._group.read_from(self.partition, journal.offsets.position)
        log.info("partition.owned", partition=self.partition, agents=len(agents), clean=clean)
        while True:
            if self._suspended is None:
                await self._gather_and_commit(journal, agents)
            else:
                await self._hand_over(journal, agents, self._suspended)

    async def _gather_and_commit(self, journal: Journal, agents: PartitionAgents) -> None:
        if await _fires(journal.wake, _SWEEP - time.monotonic() % _SWEEP):
            await _fires(self._flush_now, linger(self._shared, journal.oldest_at, time.monotonic()))
        agents.sweep()
        began = time.monotonic()
        due = began >= self._next_heartbeat
        if due:
            self._next_heartbeat = began + self._shared.heartbeat_interval
        agents.committed(await journal.commit(heartbeat=partial(self._heartbeat, agents) if due else None))
        if time.monotonic() - began > _STALLED:
            agents.check_unobserved()
        if self._inbox_paused and agents.has_room:
            self._inbox_paused = False
            self._group.resume(self.partition)

    async def _hand_over(self, journal: Journal, agents: PartitionAgents, suspended: asyncio.Future[bool]) -> None:
        """Come to rest, and go on if ``resume`` is called; otherwise this task is cancelled."""
        await agents.quiesce()
        agents.committed(await journal.commit(clean=agents.clean))
        self._resumed.clear()
        suspended.set_result(True)
        await self._resumed.wait()
        agents.committed(await journal.commit())
        agents.check_unobserved()
        agents.resume()
        self._group.read_from(self.partition, journal.offsets.position)

    def _heartbeat(self, agents: PartitionAgents, observed_until: str) -> PartitionHeartbeat:
        conditions = Counter(agent.condition for agent in agents)
        return PartitionHeartbeat(
            partition=self.partition,
            observed_until=observed_until,
            agents=len(agents) - conditions["unknown"],
            in_session=sum(agent.state.asm_session_sid is not None for agent in agents),
            lost=sum(agent.state.lost is not None for agent in agents),
            instance=self._shared.instance,
        )

    def deliver(self, messages: Sequence[KafkaRecord]) -> None:
        if self.agents is not None and not self.agents.deliver(messages):
            self._inbox_paused = True
            self._group.pause(self.partition)

    async def suspend(self) -> None:
        """Come to rest: polls under way end, steps are committed, and the next owner finds a clean hand-over."""
        if self._journal is None or self.agents is None or self._suspended is not None:
            return
        self._suspended = asyncio.get_running_loop().create_future()
        self._flush_now.set()
        self._journal.wake.set()
        await asyncio.shield(self._suspended)

    def resume(self) -> bool:
        """Go on from memory. False where the partition had not come to rest: it must be recovered."""
        if self._suspended is None or not self._suspended.done() or not self._suspended.result():
            return False
        self._suspended = None
        self._flush_now.clear()
        self._resumed.set()
        return True

    async def _release(self) -> None:
        agents, self.agents = self.agents, None
        journal, self._journal = self._journal, None
        if agents is not None:
            agents.end()
        if self._suspended is not None and not self._suspended.done():
            self._suspended.set_result(False)
        self._suspended, self._inbox_paused = None, False
        self._flush_now.clear()
        if journal is not None:
            await journal.close()


def linger(shared: Shared, oldest_at: float, now: float) -> float:
    """Seconds from ``now`` until the steps are committed of which the first came at ``oldest_at`` (both monotonic).

    Where all partitions share a producer they commit at the same time: it is one request for all.
    """
    interval = shared.commit_interval
    return oldest_at + interval - now if shared.clients.exactly_once else interval - now % interval


async def _fires(event: asyncio.Event, within: float) -> bool:
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False
