"""The journal of one owned partition: fences the former owner, recovers, gathers steps and commits them.

The partition's own transactional producer makes a step atomic, and stops a former owner that was paused. Every failure
has the same remedy: drop the memory and recover.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import msgspec
import structlog

from asm_bridge_schemas.records import AgentState, PartitionHeartbeat
from bridge.agents.step import DeadLetter, KnownOutcome, Step
from bridge.clock import Clock, rfc3339
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import EXPECTED_ERRORS, RefusedRecordsError, describe
from bridge.kafka.group import ConsumerGroupMember
from bridge.kafka.kafka_clock import follow
from bridge.kafka.lifecycle import CALL_DEADLINE, with_deadline
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partition_producer import PartitionProducer
from bridge.kafka.topics import TOPICS, read_limits
from bridge.partitions.offsets import CommitMetadata, OffsetTracker, differ, forget_inbox, last_known, relocated
from bridge.partitions.recovery import Recovered, Remembered, have_gone, read_metadata, read_states, restore
from bridge.partitions.refusals import Instead, Refusal
from bridge.telemetry import tracing
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_BATCH_BYTES = 8 * 1024 * 1024
"""Steps gathered beyond this stop the polling until they are committed."""
_KEPT_FOR = 1.75
"""Seconds after which a commit writes ``observed_until`` even if it writes nothing else: every two seconds, as an idle
partition commits once a second."""
_OUTPUTS = [topic.name for topic in TOPICS if topic.output and topic.partitioned]
_OVERDUE = 2.0
"""Seconds after which a commit in progress stops the polling."""
_REFUSALS = 20
"""The number of refusals of one transaction, one for each topic or remedy, beyond which the partition is given up."""

States = dict[str, AgentState | None]
"""States by agent_id; None is a tombstone."""

Heartbeat = Callable[[str], PartitionHeartbeat]
"""Makes the heartbeat, given ``observed_until``."""


class PartitionLost(Exception):
    """The partition's memory can no longer be trusted; nothing uncommitted has been published."""


@dataclass(slots=True)
class Batch:
    """The contents of the next transaction."""

    messages: list[Outgoing] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    traced: list[Step] = field(default_factory=list)
    size: int = 0
    outcomes: dict[int, KnownOutcome] = field(default_factory=dict)
    """The outcomes of the entries that were sent, by offset."""
    oldest_at: float | None = None
    """When its first step was appended (monotonic seconds)."""

    def add(self, message: Outgoing) -> None:
        self.messages.append(message)
        self.size += len(message.value or b"")


class Journal:
    """``append`` accepts steps at any time and never waits; ``commit`` writes the collected steps, all or none.

    ``group`` commits the inbox's offset where there are no transactions, and knows the inbox's bounds.

    ``held``: by offset, the outcomes of sent events that a former journal of this process failed to write. Until they
    are written nothing is sent: not these events again, and no others in the hope that the next commit succeeds.

    ``former``: what a former journal of the same owner remembers. ``inbox``, ``states_topic``: the topics' ids.
    """

    def __init__(
        self,
        partition: int,
        clients: Clients,
        encoder: Encoder,
        group: ConsumerGroupMember,
        clock: Clock,
        held: Mapping[int, KnownOutcome] = MappingProxyType({}),
        *,
        inbox: str | None = None,
        states_topic: str | None = None,
        former: Remembered | None = None,
        has_agents: bool = True,
    ) -> None:
        self.inbox = inbox
        self.states_topic = states_topic
        self._former = former
        self._has_agents = has_agents
        self.held = dict(held)
        self.partition = partition
        self.states: dict[str, AgentState] = {}
        self.offsets = OffsetTracker(0)
        self.metadata = CommitMetadata()
        self.observed_until: float | None = None
        """Everything observed before this time (seconds since 1970) is published; None if unknown."""
        self.wake = asyncio.Event()
        """Set while there is something to commit."""
        self._clients = clients
        self._encoder = encoder
        self._group = group
        self._clock = clock
        self._producer: PartitionProducer | None = None
        self._batch = Batch()
        self._under_way = Batch()
        self._written: dict[str, AgentState] = {}
        self._in_doubt = False
        """Whether Kafka has not answered about a transaction that numbers records."""
        self._unwatched: set[str] = set()
        self._committed: tuple[int, CommitMetadata] | None = None
        self._commit_began: float | None = None
        self._kept_at = 0.0
        self._refusal: str | None = None

    async def recover(self) -> bool:
        """Fences, then reads states and offset, in this order. Returns whether the former owner handed over cleanly."""
        self._producer = await PartitionProducer.start(self._clients, self.partition)
        recovered = Recovered()
        if self._has_agents:
            topic = self._clients.topic("agent-state")
            recovered = await read_states(self._clients.connection, topic, self.partition, self.inbox)
        offset, text = await self._clients.committed((self._clients.topic("inject"), self.partition))
        metadata = read_metadata(offset, text, self._former, self.partition, known=bool(recovered.states))
        self.states = recovered.states
        if self._has_agents and have_gone(recovered, metadata, self.states_topic):
            metadata = restore(recovered, self._former, metadata, self.inbox, self.partition)
            if self._former is not None:
                self.rewrite_states(self.states_topic)
        self._written = dict(self.states)
        self._unwatched = {agent_id for agent_id, state in self.states.items() if state.stream_id is None}
        self.offsets = OffsetTracker(offset or 0)
        self.metadata = msgspec.structs.replace(metadata, clean=False)
        if self._clients.exactly_once:  # Tansu, which has no transactions, reports a wrong end
            metadata = self._compare(metadata, await self._group.bounds(self.partition), recovered.void)
        ids = {"inbox": self.inbox, "states": self.states_topic, "states_from": recovered.begin}
        self.metadata = msgspec.structs.replace(self.metadata, **ids)
        known = (recovered.observed_until, metadata.observed_until)
        self.observed_until = max((at for at in known if at is not None), default=None)
        if self.observed_until is not None:
            self._clock.go_on_from(self.observed_until)
        await self._commit(everywhere=self._has_agents)
        return metadata.clean

    def _compare(self, metadata: CommitMetadata, bounds: tuple[int, int], void: set[str]) -> CommitMetadata:
        """Compares the remembered position in the inbox with its first offset and its end. If the inbox has become
        another log, it is read from its beginning; entries that were deleted unread are counted. ``void``: the agents
        whose states are of another inbox. Returns the metadata that is still valid."""
        begin, end = bounds
        books = [state.bridge for agent_id, state in self.states.items() if agent_id not in void]
        remembered, another = last_known(self.offsets.position, books), bool(void)
        if end <= remembered or differ(metadata.inbox, self.inbox):
            another, void = True, set(self.states) if end <= remembered else void
            self.offsets = OffsetTracker(begin)
            metadata = msgspec.structs.replace(metadata, clean=False, relocated_up_to=-1)
            self.metadata = metadata
        if another:
            log.error("inbox.is_another_log", partition=self.partition, remembered=remembered, end=end, id=self.inbox)
            METRICS.kafka_errors.labels("another_log").inc()
            self.states |= {agent_id: forget_inbox(self.states[agent_id]) for agent_id in void}
            self._batch.agents.update(void)
            self.held = {}
        else:
            self.metadata = relocated(self.metadata, books)
        if begin > self.offsets.position:
            if self.offsets.position > 0:
                log.warning("inbox.deleted_unread", partition=self.partition, first=self.offsets.position, end=begin)
                METRICS.inbox_deleted.inc(begin - self.offsets.position)
            self.offsets = OffsetTracker(begin)
        self.held = {offset: known for offset, known in self.held.items() if self.offsets.position <= offset < end}
        return metadata

    @property
    def accepting(self) -> bool:
        """Whether steps can be committed soon: while they cannot, no agent should be polled."""
        overdue = self._commit_began is not None and time.monotonic() - self._commit_began > _OVERDUE
        return self._producer is not None and not overdue and self._batch.size < _BATCH_BYTES and not self.held

    @property
    def problem(self) -> str | None:
        """Why the commit in progress takes long: Kafka refuses a record, or does not answer."""
        waits = self._refusal is None and self._commit_began is not None and not self.accepting
        return self._producer.unanswered if waits and self._producer is not None else self._refusal

    @property
    def unwritten(self) -> dict[int, KnownOutcome]:
        """``held`` for the next journal, if this one fails."""
        return {**self.held, **self._under_way.outcomes, **self._batch.outcomes}

    @property
    def oldest_at(self) -> float:
        """When the oldest uncommitted step was appended (monotonic seconds); now, without any."""
        return self._batch.oldest_at or time.monotonic()

    def append(self, step: Step) -> None:
        agent_id = step.state.agent_id
        self._batch.oldest_at = self.oldest_at
        self.states[agent_id] = step.state
        self._batch.agents.add(agent_id)
        for index, record in enumerate(step.records):
            self._batch.add(self._encoder.record(record, step.traces.get(index)))
        if step.traces or step.span is not None:
            self._batch.traced.append(step)
        for letter in step.dead_letters:
            self.dead_letter(letter)
        if step.finished:
            self._batch.outcomes.update(step.sent_outcomes())
            for offset in step.finished:
                self.offsets.completed(offset)
        METRICS.record_step(step)
        self.wake.set()

    def dead_letter(self, letter: DeadLetter) -> None:
        METRICS.dead_letters.labels(letter.code).inc()
        self.add(self._encoder.dead_letter(letter, None if self._has_agents else 0))

    @property
    def remembered(self) -> Remembered | None:
        """What the last commit wrote; None while it is unknown which commit is the last."""
        return None if self._in_doubt or self._committed is None else Remembered(self._written, self._committed[1])

    def rewrite_states(self, topic: str | None) -> None:
        """Writes all states again, as the topic, whose id is this one now, has lost them."""
        if self.states:
            log.warning("states.rewritten", partition=self.partition, agents=len(self.states), id=topic)
        self.states_topic = topic
        self._batch.agents.update(self.states)
        self.advance(states=topic, states_from=0)

    def add(self, message: Outgoing) -> None:
        """Adds a message that belongs to no agent's stream."""
        self._batch.add(message)
        self.wake.set()

    def advance(self, **fields: int | str | None) -> None:
        """Sets fields of the commit's metadata."""
        self.metadata = msgspec.structs.replace(self.metadata, **fields)
        self.wake.set()

    async def commit(self, *, clean: bool | None = None, heartbeat: Heartbeat | None = None) -> States:
        """Writes the gathered steps. Returns the committed states.

        ``observed_until`` is written at least every two seconds, with a heartbeat, and at a hand-over, with ``clean``.
        Raises ``PartitionLost``: then close the journal, and recover with a new one.
        """
        self.observed_until = self._clock.now().wall
        if heartbeat is not None:
            self._batch.add(self._encoder.heartbeat(heartbeat(rfc3339(self.observed_until))))
        overdue = bool(self.states) and time.monotonic() - self._kept_at > _KEPT_FOR
        keep = overdue or clean is not None or heartbeat is not None
        return await self._commit(clean=bool(clean), keep=keep)

    async def _commit(self, *, clean: bool = False, keep: bool = False, everywhere: bool = False) -> States:
        """``keep``: write ``observed_until``; ``everywhere``: fail unless every output topic can be written."""
        batch, self._batch = self._batch, Batch()
        self._under_way, read_up_to = batch, self.offsets.position
        self.wake.clear()
        changed = self._changed_states(batch.agents)
        position = (self.offsets.committable, msgspec.structs.replace(self.metadata, clean=clean))
        offset = None
        if keep or position != self._committed:
            metadata = msgspec.structs.replace(position[1], observed_until=self.observed_until)
            offset = (position[0], metadata.encode())
        states = [
            self._encoder.state(agent_id, state, self.observed_until or self._clock.now().wall, self.inbox)
            for agent_id, state in changed.items()
            if state is not None or agent_id in self._written
        ]
        if batch.messages or states or offset or everywhere:
            with tracing.commit(batch.traced, self.partition, len(batch.messages) + len(states)):
                await self._write(batch.messages, states, offset, everywhere)
        self._committed, self._under_way = position, Batch()
        if states or offset:
            self._kept_at = time.monotonic()
        self.held = {offset: known for offset, known in self.held.items() if offset >= read_up_to}
        if batch.oldest_at is not None:
            METRICS.step_seconds.observe(time.monotonic() - batch.oldest_at)
        for agent_id, state in changed.items():
            if state is None:
                self._written.pop(agent_id, None)
            else:
                self._written[agent_id] = state
        return changed

    async def close(self) -> None:
        """Closes the producer; uncommitted steps are dropped."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.close()

    def _changed_states(self, agents: set[str]) -> States:
        """The new states of ``agents``; None (a tombstone) for the unwatched whose entries are completed."""
        committable = self.offsets.committable
        changed: States = {}
        for agent_id in agents | self._unwatched:
            state = self.states[agent_id]
            if state.stream_id is None and state.bridge.inbox_offset < committable:
                changed[agent_id] = None
                del self.states[agent_id]
            elif agent_id in agents:
                changed[agent_id] = state
        self._unwatched = {i for i in agents | self._unwatched if i in self.states and self.states[i].stream_id is None}
        return changed

    async def _write(
        self, messages: list[Outgoing], states: list[Outgoing], offset: tuple[int, str] | None, everywhere: bool
    ) -> None:
        assert self._producer is not None
        self._commit_began = time.monotonic()
        try:
            with METRICS.commit_seconds.time():
                await self._until_taken(messages, states, offset, everywhere)
        except (*EXPECTED_ERRORS, AssertionError) as error:
            METRICS.commits.labels("failed").inc()
            METRICS.kafka_errors.labels("commit").inc()
            silent = isinstance(error, TimeoutError) and self._producer.unanswered
            raise PartitionLost(f"{silent} within {CALL_DEADLINE:g} s" if silent else describe(error)) from error
        self._commit_began = self._refusal = None
        METRICS.commits.labels("ok").inc()

    async def _until_taken(
        self, messages: list[Outgoing], states: list[Outgoing], offset: tuple[int, str] | None, everywhere: bool
    ) -> None:
        write = self._transaction if self._clients.exactly_once else self._in_turn
        refusals = 0
        while True:
            try:
                await with_deadline(write(messages, states, offset, everywhere))
            except RefusedRecordsError as error:
                refusals += 1
                if refusals > _REFUSALS:
                    raise
                instead = await self._remedy(error)
            else:
                return
            messages, states = (
                [one for message in given for one in instead.get(id(message), (message,))]
                for given in (messages, states)
            )

    async def _remedy(self, error: RefusedRecordsError) -> Instead:
        """Returns what to write instead of the refused records. Meanwhile, no event is sent."""
        assert self._producer is not None
        self._refusal, self._commit_began = str(error), float("-inf")
        if (reading := await self._producer.read_clock()) is not None:
            follow(self._clock, reading)
        await self._producer.restart()
        with contextlib.suppress(*EXPECTED_ERRORS):
            await read_limits(self._clients)
        # A restart fences an owner that has taken over meanwhile. The first wait is for times that must not be old.
        await self._group.next_heartbeat(self._producer.started_at)
        letters = None if self._has_agents else 0
        instead = await Refusal(error, self._encoder, self._producer, lambda: self._clock.now().wall, letters).remedy()
        await self._group.next_heartbeat(self._producer.started_at)
        return instead

    async def _transaction(
        self, messages: list[Outgoing], states: list[Outgoing], offset: tuple[int, str] | None, everywhere: bool
    ) -> None:
        assert self._producer is not None
        await self._producer.begin()
        if everywhere:
            self._producer.add_topics(_OUTPUTS)
        await self._producer.send([*messages, *states])
        if offset is not None:
            await self._producer.add_offset(*offset)
        # At a recovery in any case: the process may have started without the rights to see it, or beside another one.
        due = everywhere or ((messages or states) and self._clock.comparison_due())
        if due and (reading := await self._producer.read_clock()):
            follow(self._clock, reading)
        self._in_doubt = bool(messages)
        await self._producer.commit()
        self._in_doubt = False

    async def _in_turn(
        self, messages: list[Outgoing], states: list[Outgoing], offset: tuple[int, str] | None, _: bool
    ) -> None:
        """Writes without transactions: what a crash interrupts is published again, never omitted."""
        assert self._producer is not None
        await self._producer.send(messages)
        await self._producer.send(states)
        if offset is not None:
            await self._group.commit(self.partition, *offset)
        await self._producer.commit()
