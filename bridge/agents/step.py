"""A step: the records that one answer or decision adds. It is committed as a whole or not at all."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from asm_bridge_schemas.records import TOPICS, AgentState, InjectionCompleted, Published
from bridge.agents.traceparent import Trace
from bridge.clock import rfc3339
from bridge.record_id import RecordId


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A record that could not be handled: its key, value, headers and position, and the reason (a code and a text).

    ``time``: when the dead letter was written, in seconds since 1970; 0 before it is.
    """

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    code: str
    text: str
    origin: RecordId
    time: float = 0.0

    @property
    def agent_id(self) -> str | None:
        """The key as text; None for a record without a key."""
        return None if self.key is None else self.key.decode(errors="backslashreplace")


class KnownOutcome(NamedTuple):
    """The outcome of an event that was sent; ``text``: that of its dead letter, None without one."""

    record: InjectionCompleted
    text: str | None


class Step:
    """Collects the records of one agent, numbering them, and the state after them.

    ``state`` is replaced, never changed in place. ``finished`` holds the offsets of inbox entries that the step
    completes, ``traces`` the sender's trace of the records (by position) that are about an injection, ``span`` the
    context of the poll's span.
    """

    __slots__ = ("_at", "dead_letters", "finished", "now", "records", "span", "state", "traces")

    def __init__(self, state: AgentState, now: float) -> None:
        self.state = state
        self.now = now
        self._at: str | None = None
        self.records: list[Published] = []
        self.dead_letters: list[DeadLetter] = []
        self.finished: list[int] = []
        self.traces: dict[int, Trace] = {}
        self.span: Any = None

    @property
    def at(self) -> str:
        """``now`` as text, for the records. Most steps have no record, and never need it."""
        if self._at is None:
            self._at = rfc3339(self.now)
        return self._at

    def set(self, **fields: Any) -> None:
        """Replaces fields of the state that a reader of the state sees."""
        self.state = msgspec.structs.replace(self.state, **fields)

    def book(self, **fields: Any) -> None:
        """Replaces fields of the bridge's own accounting in the state."""
        self.set(bridge=msgspec.structs.replace(self.state.bridge, **fields))

    def emit(self, record: type[Published], trace: Trace | None = None, **fields: Any) -> None:
        """Adds a record to the agent's stream, or to none if the agent is not watched."""
        state = self.state
        stream_id: Any = state.stream_id  # null only in the outcome for an agent that is not watched
        sequence: Any = None
        topic_sequence: Any = None
        if trace is not None:
            self.traces[len(self.records)] = trace
        if stream_id is not None:
            sequence, numbers, topic = state.sequence + 1, state.bridge.topic_sequences, TOPICS[record]
            topic_sequence = numbers.get(topic, 0) + 1
            books = msgspec.structs.replace(state.bridge, topic_sequences={**numbers, topic: topic_sequence})
            self.set(sequence=sequence, observed_at=self.at, bridge=books)
        self.records.append(
            record(
                agent_id=state.agent_id,
                stream_id=stream_id,
                sequence=sequence,
                topic_sequence=topic_sequence,
                asm_session_sid=fields.pop("asm_session_sid", state.asm_session_sid),
                observed_at=self.at,
                **fields,
            )
        )

    def sent_outcomes(self) -> Iterator[tuple[int, KnownOutcome]]:
        """Offset and outcome of the entries that the step completes and that were sent at least once."""
        texts = {letter.origin.entry: letter.text for letter in self.dead_letters}
        completed = (record for record in self.records if isinstance(record, InjectionCompleted))
        for offset, record in zip(self.finished, completed, strict=True):
            if record.attempts:
                yield offset, KnownOutcome(record, texts.get(record.entry))

    @property
    def empty(self) -> bool:
        return not (self.records or self.dead_letters or self.finished)
