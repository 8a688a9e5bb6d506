"""Records as Kafka messages: value, CloudEvents headers (binary mode), key, timestamp."""

from typing import Any, Literal, NamedTuple
from urllib.parse import quote

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState, InjectionCompleted, Published
from bridge.agents.step import DeadLetter
from bridge.agents.trace import Trace
from bridge.clock import seconds

OWN_HEADERS = frozenset({"asm_error_code", "asm_error", "asm_origin", "asm_received_at"})
"""What the bridge itself writes beside a record's own headers."""

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
    headers: list[tuple[str, bytes]]
    timestamp: int | None = None
    partition: int | None = None


class Encoder:
    def __init__(self, encoding: Literal["json", "msgpack"], inbox: str) -> None:
        self._encode = (msgspec.json if encoding == "json" else msgspec.msgpack).Encoder().encode
        self._content_type = ("content-type", CONTENT_TYPES[encoding])
        self._inbox = inbox
        self._types = {cls: self._type_headers(cls) for cls in records.TOPICS}

    def record(self, record: Published, trace: Trace | None = None) -> Outgoing:
        cls = type(record)
        source = f"/asm/agents/{quote(record.agent_id, safe='')}"
        headers = [
            *self._types[cls],
            ("ce_id", self._id(record).encode()),
            ("ce_source", source.encode()),
            ("ce_subject", record.agent_id.encode()),
            ("ce_time", record.observed_at.encode()),
        ]
        if trace is not None:
            headers += trace.headers
        at = round(seconds(record.observed_at) * 1000)
        return Outgoing(records.TOPICS[cls], record.agent_id.encode(), self._encode(record), headers, at)

    def state(self, agent_id: str, state: AgentState | None) -> Outgoing:
        value = None if state is None else self._encode(state)
        return Outgoing("agent-state", agent_id.encode(), value, [self._content_type])

    def dead_letter(self, letter: DeadLetter) -> Outgoing:
        headers = [header for header in letter.headers if header[0] not in OWN_HEADERS]
        headers += [
            ("asm_error_code", letter.code.encode()),
            ("asm_error", letter.text.encode()),
            ("asm_origin", letter.origin.encode()),
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
            ("ce_specversion", b"1.0"),
            ("ce_type", records.ce_type(cls).encode()),
            ("ce_dataschema", records.dataschema(cls).encode()),
            self._content_type,
        ]


def read_state(value: bytes, headers: tuple[tuple[str, bytes], ...]) -> AgentState:
    """An ``AgentState`` as this release or its neighbours wrote it. Raises ``msgspec.DecodeError``."""
    content_type = dict(headers).get("content-type", b"application/json")
    if content_type not in _DECODERS:
        raise msgspec.DecodeError(f"the content-type {content_type!r} is none that a state has")
    return _DECODERS[content_type].decode(value)
