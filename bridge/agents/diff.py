"""The records for the differences between an answer and the state: pure, facet by facet.

Equal pictures give no record; applied to the old picture, the records give the new one.
"""

from collections.abc import Callable
from hashlib import blake2b
from itertools import chain, repeat
from typing import Any, NamedTuple, TypeVar

import msgspec

from asm_bridge_schemas.asm import AgentAlert, QueuedCallData, QueuedCalls, VoiceStatus
from asm_bridge_schemas.protojson import timestamp
from asm_bridge_schemas.records import (
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
from asm_bridge_schemas.statuses import status_group
from bridge.agents.step import Step
from bridge.clock import seconds

T = TypeVar("T")

_LISTS: tuple[tuple[CallList, str], ...] = (
    ("agent_queue", "agent_queue_calls"),
    ("on_hold", "on_hold_calls"),
    ("hqm", "hqm_calls"),
)
_ALERTS: tuple[AlertKind, ...] = ("backoffice_message", "directed_call_ringing", "directed_call_hangup")
_MESSAGES_KEPT = 32
_REMEMBERED = 256


def observe(step: Step, answer: VoiceStatus, *, sid: str, voice_sid: str | None, calls: bool, messages: bool) -> None:
    """Emits what ``answer`` of session ``sid`` changes. ``calls`` and ``messages``: whether the request
    asked for them.
    """
    if step.state.asm_session_sid != sid:
        end_session(step, "replaced")
        start_session(step, sid, answer.current_session_id if voice_sid in (None, "0") else voice_sid)
    _status(step, answer)
    if calls:
        _calls(step, _seen(answer.queued_calls), "gone")
    elif step.state.calls:
        _calls(step, _NONE, "not_asked")
    if messages:
        _message(step, answer)
    _alert(step, answer.alert)


def start_session(step: Step, sid: str, voice_sid: str | None) -> None:
    voice_sid = voice_sid if voice_sid != "0" else None
    step.set(asm_session_sid=sid, voice_session_sid=voice_sid)
    _forget_status(step)
    step.emit(AgentSessionStarted, voice_session_sid=voice_sid)


def end_session(step: Step, reason: str) -> None:
    """Ends the observed session with its calls and alert; does nothing if there is none."""
    state = step.state
    if state.asm_session_sid is None:
        return
    _calls(step, _NONE, "session_ended")
    _alert(step, None)
    step.emit(AgentSessionEnded, voice_session_sid=state.voice_session_sid, reason=reason)
    step.set(asm_session_sid=None, voice_session_sid=None)
    _forget_status(step)


def _forget_status(step: Step) -> None:
    step.set(status=None, status_group=None, status_since=None)
    step.book(status_observed_at=None, status_interrupted=False)


def _status(step: Step, answer: VoiceStatus) -> None:
    state, new = step.state, msgspec.convert(answer, Status, from_attributes=True)
    old = state.status
    if new == old:
        return
    lasts = old is not None and old.status_desc == new.status_desc
    group, since = status_group(new.status_desc), state.status_since if lasts else step.at
    duration = None
    if old is not None and not lasts and state.status_since is not None and not state.bridge.status_interrupted:
        duration = _milliseconds(state.status_since, step.now)
    fields = msgspec.structs.asdict(new)
    step.emit(
        AgentStatusChanged,
        changed=[name for name, value in fields.items() if old is None or getattr(old, name) != value],
        status_group=group,
        status_since=since,
        previous_status_desc=old.status_desc if old else None,
        previous_observed_at=state.bridge.status_observed_at,
        previous_duration_ms=duration,
        **fields,
    )
    step.set(status=new, status_group=group, status_since=since)
    step.book(status_observed_at=step.at, status_interrupted=lasts and state.bridge.status_interrupted)


def _milliseconds(since: str, now: float) -> int:
    """The time from ``since`` until ``now`` (seconds since 1970); never negative, although two clocks may
    be involved.
    """
    return max(0, round((now - seconds(since)) * 1000))


class _Seen(NamedTuple):
    """Calls by (list, call_sid), as in the state, and the digest of each."""

    calls: dict[tuple[CallList, str], QueuedCallData]
    views: list[CallInView]
    digests: list[str]


_NONE = _Seen({}, [], [])


def _by_identity(function: Callable[..., T]) -> Callable[..., T]:
    """Caches the result for identical arguments: a queue that many agents see is one object (``Shared``)."""
    known: dict[tuple[int, ...], tuple[tuple[Any, ...], T]] = {}

    def remembered(*args: Any) -> T:
        key = tuple(map(id, args))
        if key not in known:
            if len(known) >= _REMEMBERED:
                known.clear()
            known[key] = args, function(*args)  # kept, the arguments cannot leave their ids to others
        return known[key][1]

    return remembered


def _calls(step: Step, seen: _Seen, reason: str) -> None:
    old, digests = step.state.calls, step.state.bridge.call_digests
    if seen.digests == digests and seen.views == old:
        return
    changes = _differences(old, digests, seen, reason)
    for change in changes:
        waited = change["start_date"] if change["change"] == "left" else None
        step.emit(QueuedCallChanged, waited_ms=waited and _milliseconds(waited, step.now), **change)
    if changes:
        step.set(calls=seen.views)
        step.book(call_digests=seen.digests)


def _seen(queued: QueuedCalls | None) -> _Seen:
    if queued is None:
        return _NONE
    lists = [_listed(name, getattr(queued, field)) for name, field in _LISTS if getattr(queued, field)]
    return lists[0] if len(lists) == 1 else _together(*lists)


@_by_identity
def _listed(name: CallList, calls: list[QueuedCallData]) -> _Seen:
    known = {(name, call.call_sid): call for call in calls}
    views = [
        CallInView(
            list=name,
            call_sid=sid,
            start_date=timestamp(call.start_date),
            call_type=call.call_type,
            skills=call.skills,
        )
        for (_, sid), call in known.items()
    ]
    return _Seen(known, views, [_digest(call) for call in known.values()])


@_by_identity
def _together(*lists: _Seen) -> _Seen:
    calls = {key: call for one in lists for key, call in one.calls.items()}
    views = [view for one in lists for view in one.views]
    return _Seen(calls, views, [digest for one in lists for digest in one.digests])


@_by_identity
def _differences(old: list[CallInView], digests: list[str], seen: _Seen, reason: str) -> list[dict[str, Any]]:
    """The fields of the record of each call that has changed. A call's position in its list does not count."""
    known = chain(digests, repeat(""))  # a call without a digest, in a state that was not ours, is updated once
    before = {(view.list, view.call_sid): digest for view, digest in zip(old, known, strict=False)}
    changes: list[dict[str, Any]] = [
        {"change": "left", "reason": reason, **msgspec.structs.asdict(view)}
        for view in old
        if (view.list, view.call_sid) not in seen.calls
    ]
    for view, digest in zip(seen.views, seen.digests, strict=True):
        key = view.list, view.call_sid
        if before.get(key) != digest:
            change = "updated" if key in before else "entered"
            fields = _call_fields(seen.calls[key])
            changes.append({"change": change, "list": view.list, "call_sid": view.call_sid, **fields})
    return changes


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
    if not text or at < state.bridge.message_cursor:
        return
    published = state.bridge.message_digests if at == state.bridge.message_cursor else []
    digest = _digest(text)
    if digest in published:
        return
    step.emit(AgentMessageReceived, message=text, message_timestamp=at)
    step.book(message_cursor=at, message_digests=[*published, digest][-_MESSAGES_KEPT:])


def _alert(step: Step, alert: AgentAlert | None) -> None:
    old, new, fields = step.state.alert, None, dict[str, Any]()
    if alert is None and old is None:
        return
    for kind in _ALERTS:
        shown = getattr(alert, kind, None)
        if shown is not None:
            new, fields = Alert(kind=kind, alert_id=shown.id), _alert_fields(shown)
    if new == old:
        return
    if old is not None:
        step.emit(AgentAlertCleared, kind=old.kind, alert_id=old.alert_id)
    if new is not None:
        step.emit(AgentAlertRaised, kind=new.kind, alert_id=new.alert_id, **fields)
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
    """A time, or the text of one that is unreadable."""
    time = timestamp(text)
    return {name: time, f"{name}_raw": text if time is None else None}


def _digest(value: Any) -> str:
    return blake2b(msgspec.json.encode(value), digest_size=8).hexdigest()
