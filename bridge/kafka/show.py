"""Records in a form for people and programs: decoded, one line each."""

import base64
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from asm_bridge_schemas.frame import unframed
from bridge import headers as names
from bridge.agents.injection import KafkaRecord
from bridge.clock import rfc3339
from bridge.printable import escaped, printable

Value = dict[str, Any]


def decoded(message: KafkaRecord) -> Any:
    """The value, decoded by its content-type header, without its frame; bytes that do not match it are returned
    unchanged.
    """
    if message.value is None:
        return None
    content_type = (dict(message.headers).get(names.CONTENT_TYPE) or b"").partition(b";")[0].strip().lower()
    decode: Callable[[bytes], Any] = msgspec.msgpack.decode if b"msgpack" in content_type else msgspec.json.decode
    try:
        value = decode(unframed(message.value))
        msgspec.json.encode(value)  # MessagePack has kinds of values that JSON lacks
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return bytes(message.value)
    return value


def as_json(message: KafkaRecord) -> str:
    """One JSON object on one line; a value that cannot be decoded is null, with its bytes in ``value_base64``."""
    value = decoded(message)
    record: Value = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp": _time(message),
        "key": None if message.key is None else _text(message.key),
        "headers": {name: None if content is None else _text(content) for name, content in message.headers},
        "value": None if isinstance(value, bytes) else value,
    }
    if isinstance(value, bytes):
        record["value_base64"] = base64.b64encode(value).decode("ascii")
    return escaped(msgspec.json.encode(record).decode())


def as_line(message: KafkaRecord, prefix: str) -> str:
    """Time, topic without the prefix, agent, type, and the most important fields."""
    value = decoded(message)
    headers = names.texts(message.headers)
    kind = str(value.get("type") or "-") if isinstance(value, dict) else "-"
    summary = _summary(value, headers)
    agent = _text(message.key) if message.key is not None else "-"
    parts = f"{_time(message)}  {message.topic.removeprefix(prefix):<15} {agent:<12} {kind:<26} {summary}"
    return printable(parts).rstrip()


def _summary(value: Any, headers: dict[str, str]) -> str:
    if names.ERROR_CODE in headers:
        return f"{headers[names.ERROR_CODE]}: {headers.get(names.ERROR, '')} ({headers.get(names.ORIGIN, '')})"
    if value is None:
        return "(tombstone)"
    if isinstance(value, bytes):
        return f"({len(value)} bytes that cannot be decoded)"
    if isinstance(value, dict) and (summary := _SUMMARIES.get(str(value.get("type")))):
        with contextlib.suppress(AttributeError, TypeError):  # another program's fields, under our type
            return summary(value)
    return msgspec.json.encode(value).decode()


def _fields(*names: str) -> Callable[[Value], str]:
    return lambda value: " ".join(str(value[name]) for name in names if value.get(name) not in (None, ""))


def _status(value: Value) -> str:
    before, now = value.get("previous_status_desc"), value.get("status_desc")
    others = [name for name in value.get("changed", ()) if name not in ("status", "status_desc")]
    if before is None:
        return str(now)
    changed = f" ({', '.join(f'{name}={value.get(name)}' for name in others)})" if others else ""
    return (f"{before} -> {now}" if before != now else str(now)) + changed


def _state(value: Value) -> str:
    status = value.get("status") or {}
    calls = len(value.get("calls", ()))
    return f"{status.get('status_desc', 'no status')}, {calls} calls, sequence {value.get('sequence')}"


def _profile(value: Value) -> str:
    labels = [f"{name}={text}" for name, text in (value.get("labels") or {}).items()]
    return ", ".join([*labels, *(value.get("skills") or [])])


def _heartbeat(value: Value) -> str:
    agents, in_session, lost = (value.get(name) for name in ("agents", "in_session", "lost"))
    return f"until {value.get('observed_until')}: {agents} agents, {in_session} in session, {lost} lost"


_SUMMARIES: dict[str, Callable[[Value], str]] = {
    "AgentStatusChanged": _status,
    "AgentWatchStarted": _fields("reason"),
    "AgentWatchEnded": _fields("reason"),
    "AgentProfileChanged": _profile,
    "AgentSessionStarted": _fields("asm_session_sid", "reason"),
    "AgentSessionEnded": _fields("asm_session_sid", "reason"),
    "AgentObservationLost": _fields("reason", "since"),
    "AgentObservationResumed": _fields("reason", "since"),
    "QueuedCallChanged": _fields("change", "list", "call_sid", "reason", "call_type", "phone_number"),
    "AgentMessageReceived": _fields("message"),
    "AgentAlertRaised": _fields("kind", "alert_id", "message"),
    "AgentAlertCleared": _fields("kind", "alert_id"),
    "ConversationEventDelivered": _fields("kind", "conversation_sid", "injection_id"),
    "ConversationChanged": _fields("change", "conversation_sid"),
    "InjectionCompleted": _fields("outcome", "reason", "injection_id", "http_status"),
    "AgentState": _state,
    "PartitionHeartbeat": _heartbeat,
}


def _time(message: KafkaRecord) -> str:
    return rfc3339(message.timestamp / 1000, "milliseconds")


def _text(content: bytes) -> str:
    return bytes(content).decode(errors="backslashreplace")
