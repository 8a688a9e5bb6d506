"""One owned partition: fence the last owner, recover, gather steps, commit them.

The partition's own transactional producer is what makes a step atomic and what a paused former owner stumbles over.
Whatever fails, there is one way out: drop the memory and open again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from asm_bridge_schemas.records import AgentState
from bridge.agents.step import DeadLetter, Step
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder, Outgoing, read_state
from bridge.kafka.errors import KafkaError
from bridge.kafka.lifecycle import with_deadline
from bridge.kafka.reading import read_to_end
from bridge.partitions.offsets import CommitMetadata, OffsetTracker
from bridge.telemetry import tracing
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_BATCH_BYTES = 8 * 1024 * 1024
"""Steps gathered beyond this stop the polling until they are committed."""
_OVERDUE = 2.0
"""Seconds after which a commit under way stops the polling."""


class PartitionLost(Exception):
    """The partition's memory is not to be trusted any more; what was not committed was not told."""


@dataclass(slots=True)
class Batch:
    """What the next transaction writes."""

    messages: list[Outgoing] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    traced: list[Step] = field(default_factory=list)
    size: int = 0
    since: float | None = None
    """When its first step came (monotonic)."""

    def add(self, message: Outgoing) -> None:
        self.messages.append(message)
        self.size += len(message.value or b"")


class Journal:
    """Steps go in by ``append`` at any time and never wait; ``commit`` writes what was gathered, whole or not at
    all."""

    def __init__(
        self,
        number: int,
        clients: Clients,
        encoder: Encoder,
        commit_offset: Callable[[TopicPartition, OffsetAndMetadata], Awaitable[None]],
        committed: Callable[[str, AgentState | None], None],
    ) -> None:
        self.number = number
        self.states: dict[str, AgentState] = {}
        self.offsets = OffsetTracker(0)
        self.bookmark = CommitMetadata()
        self._inbox = TopicPartition(clients.topic("inject"), number)
        self._clients = clients
        self._encoder = encoder
        self._commit_offset = commit_offset
        self._committed = committed
        self._producer: AIOKafkaProducer | None = None
        self._batch = Batch()
        self._written: set[str] = set()
        self._unwatched: set[str] = set()
        self._marked: tuple[int, CommitMetadata] | None = None
        self._since: float | None = None
        self.wake = asyncio.Event()

    async def open(self) -> bool:
        """Fence, then read states and offset, in this order. Returns whether the last owner handed over cleanly."""
        self._producer = await self._clients.start_producer(self.number)
        self.states = await self._read_states()
        self._written = set(self.states)
        self._unwatched = {agent_id for agent_id, state in self.states.items() if state.stream_id is None}
        offset, metadata = await self._clients.committed(self._inbox)
        # Without an offset nobody ever owned the partition, or the group's offsets have expired.
        bookmark = CommitMetadata.read(metadata) if offset is not None else CommitMetadata(clean=not self.states)
        self.offsets = OffsetTracker(offset or 0)
        self.bookmark = msgspec.structs.replace(bookmark, clean=False)
        self._marked = None
        await self.commit()
        return bookmark.clean

    @property
    def accepting(self) -> bool:
        """Whether steps can be committed soon: while they cannot, nobody should be asked for more."""
        overdue = self._since is not None and time.monotonic() - self._since > _OVERDUE
        return self._producer is not None and not overdue and self._batch.size < _BATCH_BYTES

    @property
    def since(self) -> float:
        """When the first of the steps came that are not committed yet (monotonic); now, if none is."""
        return self._batch.since or time.monotonic()

    def append(self, step: Step) -> None:
        agent_id = step.state.agent_id
        self._batch.since = self.since
        self.states[agent_id] = step.state
        self._batch.agents.add(agent_id)
        for index, record in enumerate(step.records):
            self._batch.add(self._encoder.record(record, step.traces.get(index)))
        if step.traces or step.span is not None:
            self._batch.traced.append(step)
        for letter in step.dead_letters:
            self.dead_letter(letter)
        for offset in step.finished:
            self.offsets.finish(offset)
        METRICS.record_step(step)
        self.wake.set()

    def dead_letter(self, letter: DeadLetter) -> None:
        METRICS.dead_letters.labels(letter.code).inc()
        self.add(self._encoder.dead_letter(letter))

    def add(self, message: Outgoing, **marks: int) -> None:
        """A message that belongs to no agent's stream; ``marks`` go into the bookmark."""
        self._batch.add(message)
        self.mark(**marks)

    def mark(self, **marks: int) -> None:
        if marks:
            self.bookmark = msgspec.structs.replace(self.bookmark, **marks)
        self.wake.set()

    async def commit(self, *, clean: bool = False) -> None:
        """Write what was gathered. Raises ``PartitionLost``, after which the partition must be opened anew."""
        batch, self._batch = self._batch, Batch()
        self.wake.clear()
        settled = self._settle(batch.agents)
        mark = (self.offsets.prefix, msgspec.structs.replace(self.bookmark, clean=clean))
        offset = None if mark == self._marked else OffsetAndMetadata(mark[0], mark[1].text())
        states = [
            self._encoder.state(agent_id, state)
            for agent_id, state in settled.items()
            if state is not None or agent_id in self._written
        ]
        if batch.messages or states or offset:
            with tracing.commit(batch.traced, self.number, len(batch.messages) + len(states)):
                await self._write(batch.messages, states, offset)
        self._marked = mark
        if batch.since is not None:
            METRICS.step_seconds.observe(time.monotonic() - batch.since)
        for agent_id, state in settled.items():
            (self._written.discard if state is None else self._written.add)(agent_id)
            self._committed(agent_id, state)

    async def close(self) -> None:
        """Let the producer go; what was gathered and not committed is dropped."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._clients.close(producer)

    def _settle(self, agents: set[str]) -> dict[str, AgentState | None]:
        """The states that are new; None for those not needed any more, with nobody watched and no entry to account
        for."""
        prefix = self.offsets.prefix
        settled: dict[str, AgentState | None] = {}
        for agent_id in agents | self._unwatched:
            state = self.states[agent_id]
            if state.stream_id is None and state.bridge.inbox_offset < prefix:
                settled[agent_id] = None
                del self.states[agent_id]
            elif agent_id in agents:
                settled[agent_id] = state
        self._unwatched = {i for i in agents | self._unwatched if i in self.states and self.states[i].stream_id is None}
        return settled

    async def _write(self, messages: list[Outgoing], states: list[Outgoing], offset: OffsetAndMetadata | None) -> None:
        self._since = time.monotonic()
        write = self._transaction if self._clients.exactly_once else self._in_turn
        try:
            with METRICS.commit_seconds.time():
                await with_deadline(write(messages, states, offset))
        except (KafkaError, TimeoutError, AssertionError) as error:
            METRICS.commits.labels("failed").inc()
            METRICS.kafka_errors.labels("commit").inc()
            raise PartitionLost(f"{type(error).__name__}: {error}") from error
        self._since = None
        METRICS.commits.labels("ok").inc()

    async def _transaction(
        self, messages: list[Outgoing], states: list[Outgoing], offset: OffsetAndMetadata | None
    ) -> None:
        assert self._producer is not None
        await self._producer.begin_transaction()
        await self._send([*messages, *states])
        if offset is not None:
            await self._producer.send_offsets_to_transaction({self._inbox: offset}, self._clients.group_id)
        await self._producer.commit_transaction()

    async def _in_turn(
        self, messages: list[Outgoing], states: list[Outgoing], offset: OffsetAndMetadata | None
    ) -> None:
        """Without transactions: what a crash cuts off is told again, never left out."""
        await self._send(messages)
        await self._send(states)
        if offset is not None:
            await self._commit_offset(self._inbox, offset)

    async def _send(self, messages: list[Outgoing]) -> None:
        """Send and wait for every acknowledgement: a commit would succeed without a record that failed.

        A batch for each partition that is written to, or more of them where they are large: one message a ``send()``
        costs aiokafka several times as much.
        """
        assert self._producer is not None
        places: dict[tuple[str, int], list[Outgoing]] = {}
        for m in messages:
            places.setdefault((m.topic, self.number if m.partition is None else m.partition), []).append(m)
        acks: list[asyncio.Future[Any]] = []
        for (topic, partition), there in places.items():
            for batch in self._batches(there):
                ack = await self._producer.send_batch(batch, self._clients.topic(topic), partition=partition)
                ack.add_done_callback(_seen)
                acks.append(ack)
        await asyncio.gather(*acks)

    def _batches(self, messages: list[Outgoing]) -> Iterator[BatchBuilder]:
        assert self._producer is not None
        batch = self._producer.create_batch()
        for m in messages:
            if _add(batch, m) is None:  # it is full
                yield batch
                batch = self._producer.create_batch()
                _add(batch, m)
        yield batch

    async def _read_states(self) -> dict[str, AgentState]:
        states: dict[bytes, AgentState] = {}
        told = time.monotonic()
        partition = (self._clients.topic("agent-state"), self.number)
        async for message in read_to_end(self._clients.connection, [partition]):
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                log.info("partition.recovering", partition=self.number, states=len(states))
            key = message.key or b""
            states.pop(key, None)
            if message.value is not None:
                try:
                    states[key] = read_state(key, message.value, message.headers)
                except msgspec.DecodeError as error:  # another program's: its agent begins a new stream
                    METRICS.kafka_errors.labels("state").inc()
                    agent_id = key.decode(errors="backslashreplace")
                    log.error("state.unreadable", agent_id=agent_id, partition=self.number, error=error)  # noqa: TRY400
        return {state.agent_id: state for state in states.values()}


def _add(batch: BatchBuilder, m: Outgoing) -> object | None:
    return cast("object | None", batch.append(timestamp=m.timestamp, key=m.key, value=m.value, headers=m.headers))


def _seen(ack: asyncio.Future[Any]) -> None:
    """The first of several failures is raised; asyncio would log the others as never retrieved."""
    if not ack.cancelled():
        ack.exception()
