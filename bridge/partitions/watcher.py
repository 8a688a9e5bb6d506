"""The agents of one owned partition: applies registry entries, accepts the inbox's events, enforces deadlines."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from asm_bridge_schemas.records import AgentState, PartitionHeartbeat
from bridge.agents.agent import Agent
from bridge.agents.bounds import MAX_BYTES, MAX_ID_BYTES, clipped
from bridge.agents.injection import KafkaRecord, is_utf8, read_injection
from bridge.agents.request import PollRequest
from bridge.agents.step import DeadLetter, Step
from bridge.backoff import Backoff
from bridge.clock import Clock, Instant, rfc3339
from bridge.headers import MOVED, ORIGIN, READABLE_AT, RECEIVED_AT
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partitioner import partition_for
from bridge.kafka.stable_offsets import Release, readable_at
from bridge.partitions.journal import Journal
from bridge.partitions.offsets import differ
from bridge.record_id import RecordId
from bridge.registry.registry import InvalidEntry, Registry
from bridge.settings.model import InjectionSettings
from bridge.telemetry import tracing

_PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of waiting events in one partition beyond which its inbox is not read."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How agents are watched; ``interval`` in seconds, for those whose registry entry names none."""

    interval: float
    injection: InjectionSettings
    backoff: Backoff
    clock: Clock


class PartitionAgents:
    """Watches the agents of a partition, and hands them their events. Every decision becomes a step in the journal.

    ``reschedule(agent, self)`` is called when an agent's polling changes, or when it is to be polled at once: see
    ``watches`` and ``Agent.urgent``.
    """

    def __init__(
        self,
        journal: Journal,
        partitions: int,
        registry: Registry,
        reschedule: Callable[[Agent, "PartitionAgents"], None],
        policy: Policy,
    ) -> None:
        self._journal = journal
        self._partitions = partitions
        self._registry = registry
        self._reschedule = reschedule
        self._policy = policy
        self._agents: dict[str, Agent] = {}
        self._waiting: set[Agent] = set()
        self._leaving: set[Agent] = set()
        self._poll_finished = asyncio.Event()
        self._ended = False
        self._repeated_below = 0
        self.active = False

    def begin(self, repeated_below: int) -> None:
        """Watches the registry's agents. Events below ``repeated_below`` may have been sent by the last owner."""
        self._repeated_below = repeated_below
        self.active = True
        for agent_id in {
            *self._journal.states,
            *self._registry.agents_of_partition(self._journal.partition, self._partitions),
        }:
            self.sync(agent_id)
        for bad in self._registry.invalid_entries():
            self.dead_letter(bad)

    async def quiesce(self) -> None:
        """Stops polling, and waits for the requests in flight."""
        self.active = False
        await self._until_none(lambda request: request is not None)

    async def events_answered(self) -> None:
        """Waits, after ``end``, until the outcome of each sent event is known."""
        await self._until_none(lambda request: request is not None and bool(request.injections))

    async def _until_none(self, which: Callable[[PollRequest | None], bool]) -> None:
        while any(which(agent.in_flight) for agent in self._agents.values()):
            self._poll_finished.clear()
            await self._poll_finished.wait()

    def resume(self) -> None:
        self.active = True

    def end(self) -> None:
        """Stops all polling: the partition has another owner, or must be recovered."""
        self.active, self._ended = False, True
        for agent in self._agents.values():
            self._reschedule(agent, self)

    def __len__(self) -> int:
        return len(self._agents)

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    @property
    def clean(self) -> bool:
        """Whether the next owner can be sure that no waiting event has been sent."""
        unread = self._journal.offsets.position < self._repeated_below  # handed over again before they were read
        return not unread and not any(
            injection.possibly_processed for agent in self._waiting for injection in agent.pending.injections
        )

    @property
    def waiting(self) -> bool:
        """Whether events wait, for whose deadlines ``sweep`` is to be called."""
        return bool(self._waiting)

    # -- for the poller

    @property
    def accepting(self) -> bool:
        return self.active and self._journal.accepting

    def watches(self, agent: Agent) -> bool:
        """Whether the agent is to be polled."""
        return agent.entry is not None and agent not in self._leaving and not self._ended

    def append(self, step: Step | None) -> None:
        if step is not None:
            self._journal.append(step)

    def poll_finished(self, agent: Agent, step: Step | None) -> None:
        """Handles the end of an agent's request; ``step`` is its result."""
        try:
            self.append(step)
        finally:
            if not self.active:
                self._poll_finished.set()
            if agent in self._leaving:
                self._leaving.discard(agent)
                self.sync(agent.state.agent_id)
            if agent.entry is None or agent in self._waiting:
                self._forget(agent)

    # -- the registry

    def sync(self, agent_id: str) -> None:
        """Applies an agent's registry entry, or its absence."""
        agent, registered, at = self._agents.get(agent_id), self._registry.get(agent_id), self._policy.clock.now()
        if registered is None:
            if agent is not None and agent.in_flight is not None and agent.in_flight.injections:
                self._leaving.add(agent)  # the outcomes of its events still belong to its stream
                self._reschedule(agent, self)
                return
            stale = agent is not None and agent.entry is not None
            if stale or (agent is None and self._is_watched(agent_id)):
                agent = agent or self._agent(agent_id)
                self.append(agent.unwatch(at))
                self._reschedule(agent, self)
                self._forget(agent)
            return
        agent = agent or self._agent(agent_id)
        if agent.entry != registered.entry:
            self.append(agent.watch(registered.entry, self._policy.interval, at))
        self._leaving.discard(agent)
        agent.unpollable = self._registry.unpollable(agent_id)
        self._reschedule(agent, self)

    def dead_letter(self, bad: InvalidEntry) -> None:
        """Writes an invalid registry entry as a dead letter, once, without its value, which may hold a token."""
        mine = partition_for(bad.key, self._partitions) == self._journal.partition
        metadata = self._journal.metadata
        another = differ(metadata.registry_id, bad.registry_id)
        if mine and (another or bad.origin.offset > metadata.invalid_entries_up_to):
            letter = DeadLetter(key=bad.key, value=None, code=bad.code, text=bad.text, origin=bad.origin)
            self._journal.dead_letter(letter)
            self._journal.advance(invalid_entries_up_to=bad.origin.offset, registry_id=bad.registry_id)

    # -- the inbox

    def deliver(self, messages: Sequence[KafkaRecord], releases: Sequence[Release] = ()) -> bool:
        """Takes records of the inbox, in order. Returns whether there is room for more.

        ``releases``: the ends of transactions that held records back, whose times to live count from then on.
        """
        for message in messages:
            if message.offset >= self._journal.offsets.position:
                self._journal.offsets.opened(message.offset)
                self._take(message, self._readable_at(message, releases) if releases else 0.0)
        return self.has_room

    @property
    def has_room(self) -> bool:
        return sum(injection.size for agent in self._waiting for injection in agent.pending.injections) < _PENDING_BYTES

    def _readable_at(self, message: KafkaRecord, releases: Sequence[Release]) -> float:
        """The time until which an open transaction held the record back (seconds since 1970); 0 if none did."""
        now, at = self._policy.clock.now(), readable_at(releases, message.offset)
        return 0.0 if at is None else now.wall - (now.monotonic - at)

    def _take(self, message: KafkaRecord, readable_at: float) -> None:
        key = message.key if len(message.key or b"") <= MAX_ID_BYTES else None
        home = None if key is None else partition_for(key, self._partitions)
        is_here, has_agents = home == self._journal.partition, self._journal.partition < self._partitions
        if key is None or not (is_here or (has_agents and not is_utf8(key))):
            self._relocate(message, home, readable_at)
            return
        may_be_repeated = message.offset < self._repeated_below
        injection = read_injection(message, self._policy.injection.ttl, may_be_repeated, readable_at)
        agent = self._agents.get(injection.agent_id) or self._agent(injection.agent_id)
        state = agent.state
        if injection.offset <= state.bridge.inbox_offset and injection.offset not in state.bridge.inbox_open:
            self._journal.offsets.completed(injection.offset)
            self._forget(agent)
            return
        tracing.received(injection)
        self.append(agent.take(injection, self._policy.clock.now(), self._journal.held.get(injection.offset)))
        if agent.pending:
            self._waiting.add(agent)
            self._reschedule(agent, self)
        else:
            self._forget(agent)

    def _relocate(self, message: KafkaRecord, home: int | None, readable_at: float) -> None:
        """Writes a record without a usable key as a dead letter; moves one in the wrong partition, once, in order."""
        self._journal.offsets.completed(message.offset)
        if message.offset <= self._journal.metadata.relocated_up_to:
            return
        origin = RecordId.of(message)
        if home is None:
            code, text = "malformed_event", "the record has no key; it must be the agent_id"
            if message.key is not None:
                code, text = "too_large", f"the key is longer than {MAX_ID_BYTES} bytes; it must be the agent_id"
            value = message.value if len(message.value or b"") <= MAX_BYTES else None
            self._journal.dead_letter(
                DeadLetter(key=None, value=value, headers=tuple(message.headers), code=code, text=text, origin=origin)
            )
        else:
            value, headers = clipped(message.value, [header for header in message.headers if header[0] not in MOVED])
            headers += [(ORIGIN, str(origin).encode()), (RECEIVED_AT, rfc3339(message.timestamp / 1000).encode())]
            if readable_at > message.timestamp / 1000:
                headers.append((READABLE_AT, rfc3339(readable_at).encode()))
            self._journal.add(Outgoing("inject", message.key, value, headers, None, home))
        self._journal.advance(relocated_up_to=message.offset)

    def sweep(self) -> None:
        """Finishes the injections that have expired, or waited too long for an unknown agent."""
        at = self._policy.clock.now()
        for agent in list(self._waiting):
            self.append(agent.sweep(at))
            self._forget(agent)

    def check_unobserved(self) -> None:
        """Reports agents as lost that could not be polled for too long, because the bridge or Kafka was down."""
        at = self._policy.clock.now()
        for agent in self._agents.values():
            self.append(agent.check_unobserved(at))

    def committed(self, states: Mapping[str, AgentState | None]) -> None:
        """Passes on the states that the journal has committed."""
        for agent_id, state in states.items():
            agent = self._agents.get(agent_id)
            if agent is not None and state is not None:
                agent.committed(state)

    def heartbeat(self, instance: str, observed_until: str) -> PartitionHeartbeat:
        """The partition's heartbeat; ``instance``: the name of this process."""
        conditions = Counter(agent.condition for agent in self)
        return PartitionHeartbeat(
            partition=self._journal.partition,
            observed_until=observed_until,
            agents=len(self) - conditions["unknown"],
            in_session=sum(agent.state.asm_session_sid is not None for agent in self),
            lost=sum(agent.state.lost is not None for agent in self),
            instance=instance,
        )

    # -- inside

    def _agent(self, agent_id: str) -> Agent:
        state = self._journal.states.get(agent_id) or AgentState(agent_id=agent_id)
        # It was last observed when the partition was, by this process or by the former owner.
        at, until = self._policy.clock.now(), self._journal.observed_until
        silence = 0.0 if until is None else max(0.0, at.wall - until)
        observed_at = Instant(at.monotonic - silence, at.wall - silence)
        agent = self._agents[agent_id] = Agent(state, self._policy.injection, self._policy.backoff, observed_at)
        return agent

    def _is_watched(self, agent_id: str) -> bool:
        state = self._journal.states.get(agent_id)
        return state is not None and state.stream_id is not None

    def _forget(self, agent: Agent) -> None:
        """Drops an agent that is not watched, once it has neither waiting injections nor a request in flight."""
        if not agent.pending:
            self._waiting.discard(agent)
            if agent.entry is None and agent.in_flight is None:
                self._agents.pop(agent.state.agent_id, None)
