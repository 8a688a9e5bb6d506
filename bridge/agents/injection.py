"""A record of the inbox as an injection: an event that waits for its agent. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from asm_bridge_schemas.commands import CommandError, InjectedEvent, read_event
from bridge.agents.trace import Trace, read_trace
from bridge.clock import seconds

MAX_BYTES = 512 * 1024
MAX_AHEAD = 3600.0
"""How far ahead, in seconds, an ``expires_at`` counts."""

ORIGIN = "asm_origin"
RECEIVED_AT = "asm_received_at"
"""Headers of a record that was moved to its agent's partition: where and when it first arrived."""


class Message(Protocol):
    """A record as read from Kafka; ``timestamp`` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Injection:
    """One event on its way to its agent's session. Times are seconds since 1970.

    ``fault`` is (code, text) of a record that is not an event; ``attempts`` counts the requests that carried it.
    """

    offset: int
    agent_id: str
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    injection_id: str
    source: str | None
    identified: bool
    origin: str
    received_at: float
    expires_at: float
    event: InjectedEvent | None = None
    fault: tuple[str, str] | None = None
    attempts: int = 0
    possibly_processed: bool = False
    http_status: int | None = field(default=None)
    trace: Trace | None = None

    @property
    def entry(self) -> str:
        return self.origin.partition("/")[2]

    @property
    def size(self) -> int:
        return len(self.value or b"")


def read_injection(message: Message, ttl: float, possibly_processed: bool) -> Injection:
    """The injection in a record that has a key. One that is not an event comes back with its ``fault``."""
    assert message.key is not None
    headers = _texts(message.headers)
    origin, received_at = _first_arrival(message, headers)
    ce_id = headers.get("ce_id")
    injection = Injection(
        offset=message.offset,
        agent_id=message.key.decode(errors="backslashreplace"),
        key=message.key,
        value=message.value,
        headers=message.headers,
        injection_id=ce_id or origin.partition("/")[2],
        source=headers.get("ce_source"),
        identified=bool(ce_id),
        origin=origin,
        received_at=received_at,
        expires_at=received_at + ttl,
        possibly_processed=possibly_processed,
        trace=read_trace(message.headers),
    )
    try:
        _fill(injection, headers)
    except CommandError as error:
        injection.fault = (error.code, str(error))
    return injection


def _fill(injection: Injection, headers: dict[str, str]) -> None:
    if injection.size > MAX_BYTES:
        raise CommandError("too_large", f"the value has {injection.size} bytes; at most {MAX_BYTES} are taken")
    if not is_utf8(injection.key):
        raise CommandError("malformed_event", "the key is not UTF-8; it must be the agent_id")
    if (expires_at := headers.get("expires_at")) is not None:
        try:
            injection.expires_at = min(seconds(expires_at), injection.received_at + MAX_AHEAD)
        except ValueError as error:
            raise CommandError("malformed_event", f"the header expires_at is no RFC 3339 time: {error}") from None
    injection.event = read_event(injection.value, headers.get("content-type"))


def _first_arrival(message: Message, headers: dict[str, str]) -> tuple[str, float]:
    """Where (``topic/partition/offset``) and when the record arrived before it was moved, if it was."""
    origin, received_at = headers.get(ORIGIN, ""), headers.get(RECEIVED_AT, "")
    topic, *place = origin.split("/")
    if topic == message.topic and len(place) == 2 and all(part.isdigit() for part in place) and received_at:
        try:
            return origin, seconds(received_at)
        except ValueError:
            pass
    return f"{message.topic}/{message.partition}/{message.offset}", message.timestamp / 1000


def _texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    return {name: value.decode(errors="replace") for name, value in headers if value is not None}


def is_utf8(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
