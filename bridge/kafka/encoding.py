"""Records as Kafka messages and back: value, CloudEvents headers (binary mode), key, timestamp."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.commands import UNWRITABLE
from asm_bridge_schemas.frame import unframed
from asm_bridge_schemas.records import (
    AgentState,
    Books,
    Delivered,
    InjectionCompleted,
    PartitionHeartbeat,
    Published,
)
from asm_bridge_schemas.statuses import status_group
from bridge import headers as names
from bridge.agents.bounds import MAX_ID_BYTES, kept
from bridge.agents.injection import KafkaRecord
from bridge.agents.step import DeadLetter
from bridge.agents.traceparent import Trace
from bridge.clock import seconds
from bridge.kafka.limits import Limits
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.smaller import smaller_dead_letters, smaller_records, smaller_states
from bridge.record_id import RecordId

CONTENT_TYPES = {"json": b"application/json", "msgpack": b"application/msgpack"}
_CODECS: dict[bytes, Any] = {CONTENT_TYPES["json"]: msgspec.json, CONTENT_TYPES["msgpack"]: msgspec.msgpack}

_unreserved = re.compile(r"[A-Za-z0-9._~-]*").fullmatch
"""Whether ``quote`` would not change the text (RFC 3986, section 2.3), as most ids: this takes a fifth of its time."""
_LONGEST_TEXT = 10_000
"""Characters of a dead letter's error, which may quote the input."""
_SHORTENED = frozenset(records.TOPICS.values()) - {"heartbeats"}


class Encoder:
    """``inbox``: the full name of its topic; ``source``: the prefix of each ce_source.

    ``framed(topic, value)``: a value as it is written where a Schema Registry is used.

    ``limits``: the sizes that the topics accept. A larger record is shortened: its texts and lists, a state's memory of
    delivered events, a dead letter's value.
    """

    def __init__(
        self,
        encoding: Literal["json", "msgpack"],
        inbox: str,
        source: str = "",
        framed: Callable[[str, bytes], bytes] | None = None,
        limits: Limits | None = None,
    ) -> None:
        content_type = CONTENT_TYPES[encoding]
        self._encode = _CODECS[content_type].Encoder().encode
        self._decode = _CODECS[content_type].decode
        self._inbox = inbox
        self._source = source
        self._types = {
            cls: [
                (names.CE_SPECVERSION, b"1.0"),
                (names.CE_TYPE, records.ce_type(cls).encode()),
                (names.CE_DATASCHEMA, records.dataschema(cls).encode()),
                (names.CONTENT_TYPE, content_type),
            ]
            for cls in records.TOPICS
        }
        self._limits = Limits() if limits is None else limits
        self._framed = framed

    def record(self, record: Published, trace: Trace | None = None) -> Outgoing:
        cls = type(record)
        headers = self._headers(cls, "agents", record.agent_id, self._id(record), record.observed_at)
        if trace is not None:
            headers += trace.headers
        topic, at = records.TOPICS[cls], _milliseconds(record.observed_at)
        message = Outgoing(topic, record.agent_id.encode(), self._value(topic, record), headers, at)
        return self.fitted(message)

    def state(self, agent_id: str, state: AgentState | None, at: float, inbox: str | None = None) -> Outgoing:
        """``at``: the Kafka timestamp, in seconds since 1970; ``inbox``: the id, if known, of the inbox that its
        offsets are of. The id differs from that of the stream's record with the same number."""
        timestamp = int(at * 1000)
        if state is None:
            return Outgoing("agent-state", agent_id.encode(), None, [], timestamp)
        stream = state.stream_id or agent_id
        number = state.sequence if state.stream_id else state.bridge.inbox_offset
        headers = self._headers(AgentState, "agents", agent_id, f"state:{stream}:{number}", state.observed_at)
        if inbox is not None:
            headers.append((names.INBOX, inbox.encode()))
        message = Outgoing("agent-state", agent_id.encode(), self._value("agent-state", state), headers, timestamp)
        return self.fitted(message)

    def heartbeat(self, heartbeat: PartitionHeartbeat) -> Outgoing:
        key, until = str(heartbeat.partition), heartbeat.observed_until
        headers = self._headers(PartitionHeartbeat, "partitions", key, f"{key}:{until}", until)
        return Outgoing("heartbeats", key.encode(), self._value("heartbeats", heartbeat), headers, _milliseconds(until))

    def dead_letter(self, letter: DeadLetter, partition: int | None = None) -> Outgoing:
        headers = kept(header for header in letter.headers if header[0] not in names.OWN)
        reason = [
            (names.ERROR_CODE, letter.code.encode()),
            (names.ERROR, letter.text[:_LONGEST_TEXT].encode()),
            (names.ORIGIN, str(letter.origin).encode()),
        ]
        # aiokafka refuses a record with neither key nor value, and so every transaction with it.
        key = letter.key if len(letter.key or b"") <= MAX_ID_BYTES else None
        value = b"" if key is None and letter.value is None else letter.value
        message = Outgoing("dead-letters", key, value, [*headers, *reason], partition=partition)
        return self.fitted(message)

    def unwritable(self, message: Outgoing, text: str, at: float) -> Outgoing:
        """The dead letter of the bridge's own record that Kafka refuses. The record is in no topic, so it has no
        origin."""
        reason = [(names.ERROR_CODE, UNWRITABLE.encode()), (names.ERROR, text.encode())]
        value = None if message.value is None else unframed(message.value)
        letter = Outgoing("dead-letters", message.key, value, [*message.headers, *reason], int(at * 1000))
        return self.fitted(letter)

    def fitted(self, message: Outgoing) -> Outgoing:
        """The message, or the fullest of its smaller forms that its topic accepts, as far as that is known."""
        return message if self._limits.fits(message) else self._limits.choose(message, self.smaller(message))

    def smaller(self, message: Outgoing) -> Iterator[Outgoing]:
        """The smaller forms of a message, the fullest first; none of a tombstone, a heartbeat or a moved event."""
        topic, _, value, *_ = message
        if topic == "dead-letters":
            yield from smaller_dead_letters(message)
        elif value is not None and topic in _SHORTENED:
            smaller = smaller_states if topic == "agent-state" else smaller_records
            for form in smaller(self._decode(unframed(value))):
                yield message._replace(value=self._value(topic, form))

    def _value(self, topic: str, content: Any) -> bytes:
        value: bytes = self._encode(content)
        return value if self._framed is None else self._framed(topic, value)

    def _id(self, record: Published) -> str:
        if record.stream_id is None and isinstance(record, InjectionCompleted):
            return f"{self._inbox}/{record.entry}"
        return f"{record.stream_id}:{record.sequence}"

    def _headers(
        self, cls: type[Any], kind: str, subject: str, event_id: str, time: str | None
    ) -> list[tuple[str, bytes]]:
        """CloudEvents' attributes; ``kind``: the kind of the subject, for the source."""
        path = subject if _unreserved(subject) else quote(subject, safe="")
        headers = [
            *self._types[cls],
            (names.CE_ID, event_id.encode()),
            (names.CE_SOURCE, f"{self._source}/asm/{kind}/{path}".encode()),
            (names.CE_SUBJECT, subject.encode()),
        ]
        if time is not None:
            headers.append((names.CE_TIME, time.encode()))
        return headers


def read_dead_letter(message: KafkaRecord) -> DeadLetter:
    """The dead letter in a record of its topic, with all of the record's headers; another program's has its own
    position as its origin."""
    texts = names.texts(message.headers)
    try:
        origin = RecordId.parse(texts.get(names.ORIGIN, ""))
    except ValueError:
        origin = RecordId.of(message)
    return DeadLetter(
        key=message.key,
        value=message.value,
        headers=tuple(message.headers),
        code=texts.get(names.ERROR_CODE, "unknown"),
        text=texts.get(names.ERROR, ""),
        origin=origin,
        time=message.timestamp / 1000,
    )


def read_state(key: bytes, value: bytes, headers: Iterable[tuple[str, bytes | None]]) -> AgentState:
    """An ``AgentState`` as this release or its neighbours wrote it under its agent_id, framed or not. Raises
    ``msgspec.DecodeError`` for anything else."""
    value = unframed(value)
    content_type = dict(headers).get(names.CONTENT_TYPE, b"application/json")
    if content_type is None or content_type not in _CODECS:
        raise msgspec.DecodeError(f"the content-type {content_type!r} is not one of a state")
    try:
        state: AgentState = _CODECS[content_type].decode(value, type=AgentState)
        known = state.agent_id.encode() == key
    except (UnicodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    if not known:
        raise msgspec.DecodeError(f"the state of agent {state.agent_id!r} has another key")
    state = state if state.version > 1 else _upgraded(state, _CODECS[content_type].decode(value, type=_Books1))
    times = [state.observed_at, state.status_since, state.bridge.status_observed_at]
    times += [state.lost.since if state.lost else None, *(call.start_date for call in state.calls)]
    try:
        for time in times:
            if time is not None:
                seconds(time)
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error
    return state


class _Books1(msgspec.Struct):
    """The bridge's books in version 1 of a state, which had them among its other fields."""

    status_observed_at: str | None = None
    message_cursor: int = 0
    message_digests: list[str] = []
    inbox_offset: int = -1
    inbox_open: list[int] = []
    delivered: list[Delivered] = []


def _upgraded(state: AgentState, old: _Books1) -> AgentState:
    """A state of version 1 as one of today's. Its calls have no digests, so each of them is ``updated`` once."""
    books = Books(**msgspec.structs.asdict(old), call_digests=[""] * len(state.calls))
    group = None if state.status is None else status_group(state.status.status_desc)
    return msgspec.structs.replace(state, version=2, bridge=books, status_group=group)


def _milliseconds(time: str) -> int:
    return round(seconds(time) * 1000)
