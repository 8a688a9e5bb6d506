"""What an answer says that the state does not: pure, facet by facet.

Equal pictures give no record; applied to the old picture, the records give the new one.
"""

from hashlib import blake2b
from typing import Any

import msgspec

from bridge.steps import Step
from schemas.asm import AgentAlert, QueuedCallData, QueuedCalls, VoiceStatus
from schemas.protojson import timestamp
from schemas.records import (
    AgentAlertCleared,
    AgentAlertRaised,
    AgentMessageReceived,
    AgentSessionEnded,
    AgentSessionRef,
    AgentSessionStarted,
    AgentStatusChanged,
    Alert,
    AlertKind,
    CallerRef,
    CallInView,
    CallList,
    QueuedCallChanged,
    Status,
)

STATUS_FIELDS = Status.__struct_fields__
Seen = dict[tuple[CallList, str], QueuedCallData]
"""Calls by (list, call_sid)."""

_LISTS: tuple[tuple[CallList, str], ...] = (
    ("agent_queue", "agent_queue_calls"),
    ("on_hold", "on_hold_calls"),
    ("hqm", "hqm_calls"),
)
_ALERTS: tuple[AlertKind, ...] = ("backoffice_message", "directed_call_ringing", "directed_call_hangup")
_MESSAGES_KEPT = 32


def observe(step: Step, answer: VoiceStatus, *, sid: str, voice_sid: str | None, calls: bool, messages: bool) -> None:
    """Add what ``answer`` of session ``sid`` changes. ``calls`` and ``messages``: whether the request asked for
    them."""
    if step.state.asm_session_sid != sid:
        end_session(step, "replaced")
        start_session(step, sid, answer.current_session_id if voice_sid in (None, "0") else voice_sid)
    _status(step, answer)
    if calls:
        _calls(step, _seen(answer.queued_calls), "gone")
    elif step.state.calls:
        _calls(step, {}, "not_asked")
    if messages:
        _message(step, answer)
    _alert(step, answer.alert)


def start_session(step: Step, sid: str, voice_sid: str | None) -> None:
    voice_sid = voice_sid if voice_sid != "0" else None
    step.set(asm_session_sid=sid, voice_session_sid=voice_sid, status=None, status_observed_at=None)
    step.tell(AgentSessionStarted, voice_session_sid=voice_sid)


def end_session(step: Step, reason: str) -> None:
    """The session in view is over, and with it its calls and alert. Nothing happens where there is none."""
    state = step.state
    if state.asm_session_sid is None:
        return
    _calls(step, {}, "session_ended")
    _alert(step, None)
    step.tell(AgentSessionEnded, voice_session_sid=state.voice_session_sid, reason=reason)
    step.set(asm_session_sid=None, voice_session_sid=None, status=None, status_observed_at=None)


def _status(step: Step, answer: VoiceStatus) -> None:
    old, new = step.state.status, msgspec.convert(answer, Status, from_attributes=True)
    if new == old:
        return
    step.tell(
        AgentStatusChanged,
        changed=[name for name in STATUS_FIELDS if old is None or getattr(old, name) != getattr(new, name)],
        previous_status_desc=old.status_desc if old else None,
        previous_observed_at=step.state.status_observed_at,
        **{name: getattr(new, name) for name in STATUS_FIELDS},
    )
    step.set(status=new, status_observed_at=step.at)


def _seen(queued: QueuedCalls | None) -> Seen:
    if queued is None:
        return {}
    return {(name, call.call_sid): call for name, field in _LISTS for call in getattr(queued, field)}


def _calls(step: Step, seen: Seen, reason: str) -> None:
    old = {(call.list, call.call_sid): call for call in step.state.calls}
    new = {key: _view(key, call) for key, call in seen.items()}
    if new == old:
        return
    for name, sid in [key for key in old if key not in new]:
        step.tell(QueuedCallChanged, change="left", list=name, call_sid=sid, reason=reason)
    for key, view in new.items():
        if old.get(key) != view:
            change = "updated" if key in old else "entered"
            step.tell(QueuedCallChanged, change=change, list=key[0], call_sid=key[1], **_call_fields(seen[key]))
    step.set(calls=list(new.values()))


_views: dict[tuple[CallList, str], tuple[QueuedCallData, CallInView]] = {}
"""The last picture of a call, whoever saw it: a queue is seen by all who wait for it, and a digest costs more than a
look."""
_VIEWS_KEPT = 10_000


def _view(key: tuple[CallList, str], call: QueuedCallData) -> CallInView:
    known = _views.get(key)
    if known is not None and (known[0] is call or known[0] == call):
        return known[1]
    if len(_views) >= _VIEWS_KEPT:
        _views.clear()
    view = CallInView(list=key[0], call_sid=key[1], digest=_digest(call))
    _views[key] = call, view
    return view


def _call_fields(call: QueuedCallData) -> dict[str, Any]:
    return {
        "phone_number": call.phone_number,
        "caller_id": call.caller_id,
        "call_type": call.call_type,
        **_time("start_date", call.start_date),
        **_time("hold_date", call.hold_date),
        "skills": list(call.skills),
        "agent_specific": call.agent_specific,
        "queued_notification_type": call.queued_notification_type,
    }


def _message(step: Step, answer: VoiceStatus) -> None:
    state, text, at = step.state, answer.message, answer.message_timestamp
    if not text or at < state.message_cursor:
        return
    told = state.message_digests if at == state.message_cursor else []
    digest = _digest(text)
    if digest in told:
        return
    step.tell(AgentMessageReceived, message=text, message_timestamp=at)
    step.set(message_cursor=at, message_digests=[*told, digest][-_MESSAGES_KEPT:])


def _alert(step: Step, alert: AgentAlert | None) -> None:
    old, new, fields = step.state.alert, None, dict[str, Any]()
    for kind in _ALERTS:
        shown = getattr(alert, kind, None)
        if shown is not None:
            new, fields = Alert(kind=kind, alert_id=shown.id), _alert_fields(shown)
    if new == old:
        return
    if old is not None:
        step.tell(AgentAlertCleared, kind=old.kind, alert_id=old.alert_id)
    if new is not None:
        step.tell(AgentAlertRaised, kind=new.kind, alert_id=new.alert_id, **fields)
    step.set(alert=new)


def _alert_fields(alert: Any) -> dict[str, Any]:
    fields = {
        "expire_duration": alert.expire_duration,
        **_time("timestamp", alert.timestamp),
        "target_agent_session": _as(alert.target_agent_session, AgentSessionRef),
        "caller_sid": _as(getattr(alert, "caller_sid", None), CallerRef),
    }
    return fields | {name: getattr(alert, name, None) for name in ("message", "caller_id", "destination_number")}


def _as(message: msgspec.Struct | None, cls: type[msgspec.Struct]) -> msgspec.Struct | None:
    return None if message is None else msgspec.convert(message, cls, from_attributes=True)


def _time(name: str, text: str | None) -> dict[str, str | None]:
    """A time, or the text of one that cannot be read."""
    time = timestamp(text)
    return {name: time, f"{name}_raw": text if time is None else None}


def _digest(value: Any) -> str:
    return blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
