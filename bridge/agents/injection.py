"""A record of the inbox as an injection: an event that waits for its agent. Pure."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from asm_bridge_schemas.cloudevents import StructuredEvent, unwrap
from asm_bridge_schemas.commands import CommandError, InjectedEvent, read_event
from bridge import headers as names
from bridge.agents.bounds import MAX_BYTES, MAX_ID_BYTES, too_large
from bridge.agents.traceparent import Trace, read_trace
from bridge.clock import seconds
from bridge.record_id import RecordId

MAX_AHEAD = 3600.0
"""How far ahead, in seconds, an ``expires_at`` counts."""


class KafkaRecord(Protocol):
    """A record as read from Kafka; ``timestamp`` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


@dataclass(slots=True)
class Injection:
    """One event on its way to its agent's session. Times are seconds since 1970.

    ``readable_at``: from when its time to live counts: its arrival, or the end of a transaction that held it back.
    ``identified``: whether another record may be the same event: one with its id, or one that was moved twice, because
    the group's offset was set back. ``fault`` is (code, text) of a record that is not an event; ``attempts`` counts the
    requests that carried it, ``throttled`` those that were rejected unread, ``blocked`` those that were rejected on the
    way to the service while requests without it got through.
    """

    offset: int
    agent_id: str
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    injection_id: str
    source: str | None
    identified: bool
    origin: RecordId
    received_at: float
    readable_at: float
    expires_at: float
    event: InjectedEvent | None = None
    fault: tuple[str, str] | None = None
    attempts: int = 0
    throttled: int = 0
    blocked: int = 0
    possibly_processed: bool = False
    http_status: int | None = None
    trace: Trace | None = None

    @property
    def entry(self) -> str:
        return self.origin.entry

    @property
    def size(self) -> int:
        return len(self.value or b"")


def read_injection(message: KafkaRecord, ttl: float, possibly_processed: bool, readable_at: float = 0.0) -> Injection:
    """The injection in a record that has a key. One that is not an event has a ``fault``.

    ``readable_at``: if a transaction held the record back, its end in seconds since 1970.

    In structured mode id and source are those in the value, whatever the headers say.
    """
    assert message.key is not None
    headers = names.texts(message.headers)
    origin, received_at, held_until = _first_arrival(message, headers)
    readable_at = max(received_at, held_until, readable_at)
    large = too_large(message.value, message.headers)
    wrapped = None if large else unwrap(message.value, headers.get(names.CONTENT_TYPE))
    if wrapped is None:
        ids = (headers.get(names.CE_ID), headers.get(names.CE_SOURCE))
    else:
        ids = (wrapped.id, wrapped.source)
        given = zip((names.CE_ID, names.CE_SOURCE), ids, strict=True)
        large = too_large(None, [(name, text.encode()) for name, text in given if text is not None])
    ce_id, source = map(_id, ids)
    injection = Injection(
        offset=message.offset,
        agent_id=message.key.decode(errors="backslashreplace"),
        key=message.key,
        value=message.value,
        headers=message.headers,
        injection_id=ce_id or origin.entry,
        source=source,
        identified=bool(ce_id) or origin != RecordId.of(message),
        origin=origin,
        received_at=received_at,
        readable_at=readable_at,
        expires_at=readable_at + ttl,
        possibly_processed=possibly_processed,
        trace=read_trace(message.headers),
    )
    try:
        if large is not None:
            raise CommandError("too_large", large)
        _fill(injection, headers, wrapped)
    except CommandError as error:
        injection.fault = (error.code, str(error))
    return injection


def _fill(injection: Injection, headers: dict[str, str], wrapped: StructuredEvent | None) -> None:
    if not is_utf8(injection.key):
        raise CommandError("malformed_event", "the key is not UTF-8; it must be the agent_id")
    if (expires_at := headers.get(names.EXPIRES_AT)) is not None:
        try:
            injection.expires_at = min(seconds(expires_at), injection.received_at + MAX_AHEAD)
        except ValueError as error:
            raise CommandError("malformed_event", f"the header expires_at is not an RFC 3339 time: {error}") from None
    event = read_event(injection.value if wrapped is None else wrapped, headers.get(names.CONTENT_TYPE))
    # A control character has one byte in MessagePack, and six in JSON.
    if injection.size > MAX_BYTES // 6 and len(msgspec.json.encode(event.value)) > MAX_BYTES:
        raise CommandError("too_large", f"the event is longer than {MAX_BYTES} bytes as JSON")
    injection.event = event


def _id(text: str | None) -> str | None:
    """An id or a source; None if it is too large for a record."""
    return None if text is None or len(text.encode()) > 4 * MAX_ID_BYTES else text


def _first_arrival(message: KafkaRecord, headers: dict[str, str]) -> tuple[RecordId, float, float]:
    """The position and time of the record's first arrival, before it was moved, and since when it could be read."""
    if names.ORIGIN in headers and names.RECEIVED_AT in headers:
        with contextlib.suppress(ValueError):
            origin, received_at = RecordId.parse(headers[names.ORIGIN]), seconds(headers[names.RECEIVED_AT])
            readable_at = seconds(headers[names.READABLE_AT]) if names.READABLE_AT in headers else received_at
            if origin.topic == message.topic:
                return origin, received_at, min(readable_at, message.timestamp / 1000)
    arrived = message.timestamp / 1000
    return RecordId.of(message), arrived, arrived


def is_utf8(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
