"""The vendor's calls: one function each, from a request's body to its answer.

Each raises GatewayError for what the service refuses and ProtoJSONError for what it cannot read. Events that are
accepted are remembered, and do not change the agent's day.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from asm_bridge_schemas import asm, protojson
from bridge.testing.simulator import agents, answers, calls, conversations, wire
from bridge.testing.simulator.answers import Answer, GatewayError
from bridge.testing.simulator.pictures import Session, SimulatedAgent, newest_message
from bridge.testing.simulator.wire import Value
from bridge.testing.simulator.world import Caller, Listed, Poll, Shown, World

BASE = "/api/v1alpha1/asm/asmapi/"
NO_SESSION = "asm session not found or no longer active"
Call = Callable[[World, Caller, bytes, int], Answer]
"""World, caller, body, the request's number -> the answer."""

_PAGE_TOKEN = re.compile(r"(?:after-(\d{1,19}))?")
_REFUSE = re.compile(r"refuse(?:-(400|404|409|412|422))?")


def read_poll(caller: Caller, body: bytes) -> Poll:
    """The request as read, from memory if it is the agent's last one. Raises ProtoJSONError."""
    if caller.poll is None or body != caller.body:
        given = protojson.read_strict(asm.GetStatusReq, body or b"{}")
        caller.poll = Poll(
            asm_session_sid=int(given.get("asm_session_sid", 0)),
            keep_alive=given.get("perform_keep_alive", False),
            want_calls=given.get("perform_get_queued_calls", False),
            want_message=given.get("perform_get_message", False),
            since=int(given.get("minimum_message_timestamp", 0)),
            skills=tuple(given.get("skills", ())),
            events=tuple(given.get("events", ())),
        )
        caller.body = body
    return caller.poll


def getstatus(world: World, caller: Caller, body: bytes, request: int) -> Answer:
    """The current status; accepts all of the request's events, or refuses the request and accepts none."""
    poll = read_poll(caller, body)
    agent, session = _in_session(world, caller, poll.asm_session_sid)
    if poll.events:
        _refuse_events(poll.events)
        world.ledger.take(agent.agent_id, str(session.asm_sid), poll.events, world.clock(), request)
    queue_version = 0
    if poll.want_calls:
        calls.advance(world.queue, world.now())
        queue_version = world.queue.version(poll.skills)
    shown = caller.shown
    if (
        shown is None
        or shown.poll is not poll
        or shown.version != agent.version
        or shown.queue_version != queue_version
    ):
        shown = caller.shown = _show(world, agent, session, poll, queue_version)
    return shown.answer


def getcurrentsession(world: World, caller: Caller, body: bytes, request: int) -> Answer:
    """The agent's session, or 404 if there is none."""
    protojson.read_strict(asm.GetCurrentSessionReq, body or b"{}")
    session = world.lived(caller).session
    if session is None:
        raise GatewayError(404, "the agent has no asm session")
    started = wire.timestamp(session.started)
    voice = {"voice_session_sid": session.voice_sid, "voice_session_start": started}
    return _ok(
        world,
        "AsmSession",
        {"asm_session_sid": session.asm_sid, "asm_session_start": started, "voice_session": voice},
    )


def createsession(world: World, caller: Caller, body: bytes, request: int) -> Answer:
    """Logs in: a new session replaces the agent's previous one."""
    protojson.read_strict(asm.CreateSessionReq, body or b"{}")
    agent = world.lived(caller)
    session = agents.login(agent, world.now())
    registration = {"username": agent.agent_id, "dial_url": "sip:simulated", "default_time_zone": "UTC"}
    return _ok(
        world,
        "CreateSessionRes",
        {
            "asm_session_sid": session.asm_sid,
            "voice_session_sid": session.voice_sid,
            "voice_registration": registration,
        },
    )


def endsession(world: World, caller: Caller, body: bytes, request: int) -> Answer:
    """Logs the agent out."""
    given = protojson.read_strict(asm.EndSessionReq, body or b"{}")
    agent, _ = _in_session(world, caller, int(given.get("asm_session_sid", 0)))
    agents.logout(agent)
    return _ok(world, "Empty", {})


def listconversations(world: World, caller: Caller, body: bytes, request: int) -> Answer:
    """A page of the agent's conversations, the oldest first. A page token is the sid after which the list continues;
    the vendor's descriptors have no field for it."""
    value = protojson.decode(body or b"{}")
    token = str(value.pop("page_token", None) or value.pop("pageToken", "")) if isinstance(value, dict) else ""
    given = protojson.read_strict(asm.ListConversationsReq, value)
    _, session = _in_session(world, caller, int(given.get("asm_session_sid", 0)))
    match = _PAGE_TOKEN.fullmatch(token)
    if match is None:
        raise GatewayError(400, "the page token is invalid")
    after = int(match[1] or 0)
    found, rest = conversations.page(
        world.conversations(caller), after, given.get("statuses", ()), given.get("channel_types", ())
    )
    before = caller.listed.conversations if caller.listed and after else ()
    caller.listed = Listed(str(session.asm_sid), (*before, *found), whole=not rest)
    next_page = {"next_page_token": f"after-{rest}"} if rest else {}
    return _ok(world, "ListConversationsRes", {"conversations": found, **next_page})


CALLS: dict[str, Call] = {
    "getstatus": getstatus,
    "getcurrentsession": getcurrentsession,
    "createsession": createsession,
    "endsession": endsession,
    "listconversations": listconversations,
}


def ended(world: World) -> GatewayError:
    """The answer to a request for a session that is not the agent's current one."""
    if world.options.ended == "failed_precondition":
        return GatewayError(400, NO_SESSION, code=9)
    return GatewayError(404, NO_SESSION)


def note(world: World, caller: Caller) -> None:
    """Remembers that the answer made last was shown."""
    shown, conduct = caller.shown, caller.conduct
    conduct.shown += 1
    if shown is None or shown is caller.noted:
        return
    caller.noted, ledger, now = shown, world.ledger, world.clock()
    ledger.status_shown(conduct, now, shown.asm_session_sid, shown.status)
    ledger.alert_shown(conduct, now, shown.alert)
    if shown.queued is not None:
        ledger.calls_shown(conduct, now, shown.queued)
    if shown.message is not None:
        ledger.message_shown(conduct, now, *shown.message)
    conduct.last_answer = msgspec.Raw(shown.answer.body)


def note_list(world: World, caller: Caller) -> None:
    """Remembers that the page answered last was shown, if it ends its list."""
    listed = caller.listed
    if listed is not None and listed.whole:
        world.ledger.conversations_shown(caller.conduct, world.clock(), listed.asm_session_sid, listed.conversations)


def _in_session(world: World, caller: Caller, asm_session_sid: int) -> tuple[SimulatedAgent, Session]:
    agent = world.lived(caller)
    if agent.session is None or agent.session.asm_sid != asm_session_sid:
        raise ended(world)
    return agent, agent.session


def _show(world: World, agent: SimulatedAgent, session: Session, poll: Poll, queue_version: int) -> Shown:
    status = agent.status or {}
    message = newest_message(agent, poll.since) if poll.want_message else None
    queued = calls.seen(world.queue, agent.agent_id, poll.skills, agent.on_hold) if poll.want_calls else None
    voice_status = {
        **status,
        "keep_alive_succeeded": poll.keep_alive,
        "message": message[1] if message else "",
        "message_timestamp": message[0] if message else 0,
    }
    # Unset messages are left out, not None: in the wire's table None is an unset Timestamp.
    voice_status |= {"queued_calls": queued} if queued is not None else {}
    voice_status |= {"alert": agent.alert} if agent.alert is not None else {}
    answer = _ok(world, "GetStatusRes", {"voice_status": voice_status})
    sid = str(session.asm_sid)
    return Shown(poll, agent.version, queue_version, answer, sid, status, message, queued, agent.alert)


def _ok(world: World, message: str, value: Value) -> Answer:
    return answers.ok(wire.render(message, value, emit_defaults=world.options.emit_defaults))


def _refuse_events(events: tuple[Value, ...]) -> None:
    """Refuses the whole request if an event's conversation asks for that, by its reference_id or its campaign's name:
    ``refuse`` (400), or ``refuse-409`` and the like.
    """
    for number, event in enumerate(events):
        for kind in event.values():
            conversation: dict[str, Any] = (kind.get("conversation") or {}) if isinstance(kind, dict) else {}
            campaign = (conversation.get("metadata") or {}).get("campaign_name")
            for text in (conversation.get("reference_id"), campaign):
                match = _REFUSE.fullmatch(text or "")
                if match:
                    raise GatewayError(int(match[1] or 400), f"events[{number}]: the conversation cannot be accepted")
