"""The life of one owned partition: recover, watch its agents, commit, hand over; after a failure, start again."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import structlog

from bridge.agents.agent import Agent
from bridge.agents.injection import KafkaRecord
from bridge.agents.step import KnownOutcome
from bridge.backoff import Backoff
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import EXPECTED_ERRORS, RefusedRecordsError, describe, is_refusal
from bridge.kafka.group import ConsumerGroupMember
from bridge.kafka.kafka_clock import ClockTrials
from bridge.kafka.topic_watch import TopicWatch
from bridge.kafka.topics import read_limits
from bridge.partitions.journal import Journal, PartitionLost
from bridge.partitions.recovery import Remembered
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.registry.registry import Registry
from bridge.signals import fires
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_SWEEP, _IDLE_SWEEP = 0.25, 1.0
"""Seconds between checks of the waiting entries' deadlines, and between checks while no entry waits: at the same time
in all partitions, and with a slot of the poller, because waking up costs more than checking."""

_STALLED = 2.0
"""A commit that takes longer than this (seconds) holds up the polling."""
_ANSWERED_WITHIN = 30.0
"""Seconds that a lost partition waits for the answers to its events."""
_OUTAGE, _REFUSED = Backoff(0.25, 5.0), Backoff(1.0, 30.0)
"""Between attempts to own a partition again: an outage ends on its own, a refusal does not."""


class Failures:
    """Counts how often in a row a partition was lost for the same cause."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._repeats = RepeatFilter()

    def record(self, error: Exception, lasted: float) -> tuple[bool, float]:
        """Returns whether the cause is new, and the seconds to wait before the next attempt; ``lasted``: the seconds
        for which the partition was owned."""
        new = self._repeats.is_new(error)
        self._in_a_row = 0 if new or lasted > _REFUSED.maximum else self._in_a_row + 1
        refused = is_refusal(error.__cause__) or is_refusal(error)
        return new, (_REFUSED if refused else _OUTAGE).delay(self._in_a_row) if self._in_a_row else 0.0


@dataclass(frozen=True, slots=True)
class Shared:
    """Shared by the partitions of a process; ``partitions``: their number; intervals in seconds; ``instance``: the
    process's name."""

    partitions: int
    commit_interval: float
    heartbeat_interval: float
    instance: str
    clients: Clients
    encoder: Encoder
    registry: Registry
    reschedule: Callable[[Agent, PartitionAgents], None]
    policy: Policy
    topics: TopicWatch
    clock_trials: ClockTrials | None = None
    """In ``at_least_once``; in ``exactly_once`` a partition's first transaction shows Kafka's clock."""


class PartitionOwner:
    """Runs until cancelled. ``suspend`` hands the partition over; ``resume`` takes it back if it had no other owner in
    between."""

    def __init__(
        self,
        partition: int,
        group: ConsumerGroupMember,
        shared: Shared,
        held: Mapping[int, KnownOutcome] = MappingProxyType({}),
        failures: Failures | None = None,
        remembered: Remembered | None = None,
    ) -> None:
        self.partition = partition
        self.agents: PartitionAgents | None = None
        self._group = group
        self._shared = shared
        self._failures = failures or Failures()
        """Those of former owners, too: processes may take a partition from each other without end."""
        self._journal: Journal | None = None
        self._flush_now = asyncio.Event()
        self._suspended: asyncio.Future[bool] | None = None
        self._resumed = asyncio.Event()
        self._inbox_paused = False
        self._rewound = False
        """Whether the inbox delivered an offset that had been read: it may be another log."""
        self._remembered = remembered
        self._held = held
        self._lost: str | None = None
        """Why the partition was lost, until it can commit again."""
        self._next_heartbeat = 0.0

    @property
    def held(self) -> Mapping[int, KnownOutcome]:
        """The outcomes of sent events that have not been written yet (see ``Journal``)."""
        return self._held if self._journal is None else self._journal.unwritten

    @property
    def remembered(self) -> Remembered | None:
        """What the last journal committed, if that is known: the topic of the states may lose it."""
        return self._remembered if self._journal is None or self.agents is None else self._journal.remembered

    @property
    def problem(self) -> str | None:
        """Why the partition cannot commit: what it was lost for, or what holds it up now."""
        return self._lost or (self._journal.problem if self._journal is not None else None)

    @property
    def ready(self) -> bool:
        """Whether the agents are watched and steps can be committed."""
        return self.agents is not None and self.agents.accepting

    async def run(self) -> None:
        refused = False
        while True:
            began, delay = time.monotonic(), 0.0
            try:
                if refused:  # a topic accepts less than before, or more again
                    with contextlib.suppress(*EXPECTED_ERRORS):
                        await read_limits(self._shared.clients)
                await self._own()
            except Exception as error:  # noqa: BLE001 - every failure has one remedy, and ends in this partition
                METRICS.partitions_lost.inc()
                self._lost = str(error) if isinstance(error, PartitionLost) else describe(error, "read")
                new, delay = self._failures.record(error, time.monotonic() - began)
                stack = None if isinstance(error, (PartitionLost, *EXPECTED_ERRORS)) or not new else error
                (log.warning if new else log.debug)(
                    "partition.lost", partition=self.partition, error=error, exc_info=stack
                )
                await self._finish_events()
                refused = isinstance(error.__cause__, RefusedRecordsError)
            finally:
                await self._release()
            await self._group.next_heartbeat()
            await asyncio.sleep(delay)

    async def _own(self) -> None:
        """Creates a new journal and new agents: what a late answer appends to the former ones is never written."""
        shared = self._shared
        await shared.topics.look()
        if shared.clock_trials is not None:
            await shared.clock_trials.before_publishing()
        has_agents = self.partition < shared.partitions
        journal = self._journal = Journal(
            self.partition,
            shared.clients,
            shared.encoder,
            self._group,
            shared.policy.clock,
            self._held,
            inbox=shared.topics.id("inject"),
            states_topic=shared.topics.id("agent-state"),
            former=self._remembered,
            has_agents=has_agents,
        )
        clean = await journal.recover()
        await shared.topics.look()
        if journal.states_topic != (states_topic := shared.topics.id("agent-state")):
            raise PartitionLost(f"the topic of the states was recreated while it was read: its id is {states_topic}")
        repeated_below = 0 if clean else await self._group.end_offset(self.partition)
        agents = PartitionAgents(journal, shared.partitions, shared.registry, shared.reschedule, shared.policy)
        self.agents = agents
        agents.begin(repeated_below)
        self._group.read_from(self.partition, journal.offsets.position, journal.inbox)
        log.info("partition.owned", partition=self.partition, agents=len(agents), clean=clean)
        while True:
            if self._suspended is None:
                await self._gather_and_commit(journal, agents)
            else:
                await self._hand_over(journal, agents, self._suspended)

    async def _gather_and_commit(self, journal: Journal, agents: PartitionAgents) -> None:
        now = time.monotonic()
        every = _SWEEP if agents.waiting or self._next_heartbeat - now < _IDLE_SWEEP else _IDLE_SWEEP
        if await fires(journal.wake, every - now % every):
            await fires(self._flush_now, linger(self._shared, journal.oldest_at, time.monotonic()))
        if self._rewound:
            self._rewound = False
            if (end := await self._group.end_offset(self.partition)) < journal.offsets.position:
                raise PartitionLost(f"the inbox ends at {end}, but was read up to {journal.offsets.position}")
        self._compare_topics(journal)
        agents.sweep()
        began, shared = time.monotonic(), self._shared
        due = self.partition < shared.partitions and began >= self._next_heartbeat
        if due:
            self._next_heartbeat = began + shared.heartbeat_interval
        agents.committed(await journal.commit(heartbeat=partial(agents.heartbeat, shared.instance) if due else None))
        if not journal.held:
            self._lost = None
        if time.monotonic() - began > _STALLED:
            agents.check_unobserved()
        if self._inbox_paused and agents.has_room:
            self._inbox_paused = False
            self._group.resume(self.partition)

    def _compare_topics(self, journal: Journal) -> None:
        """Raises ``PartitionLost`` if the inbox is another one than the one that the journal remembers."""
        topics = self._shared.topics
        if journal.inbox != (inbox := topics.id("inject")):
            raise PartitionLost(f"the inbox was deleted and recreated: its id is {inbox}, and was {journal.inbox}")
        if journal.states_topic != (states_topic := topics.id("agent-state")):
            journal.rewrite_states(states_topic)

    async def _hand_over(self, journal: Journal, agents: PartitionAgents, suspended: asyncio.Future[bool]) -> None:
        """Quiesces, and continues if ``resume`` is called; otherwise this task is cancelled."""
        await agents.quiesce()
        agents.committed(await journal.commit(clean=agents.clean))
        self._resumed.clear()
        suspended.set_result(True)
        await self._resumed.wait()
        agents.committed(await journal.commit())
        agents.check_unobserved()
        agents.resume()
        self._group.read_from(self.partition, journal.offsets.position, journal.inbox)

    def deliver(self, messages: Sequence[KafkaRecord]) -> None:
        if self._journal is not None and messages[0].offset < self._journal.offsets.position:
            self._rewound = True
            self._journal.wake.set()
        if self.agents is not None and not self.agents.deliver(messages, self._group.releases(self.partition)):
            self._inbox_paused = True
            self._group.pause(self.partition)

    async def suspend(self) -> None:
        """Quiesces: requests in flight end, steps are committed, and the next owner finds a clean hand-over."""
        if self._journal is None or self.agents is None or self._suspended is not None:
            return
        self._suspended = asyncio.get_running_loop().create_future()
        self._flush_now.set()
        self._journal.wake.set()
        await asyncio.shield(self._suspended)

    def resume(self) -> bool:
        """Continues from memory. Returns False if the partition has not quiesced: it must be recovered."""
        if self._suspended is None or not self._suspended.done() or not self._suspended.result():
            return False
        self._suspended = None
        self._flush_now.clear()
        self._resumed.set()
        return True

    async def _finish_events(self) -> None:
        """Waits for the outcomes of the events in flight: an event whose outcome is known is not sent again."""
        if self.agents is not None:
            self.agents.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANSWERED_WITHIN):
                    await self.agents.events_answered()

    async def _release(self) -> None:
        self._held, self._remembered = self.held, self.remembered
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
    """Seconds from ``now`` until the commit of the steps whose first was appended at ``oldest_at`` (both monotonic).

    Partitions that share a producer commit at the same time, in one request.
    """
    interval = shared.commit_interval
    return oldest_at + interval - now if shared.clients.exactly_once else interval - now % interval
