"""Records as Kafka messages and back: value, CloudEvents headers (binary mode), key, timestamp."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState, InjectionCompleted, Published
from bridge import headers as names
from bridge.agents.injection import Message
from bridge.agents.step import DeadLetter
from bridge.agents.trace import Trace
from bridge.clock import seconds
from bridge.record_id import RecordId

CONTENT_TYPES = {"json": b"application/json", "msgpack": b"application/msgpack"}
_DECODERS: dict[bytes, msgspec.json.Decoder[AgentState] | msgspec.msgpack.Decoder[AgentState]] = {
    b"application/json": msgspec.json.Decoder(AgentState),
    b"application/msgpack": msgspec.msgpack.Decoder(AgentState),
}


class Outgoing(NamedTuple):
    """A message for ``topic`` (without prefix); ``partition`` is None for the owner's own; times in milliseconds."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None = None
    partition: int | None = None


class Encoder:
    def __init__(self, encoding: Literal["json", "msgpack"], inbox: str) -> None:
        self._encode = (msgspec.json if encoding == "json" else msgspec.msgpack).Encoder().encode
        self._content_type = (names.CONTENT_TYPE, CONTENT_TYPES[encoding])
        self._inbox = inbox
        self._types = {cls: self._type_headers(cls) for cls in records.TOPICS}

    def record(self, record: Published, trace: Trace | None = None) -> Outgoing:
        cls = type(record)
        source = f"/asm/agents/{quote(record.agent_id, safe='')}"
        headers = [
            *self._types[cls],
            (names.CE_ID, self._id(record).encode()),
            (names.CE_SOURCE, source.encode()),
            (names.CE_SUBJECT, record.agent_id.encode()),
            (names.CE_TIME, record.observed_at.encode()),
        ]
        if trace is not None:
            headers += trace.headers
        at = round(seconds(record.observed_at) * 1000)
        return Outgoing(records.TOPICS[cls], record.agent_id.encode(), self._encode(record), headers, at)

    def state(self, agent_id: str, state: AgentState | None) -> Outgoing:
        value = None if state is None else self._encode(state)
        return Outgoing("agent-state", agent_id.encode(), value, [self._content_type])

    def dead_letter(self, letter: DeadLetter) -> Outgoing:
        headers = [header for header in letter.headers if header[0] not in names.OWN]
        headers += [
            (names.ERROR_CODE, letter.code.encode()),
            (names.ERROR, letter.text.encode()),
            (names.ORIGIN, str(letter.origin).encode()),
        ]
        # aiokafka refuses a record with neither key nor value, and with it every transaction that has it.
        value = b"" if letter.key is None and letter.value is None else letter.value
        return Outgoing("dead-letters", letter.key, value, headers)

    def _id(self, record: Published) -> str:
        if record.stream_id is None and isinstance(record, InjectionCompleted):
            return f"{self._inbox}/{record.entry}"
        return f"{record.stream_id}:{record.sequence}"

    def _type_headers(self, cls: type[Any]) -> list[tuple[str, bytes]]:
        return [
            (names.CE_SPECVERSION, b"1.0"),
            (names.CE_TYPE, records.ce_type(cls).encode()),
            (names.CE_DATASCHEMA, records.dataschema(cls).encode()),
            self._content_type,
        ]


def read_dead_letter(message: Message) -> DeadLetter:
    """The dead letter in a record of its topic, with all of the record's headers; another program's has its own
    position as its origin."""
    texts = names.texts(message.headers)
    try:
        origin = RecordId.parse(texts.get(names.ORIGIN, ""))
    except ValueError:
        origin = RecordId(message.topic, message.partition, message.offset)
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
    """An ``AgentState`` as this release or its neighbours wrote it under its agent_id. Raises ``msgspec.DecodeError``
    for whatever else stands there."""
    content_type = dict(headers).get(names.CONTENT_TYPE, b"application/json")
    if content_type is None or content_type not in _DECODERS:
        raise msgspec.DecodeError(f"the content-type {content_type!r} is not one of a state")
    try:
        state = _DECODERS[content_type].decode(value)
        known = state.agent_id.encode() == key
    except (UnicodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    if not known:
        raise msgspec.DecodeError(f"the state of agent {state.agent_id!r} stands under another key")
    return state
