"""The control endpoints under ``/sim/``, for tests and people: they show what was sent and received, and change the
simulation.

GET /sim/agents [{agent_id, token, asm_session_sid, voice_session_sid, status_desc, ...}] GET /sim/agents/ID all that
this agent was shown and asked GET /sim/events[?since=N] events taken, in order, from index N GET /sim/refusals events
in requests that the service refused GET /sim/stats counts by call and result, connections, CPU seconds POST /sim/faults
{"status_429": {"probability": 0.1, "retry_after": 2}, ...} replaces; {} clears (names and measures: faults.py; `agents`
and `duration` say for whom, how long) POST /sim/faults/NAME {"probability": 0.1, ...}: sets one and leaves the others
as they are POST /sim/freeze, /sim/thaw lives stop, and go on POST /sim/queue {"add": {"skills": [...], "hqm": false,
"agent_id": null, ...}} or {"remove": SID} POST /sim/agents/ID/login a new session; /logout: none; /end, then /resume:
the same one ends and is back POST /sim/agents/ID/status {"status_desc": "PAUSED", ...own fields of VoiceStatus} POST
/sim/agents/ID/message {"text": "...", "timestamp": milliseconds or absent} POST /sim/agents/ID/alert {"kind":
"backoffice_message", "expire_duration": 30, ...}; {"clear": true} POST /sim/agents/ID/conversation {"add": {...}},
{"change": SID, ...} (fields of OmniConversation) or {"remove": SID} POST /sim/agents/ID/token {"token": "..."}: the old
one is unknown from now on
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from bridge.testing.simulator import agents, calls, conversations
from bridge.testing.simulator.faults import NAMES, Fault, Faults
from bridge.testing.simulator.pictures import ALERT_KINDS
from bridge.testing.simulator.service import Simulator
from bridge.testing.simulator.wire import FIELDS
from bridge.testing.simulator.world import Caller

Body = dict[str, Any]
PREFIX = "/sim/"
MAX_SID = 2**63 - 1
OF_THE_REQUEST = frozenset({"keep_alive_succeeded", "message", "message_timestamp", "queued_calls", "alert"})
"""Fields of ``VoiceStatus`` that are not the agent's own status."""


class NotFoundError(Exception):
    """There is no such path or agent."""


def answer(simulator: Simulator, method: str, path: str, query: bytes, body: bytes) -> tuple[int, bytes]:
    """Status and JSON. A wrong request changes nothing and is answered ``{"error": what is wrong}`` with 400 or 404."""
    try:
        return 200, msgspec.json.encode(_route(simulator, method, path.removeprefix(PREFIX), query, body))
    except NotFoundError as missing:
        return 404, msgspec.json.encode({"error": str(missing)})
    except (ValueError, TypeError, KeyError) as wrong:
        return 400, msgspec.json.encode({"error": str(wrong)})


def _route(simulator: Simulator, method: str, path: str, query: bytes, body: bytes) -> Any:
    parts = path.strip("/").split("/")
    match method, parts:
        case "GET", ["agents"]:
            return [_summary(simulator, caller) for caller in simulator.world.callers.values()]
        case "GET", ["agents", agent_id]:
            return _everything(simulator, _caller(simulator, agent_id))
        case "GET", ["events"]:
            return events(simulator, query)
        case "GET", ["refusals"]:
            return simulator.world.ledger.refused
        case "GET", ["stats"]:
            return stats(simulator)
        case "POST", ["faults"]:
            simulator.dice.replace(msgspec.json.decode(body or b"{}", type=Faults))
            return simulator.dice.faults
        case "POST", ["faults", name] if name in NAMES:
            simulator.dice.put(name, msgspec.json.decode(body or b"{}", type=Fault))
            return simulator.dice.faults
        case "POST", [("freeze" | "thaw") as lever]:
            getattr(simulator.world.life_time, lever)(simulator.world.clock())
            return {"frozen": lever == "freeze"}
        case "POST", ["queue"]:
            return change_queue(simulator, _decode(body))
        case "POST", ["agents", agent_id, lever] if lever in LEVERS:
            caller = _caller(simulator, agent_id)
            simulator.world.lived(caller)
            LEVERS[lever](simulator, caller, _decode(body))
            return _summary(simulator, caller)
    raise NotFoundError(f"nothing at {method} {PREFIX}{path}; see bridge/testing/simulator/control.py")


def events(simulator: Simulator, query: bytes) -> list[Any]:
    """The events taken; of ``since=N``, those from index N on."""
    text = query.decode("ascii", "replace")
    if not text:
        return list(simulator.world.ledger.events)
    name, _, number = text.partition("=")
    if name != "since" or not number.isdigit():
        raise ValueError(f"{text!r} is not understood; give since=INDEX or nothing")
    return [event for event in simulator.world.ledger.events if event.index >= int(number)]


def stats(simulator: Simulator) -> Body:
    """Counts since the start."""
    world, conducts = simulator.world, [caller.conduct for caller in simulator.world.callers.values()]
    return {
        "requests": simulator.requests,
        "polls": simulator.by_call["getstatus"],
        "by_call": simulator.by_call,
        "by_result": simulator.results,
        "faults": simulator.dice.hits,
        "overlaps": sum(conduct.overlaps for conduct in conducts),
        "early_after_429": sum(conduct.early_after_429 for conduct in conducts),
        "early_after_503": sum(conduct.early_after_503 for conduct in conducts),
        "events_taken": world.ledger.events_taken,
        "truncated": world.ledger.truncated or any(conduct.truncated for conduct in conducts),
        "connections_open": simulator.connections_open,
        "connections_made": simulator.connections_made,
        "frozen": world.life_time.frozen_at is not None,
        "lived_seconds": world.now(),
        "cpu_seconds": time.process_time(),
    }


def change_queue(simulator: Simulator, body: Body) -> Body:
    """Adds a call (any field of ``QueuedCallData``, and ``hqm``, ``agent_id``), or removes one by its sid."""
    world = simulator.world
    calls.advance(world.queue, world.now())
    match body:
        case {"add": dict(call), **others} if not others:
            own = {name: call[name] for name in ("hqm", "agent_id", "skills") if name in call}
            fields = {name: given for name, given in call.items() if name not in own}
            _known(fields, "QueuedCallData")
            if "call_sid" in fields:
                fields["call_sid"] = _sid(fields["call_sid"])
            return {"call_sid": str(calls.add(world.queue, world.now(), **own, **fields))}
        case {"remove": sid, **others} if not others:
            return {"removed": calls.remove(world.queue, _sid(sid))}
    raise ValueError('give {"add": {...}} or {"remove": "CALL_SID"}')


def _login(simulator: Simulator, caller: Caller, _: Body) -> None:
    agents.login(caller.life, simulator.world.now())


def _logout(simulator: Simulator, caller: Caller, _: Body) -> None:
    agents.logout(caller.life)


def _resume(simulator: Simulator, caller: Caller, _: Body) -> None:
    agents.resume(caller.life, simulator.world.now())


def _status(simulator: Simulator, caller: Caller, body: Body) -> None:
    fields = dict(body)
    desc = fields.pop("status_desc", caller.life.desc)
    _known(fields, "VoiceStatus", OF_THE_REQUEST)
    agents.change_status(caller.life, simulator.world.now(), desc, **fields)


def _message(simulator: Simulator, caller: Caller, body: Body) -> None:
    stamp = body.get("timestamp")
    agents.say(caller.life, simulator.world.now(), str(body["text"]), None if stamp is None else int(stamp))


def _alert(simulator: Simulator, caller: Caller, body: Body) -> None:
    if body.get("clear"):
        agents.clear_alert(caller.life)
        return
    fields = dict(body)
    kind, expire = fields.pop("kind", ALERT_KINDS[0]), int(fields.pop("expire_duration", 0))
    if kind not in ALERT_KINDS:
        raise ValueError(f"kind is {kind!r}; give one of {', '.join(ALERT_KINDS)}")
    _known(fields, FIELDS["AgentAlert"][kind].name)
    agents.raise_alert(caller.life, simulator.world.now(), kind, expire, **fields)


def _conversation(simulator: Simulator, caller: Caller, body: Body) -> None:
    own, fields = simulator.world.conversations(caller), dict(body)
    if body.keys() == {"add"}:
        fields = dict(body["add"])
        _known(fields, "OmniConversation")
        conversations.add(own, simulator.world.now(), **fields)
    elif "change" in body:
        sid = _sid(fields.pop("change"))
        _known(fields, "OmniConversation")
        if not conversations.change(own, sid, **fields):
            raise ValueError(f"there is no conversation {sid}")
    elif body.keys() == {"remove"}:
        own.open.pop(_sid(body["remove"]), None)
    else:
        raise ValueError('give {"add": {...}}, {"change": "SID", ...} or {"remove": "SID"}')


def _token(simulator: Simulator, caller: Caller, body: Body) -> None:
    simulator.world.set_token(caller, str(body["token"]))


LEVERS: dict[str, Callable[[Simulator, Caller, Body], None]] = {
    "login": _login,
    "logout": _logout,
    "end": _logout,
    "resume": _resume,
    "status": _status,
    "message": _message,
    "alert": _alert,
    "conversation": _conversation,
    "token": _token,
}


def _summary(simulator: Simulator, caller: Caller) -> Body:
    life = simulator.world.lived(caller)
    session = life.session
    return {
        "agent_id": life.agent_id,
        "token": caller.token,
        "asm_session_sid": str(session.asm_sid) if session else None,
        "voice_session_sid": str(session.voice_sid) if session else None,
        "status_desc": life.desc,
        "last_status_change": life.status["last_status_change"] if life.status else None,
        "skills": life.skills,
        "site": life.site,
        "polls": caller.conduct.polls,
        "lists": caller.conduct.lists,
        "in_flight": caller.conduct.in_flight,
    }


def _everything(simulator: Simulator, caller: Caller) -> Body:
    conduct = {name: getattr(caller.conduct, name) for name in caller.conduct.__struct_fields__}
    status = caller.life.status
    return {
        **_summary(simulator, caller),
        "status": status,
        "messages_left": caller.life.messages,
        "conversations_open": {str(sid): one for sid, one in simulator.world.conversations(caller).open.items()},
        "ends": caller.life.ends,
        **conduct,
    }


def _caller(simulator: Simulator, agent_id: str) -> Caller:
    caller = simulator.world.callers.get(agent_id)
    if caller is None:
        raise NotFoundError(f"no agent {agent_id!r}; there are agent-0 to agent-{len(simulator.world.callers) - 1}")
    return caller


def _decode(body: bytes) -> Body:
    return msgspec.json.decode(body or b"{}", type=Body)


def _known(fields: Body, message: str, but: frozenset[str] = frozenset()) -> None:
    known = [name for name in FIELDS[message] if name not in but]
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such field here; give any of {', '.join(known)}")


def _sid(given: Any) -> int:
    sid = int(given)
    if not 0 <= sid <= MAX_SID:
        raise ValueError(f"{sid} is not a 64-bit sid")
    return sid
