"""The simulator of the vendor's service: what it shows, what it takes, and how it fails on request."""

import asyncio
import gzip
import json
import signal
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from google.protobuf import json_format

from asm_bridge_schemas import asm, protojson
from bridge.cli import main
from bridge.testing.simulator import Fault, Faults, Options, Simulator, serve
from bridge.testing.simulator.agents import advance, born
from bridge.testing.simulator.answers import CODES, MALFORMED, Answer
from bridge.testing.simulator.control import answer as pull
from bridge.testing.simulator.pictures import ALERT_KINDS, SimulatedAgent
from tests.support.protobuf import parsed

EPOCH = 1_790_000_000.0
GETSTATUS = "/api/v1alpha1/asm/asmapi/getstatus"


class Clock:
    """A clock that moves only on request."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __call__(self) -> float:
        return self.now


class Service:
    """A simulator without the network, called as the server calls it."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.simulator = Simulator(Options(**{"agents": 3, "change_rate": 0.0, **options}), clock=self.clock)

    def call(self, name: str, agent_id: str, body: bytes, token: str | None = None) -> Answer:
        authorization = f"Bearer {token or f'sim-token-{agent_id}'}".encode()
        visit = self.simulator.begin(name, authorization, body)
        answer = self.simulator.process(visit, body)
        self.simulator.finish(visit, answer.result)
        return answer

    def sid(self, agent_id: str = "agent-0") -> str:
        session = self.simulator.world.lived(self.simulator.world.callers[agent_id]).session
        return str(session.asm_sid) if session else "0"

    def poll(self, agent_id: str = "agent-0", **request: Any) -> Answer:
        body = json.dumps({"asm_session_sid": self.sid(agent_id), **request}).encode()
        return self.call("getstatus", agent_id, body)

    def status(self, agent_id: str = "agent-0", **request: Any) -> dict[str, Any]:
        answer = self.poll(agent_id, **request)
        assert answer.status == 200, answer.body
        return dict(json.loads(answer.body)["voiceStatus"])

    def get(self, path: str) -> Any:
        return self.lever("GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return self.lever("POST", path, body)

    def lever(self, method: str, path: str, body: Any = None) -> Any:
        bare, _, query = path.partition("?")
        content = b"" if body is None else json.dumps(body).encode()
        status, text = pull(self.simulator, method, f"/sim/{bare}", query.encode(), content)
        assert status == 200, text
        return json.loads(text)

    def agent(self, agent_id: str) -> dict[str, Any]:
        return dict(self.get(f"agents/{agent_id}"))

    def taken(self) -> list[dict[str, Any]]:
        return [taken["event"] for taken in self.get("events")]


def activated(sid: int, **conversation: Any) -> dict[str, Any]:
    return {"activatedConversationEvent": {"conversation": {"conversationSid": str(sid), **conversation}}}


def refusal(answer: Answer) -> tuple[int, int]:
    error = json.loads(answer.body)
    assert set(error) == {"code", "message", "details"}
    return answer.status, error["code"]


def diary(agent: SimulatedAgent, until: int, step: float) -> list[Any]:
    """The states of a life at full tens of seconds, when it is observed every ``step`` seconds."""
    seen = []
    for tick in range(1, round(until / step) + 1):
        advance(agent, tick * step)
        if tick * step % 10 == 0:
            seen.append((agent.session, agent.status, agent.messages, agent.alert, agent.on_hold))
    return seen


# ------------------------------------------------------------------------------------------------- lives


def test_same_seed_same_life_however_often_it_is_looked_at() -> None:
    """The same seed and the same times give the same life; another seed gives another."""
    often, seldom, other = (
        diary(born(4, seed, change_rate=0.5, epoch=EPOCH), 2000, step) for seed, step in ((7, 0.5), (7, 10), (8, 10))
    )
    assert often == seldom
    assert often != other


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_statuses_change_at_the_rate_asked_for(rate: float) -> None:
    """--change-rate is the mean number of status changes per second and agent."""
    span, changes = 2000 / rate, 0
    for index in range(4):
        agent = born(index, 3, change_rate=rate, epoch=EPOCH)
        last = agent.status
        while agent.next_due <= span:
            advance(agent, agent.next_due)
            changes += agent.status is not last
            last = agent.status
    assert changes / 4 / span == pytest.approx(rate, rel=0.1)


def test_a_frozen_fleet_does_nothing_by_itself() -> None:
    """With a change rate of 0 nothing happens except on request."""
    service = Service(change_rate=0)
    before = service.poll(perform_get_queued_calls=True, perform_get_message=True, skills=["english"])
    service.clock.now += 100_000
    assert service.poll(perform_get_queued_calls=True, perform_get_message=True, skills=["english"]) == before


def test_a_life_shows_everything_that_the_bridge_tells_of() -> None:
    """A working day has calls, holds, transfers, pauses, wrap-ups, messages, each kind of alert, and logins."""
    agent = born(0, 1, change_rate=1.0, epoch=EPOCH)
    statuses, alerts, sessions, members = set(), set(), set(), set()
    for second in range(20_000):
        advance(agent, second)
        statuses.add(agent.desc)
        alerts |= set(agent.alert or ())
        sessions.add(agent.session.asm_sid if agent.session else None)
        members |= {member["identifier"] for member in (agent.status or {}).get("transfer_members", ())}
    assert {"READY", "PEERED", "WRAPUP", "PAUSED", "PEERED_WITH_CALL_ON_HOLD", "LOGGED_OUT"} <= statuses
    assert alerts == set(ALERT_KINDS)
    assert None in sessions
    assert len(sessions) > 3
    assert {member.partition("-")[0] for member in members} == {"agent", "caller", "supervisor", "outbound"}
    assert len({stamp for stamp, _ in agent.messages}) == len(agent.messages) > 10


def test_sids_do_not_survive_a_float() -> None:
    """Sids are beyond 2^53, so a client that lets them pass through a float is found out."""
    sids = {int(agent["asm_session_sid"]) for agent in Service(agents=50).get("agents")}
    assert len(sids) == 50
    assert any(int(float(sid)) != sid for sid in sids)
    assert min(sids) > 2**53


# ------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("emit_defaults", [False, True])
def test_answers_are_what_protobuf_prints(emit_defaults: bool) -> None:
    """Over a day, each answer is word for word what Google's protobuf prints, with defaults left out or given."""
    service = Service(change_rate=1.0, emit_defaults=emit_defaults)
    seen = set()
    for _ in range(2000):
        service.clock.now += 1
        if service.sid() == "0":
            continue
        answer = service.poll(perform_get_queued_calls=True, perform_get_message=True, skills=["english", "sales"])
        given = json.loads(answer.body)
        printed = json_format.MessageToDict(
            parsed("GetStatusRes", given), always_print_fields_with_no_presence=emit_defaults
        )
        assert without_nulls(given) == printed
        assert (b"null" in answer.body) <= emit_defaults
        status = protojson.read(asm.GetStatusRes, answer.body).voice_status
        assert status is not None
        seen |= {name for name in ("alert", "transfer_members", "message") if getattr(status, name)}
        seen |= {name for name in ("on_hold_calls", "hqm_calls") if getattr(status.queued_calls, name)}
    assert seen == {"alert", "transfer_members", "message", "on_hold_calls", "hqm_calls"}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def test_an_unchanged_picture_is_the_same_bytes() -> None:
    """As long as nothing changes the answer is the same, byte for byte; a change shows at once."""
    service = Service(change_rate=0.5)
    service.post("freeze")
    first = service.poll()
    service.clock.now += 3600
    assert service.poll().body == first.body
    service.post("agents/agent-0/status", {"status_desc": "SECURE_FORM_HANDLING"})
    assert service.status()["statusDesc"] == "SECURE_FORM_HANDLING"
    service.post("thaw")
    service.clock.now += 3600
    assert service.agent("agent-0")["status_desc"] != "SECURE_FORM_HANDLING"


def test_only_what_was_asked_for_is_shown() -> None:
    """Calls, message and keep-alive are answered only if they were requested; the agent's own status always is."""
    service = Service()
    service.post("agents/agent-0/message", {"text": "hello"})
    plain = service.status()
    assert not {"queuedCalls", "message", "messageTimestamp", "keepAliveSucceeded"} & set(plain)
    full = service.status(perform_get_queued_calls=True, perform_get_message=True, performKeepAlive=True)
    assert {"queuedCalls", "message", "messageTimestamp", "keepAliveSucceeded"} <= set(full)
    assert plain.items() <= full.items()


def test_message_is_the_newest_not_older_than_the_cursor() -> None:
    """`message` is the newest one not older than the inclusive cursor; a later cursor returns no message."""
    service = Service()
    for text in ("one", "two"):
        service.post("agents/agent-0/message", {"text": text})
    newest = service.status(perform_get_message=True)
    stamp = int(newest["messageTimestamp"])
    assert newest["message"] == "two"
    assert service.status(perform_get_message=True, minimum_message_timestamp=stamp)["message"] == "two"
    assert "message" not in service.status(perform_get_message=True, minimum_message_timestamp=stamp + 1)
    service.post("agents/agent-0/message", {"text": "three", "timestamp": stamp})
    shown = service.status(perform_get_message=True, minimum_message_timestamp=stamp)
    assert (shown["message"], int(shown["messageTimestamp"])) == ("three", stamp)


def test_several_agents_see_one_queued_call() -> None:
    """A call in the queue is seen by every agent with its skills, by no other, and leaves for all at once."""
    service = Service()
    sid = service.post("queue", {"add": {"skills": ["klingon"], "phone_number": "+12005550100"}})["call_sid"]

    def sees(agent_id: str, *skills: str) -> bool:
        queued = service.status(agent_id, perform_get_queued_calls=True, skills=skills)["queuedCalls"]
        return sid in [call["callSid"] for call in queued.get("agentQueueCalls", ())]

    assert [sees("agent-0", "klingon"), sees("agent-1", "klingon", "x"), sees("agent-2", "x")] == [True, True, False]
    assert service.post("queue", {"remove": sid}) == {"removed": True}
    assert not sees("agent-0", "klingon")
    assert not sees("agent-1", "klingon", "x")


def test_a_call_for_one_agent_is_shown_to_that_one() -> None:
    """An agent-specific call, and one in the hold queue monitor, appear where they belong."""
    service = Service()
    mine = service.post("queue", {"add": {"agent_id": "agent-1"}})["call_sid"]
    monitored = service.post("queue", {"add": {"call_sid": "77", "hqm": True}})["call_sid"]
    shown = {n: service.status(f"agent-{n}", perform_get_queued_calls=True)["queuedCalls"] for n in (0, 1)}
    assert [call["callSid"] for call in shown[1]["agentQueueCalls"]] == [mine]
    assert shown[1]["agentQueueCalls"][0]["agentSpecific"] is True
    assert "agentQueueCalls" not in shown[0]
    assert [call["callSid"] for call in shown[0]["hqmCalls"]] == [monitored] == ["77"]


def test_queued_calls_come_and_go() -> None:
    """The queue lives: calls enter, are queued again and leave, and it stays of bounded length."""
    service = Service(change_rate=1.0)
    skills = ["english", "spanish", "tagalog", "sales", "support", "billing"]
    seen, longest, kinds = set(), 0, set()
    for _ in range(1000):
        service.clock.now += 1
        body = json.dumps({"asm_session_sid": service.sid(), "perform_get_queued_calls": True, "skills": skills})
        answer = service.call("getstatus", "agent-0", body.encode())
        if answer.status == 200:
            found = json.loads(answer.body)["voiceStatus"]["queuedCalls"].get("agentQueueCalls", [])
            longest = max(longest, len(found))
            seen |= {call["callSid"] for call in found}
            kinds |= {call.get("queuedNotificationType") for call in found}
    assert len(seen) > 500
    assert longest < 60
    assert kinds == {None, "QueuedNotificationType_GENERAL_REQUEUED"}


# ------------------------------------------------------------------------------------------------- requests


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('{"asm_session_sid": "%s", "perform_get_message": true}', 200),
        ('{"asmSessionSid": %s, "performGetMessage": true}', 200),
        ('{"asm_session_sid": "%s", "surprise": 1}', 400),
        ('{"asm_session_sid": "%s", "skills": "english"}', 400),
        ('{"asm_session_sid": "%s", "events": [{"nonsense_event": {}}]}', 400),
        ('{"asm_session_sid": "%s"', 400),
    ],
)
def test_requests_are_read_as_strictly_as_a_gateway_does(body: str, status: int) -> None:
    """Requests are read in either naming style with int64 as text or number; unknown fields, wrong types and bad JSON
    are an invalid argument.
    """
    service = Service()
    answer = service.call("getstatus", "agent-0", (body % service.sid()).encode())
    assert answer.status == status
    if status == 400:
        assert refusal(answer) == (400, 3)


def test_unknown_token_is_unauthenticated() -> None:
    """A token that no agent has, or that was replaced, is answered 401 (16)."""
    service = Service()
    assert refusal(service.call("getcurrentsession", "agent-0", b"{}", token="nobody")) == (401, 16)
    service.post("agents/agent-0/token", {"token": "renewed"})
    assert refusal(service.call("getcurrentsession", "agent-0", b"{}")) == (401, 16)
    assert service.call("getcurrentsession", "agent-0", b"{}", token="renewed").status == 200


@pytest.mark.parametrize(("ended", "expected"), [("not_found", (404, 5)), ("failed_precondition", (400, 9))])
def test_a_session_that_has_ended_is_answered_as_configured(ended: str, expected: tuple[int, int]) -> None:
    """A sid that is not the agent's current one is answered 404 (5) or 400 (9); another agent's sid, too."""
    service = Service(ended=ended)
    old = service.sid()
    service.post("agents/agent-0/login")
    assert service.sid() != old
    assert refusal(service.poll(asm_session_sid=old)) == expected
    assert refusal(service.poll(asm_session_sid=service.sid("agent-1"))) == expected
    assert service.poll().status == 200


def test_a_session_ends_and_comes_back_under_its_sid() -> None:
    """After /end the agent has no session; /resume brings the same one back."""
    service = Service()
    sid = service.sid()
    service.post("agents/agent-0/end")
    assert refusal(service.call("getcurrentsession", "agent-0", b"{}")) == (404, 5)
    assert refusal(service.poll(asm_session_sid=sid)) == (404, 5)
    service.post("agents/agent-0/resume")
    session = protojson.read(asm.AsmSession, service.call("getcurrentsession", "agent-0", b"").body)
    assert session.asm_session_sid == sid
    assert session.voice_session is not None
    assert session.voice_session.voice_session_sid == service.status()["currentSessionId"]


def test_an_agent_that_was_logged_out_by_hand_stays_away() -> None:
    """/logout holds until /login, whatever the life would have done."""
    service = Service(change_rate=1.0)
    service.post("agents/agent-0/logout")
    service.clock.now += 10_000
    assert service.agent("agent-0")["asm_session_sid"] is None
    service.post("agents/agent-0/login")
    assert service.status()["statusDesc"] == "IDLE"


def test_sessions_are_made_and_ended_by_the_vendors_own_calls() -> None:
    """createsession logs in, endsession logs out."""
    service = Service()
    old = service.sid()
    made = protojson.read(asm.CreateSessionRes, service.call("createsession", "agent-0", b"{}").body)
    assert made.asm_session_sid == service.sid() != old
    body = json.dumps({"asm_session_sid": made.asm_session_sid}).encode()
    assert service.call("endsession", "agent-0", body).body == b"{}"
    assert service.agent("agent-0")["asm_session_sid"] is None


# ------------------------------------------------------------------------------------------------- events


def test_taken_events_are_remembered_in_order() -> None:
    """Each event that was answered 2xx is recorded once, in order, with its agent and session."""
    service = Service()
    service.poll("agent-0", events=[activated(2**60 + 1), {"pause_event": {}}])
    service.poll("agent-1", events=[{"state": "IDLE", "sendStatusEvent": {"status": "WAITING"}}])
    taken = service.get("events")
    assert [(t["index"], t["agent_id"], t["asm_session_sid"]) for t in taken] == [
        (0, "agent-0", service.sid("agent-0")),
        (1, "agent-0", service.sid("agent-0")),
        (2, "agent-1", service.sid("agent-1")),
    ]
    assert taken[0]["event"] == {"activated_conversation_event": {"conversation": {"conversation_sid": str(2**60 + 1)}}}
    assert taken[0]["request"] == taken[1]["request"] != taken[2]["request"]
    assert service.get("events?since=2") == taken[2:]


@pytest.mark.parametrize(
    ("conversation", "expected"),
    [
        ({"referenceId": "refuse"}, (400, 3)),
        ({"referenceId": "refuse-409"}, (409, 10)),
        ({"metadata": {"campaignName": "refuse-412"}}, (412, 9)),
    ],
)
def test_a_refused_event_takes_the_whole_request_along(conversation: dict[str, Any], expected: tuple[int, int]) -> None:
    """If one event is refused none of the request's events are taken; without it they are."""
    service = Service()
    good, bad = activated(1), activated(2, **conversation)
    assert refusal(service.poll(events=[good, bad])) == expected
    assert service.taken() == []
    assert service.poll(events=[good]).status == 200
    assert len(service.taken()) == 1


def test_events_for_an_ended_session_are_not_taken() -> None:
    """A request for a session that is over takes nothing."""
    service = Service()
    assert service.poll(asm_session_sid="5", events=[activated(1)]).status == 404
    assert service.taken() == []


# ------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("status_401", (401, 16)),
        ("status_429", (429, 8)),
        ("status_500", (500, 13)),
        ("status_503", (503, 14)),
        ("ended", (404, 5)),
        ("hang", (504, 4)),
    ],
)
def test_a_fault_answers_with_its_status_and_takes_nothing(fault: str, expected: tuple[int, int]) -> None:
    """A faulty answer has the gateway's form, and the request's events are not taken."""
    service = Service(faults={fault: Fault()})
    assert refusal(service.poll(events=[activated(1)])) == expected
    assert service.taken() == []
    service.post("faults", {})
    assert service.poll().status == 200


def head(answer: Answer) -> dict[bytes, bytes]:
    return dict(answer.headers)


def is_the_services_own(answer: Answer) -> bool:
    """Whether it is what the vendor's gateway prints for that status."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return False
    if answer.status == 200:
        return isinstance(body, dict) and "voiceStatus" in body
    code = CODES.get(answer.status)
    return isinstance(body, dict) and (body.get("code"), type(body.get("message"))) == (code, str)


FOREIGN = {
    "foreign_400": {400}, "foreign_401": {401}, "foreign_403": {403}, "foreign_404": {404}, "no_route": {404},
    "foreign_json": {400, 404, 409}, "envelope": {200}, "html_200": {200}, "empty_200": {200},
    "redirect": {302, 307, 308},
}  # fmt: skip


@pytest.mark.parametrize("fault", FOREIGN)
def test_a_foreign_answer_is_not_the_services_and_takes_nothing(fault: str) -> None:
    """A foreign answer has its own form, and the service neither sees the request nor shows anything."""
    service = Service(faults={fault: Fault()})
    got = [service.poll(events=[activated(1)]) for _ in range(12)]
    assert {one.status for one in got} == FOREIGN[fault]
    assert not any(map(is_the_services_own, got))
    assert all(head(one)[b"content-length"] == b"%d" % len(one.body) for one in got)
    assert (service.taken(), service.agent("agent-0")["pictures"]) == ([], [])


@pytest.mark.parametrize("older", [False, True])
def test_refusals_of_the_service_are_what_its_gateway_prints(older: bool) -> None:
    """A refusal has the code of its status, a text and details, and from an older gateway also "error"."""
    service = Service(older_errors=older)
    refused = [
        service.poll(asm_session_sid="5"),
        service.poll(no_such_field=1),
        service.call("getstatus", "agent-0", b"{}", token="wrong"),
        *(service.poll(events=[activated(1, reference_id=f"refuse-{status}")]) for status in (400, 404, 409, 412, 422)),
    ]
    for fault in ("status_401", "status_429", "status_500", "status_503", "hang", "unauthorized_burst"):
        service.post("faults", {fault: {}})
        refused += [service.poll(), service.poll()]
    assert all(map(is_the_services_own, refused))
    assert all(json.loads(one.body)["details"] == [] for one in refused)
    assert {"error" in json.loads(one.body) for one in refused} == {older}


@pytest.mark.parametrize(
    ("fault", "retry_after"),
    [
        ("retry_after_0", b"0"),
        ("retry_after_3600", b"3600"),
        ("retry_after_date_past", b"Mon, 21 Sep 2026 14:13:15 GMT"),
    ],
)
def test_a_retry_after_may_be_of_any_length(fault: str, retry_after: bytes) -> None:
    """Retry-After may be missing, an hour, or a past date; the answer has its own Date, and takes nothing."""
    service = Service(faults={fault: Fault()})
    answer = service.poll(events=[activated(1)])
    assert (answer.status, head(answer)[b"retry-after"]) == (503, retry_after)
    assert head(answer)[b"date"] == b"Mon, 21 Sep 2026 14:13:20 GMT"
    assert is_the_services_own(answer)
    service.post("faults", {fault: {"status": 429}})
    assert refusal(service.poll()) == (429, 8)
    assert service.taken() == []


def test_an_error_may_come_after_the_service_took_the_request() -> None:
    """After an error that follows processing (502, 503, 504, 408, 499), the events are taken and nothing counts as
    shown.
    """
    service = Service(faults={"error_after_taken": Fault()})
    got = [service.poll(events=[activated(sid)]) for sid in range(20)]
    assert {one.status for one in got} == {502, 503, 504, 408, 499}
    assert {is_the_services_own(one) for one in got} == {True, False}
    assert (len(service.taken()), service.agent("agent-0")["pictures"]) == (20, [])
    service.post("faults", {"error_after_taken": {"status": 503}})
    assert {service.poll().status for _ in range(4)} == {503}


@pytest.mark.parametrize(
    ("fault", "result"),
    [("event_403", "403"), ("event_413", "413"), ("event_500", "500"), ("event_cut", "cut"), ("event_silence", "504")],
)
def test_a_marked_event_is_disliked_wherever_it_is(fault: str, result: str) -> None:
    """Each request with it fails, and takes nothing; requests without it are served."""
    service = Service(faults={fault: Fault()})
    marked, good = activated(1, reference_id="marked"), activated(2, reference_id="fine")
    assert [service.poll(events=events).result for events in ([marked], [good, marked])] == [result, result]
    assert service.taken() == []
    assert [service.poll(events=events).result for events in ([], [good])] == ["200", "200"]
    body = json.dumps({"asm_session_sid": service.sid(), "events": [marked]}).encode()
    delay = service.simulator.begin("getstatus", b"Bearer sim-token-agent-0", body).delay
    assert delay == (60.0 if fault == "event_silence" else 0.0)


def test_an_answer_may_be_compressed_unasked() -> None:
    """An unrequested gzip or deflate answer takes the events, and its contents count as shown."""
    service = Service(faults={"gzip": Fault()})
    decoders: dict[bytes, Callable[[bytes], bytes]] = {b"gzip": gzip.decompress, b"deflate": zlib.decompress}
    for sid in (1, 2):
        answer = service.poll(events=[activated(sid)])
        body = decoders.pop(head(answer)[b"content-encoding"])(answer.body)
        assert "voiceStatus" in json.loads(body)
        assert head(answer)[b"content-length"] == b"%d" % len(answer.body)
    assert (len(service.taken()), service.agent("agent-0")["shown"]) == (2, 2)


@pytest.mark.parametrize("emit_defaults", [False, True])
def test_an_answer_may_be_odd_json_and_say_the_same(emit_defaults: bool) -> None:
    """An answer in odd JSON is read as the same answer in plain JSON, at any time of a day."""
    service = Service(agents=6, change_rate=1.0, emit_defaults=emit_defaults)
    request = {"perform_get_queued_calls": True, "perform_get_message": True, "skills": ["english", "sales"]}
    raised = 0
    for _ in range(150):
        service.clock.now += 1.5
        for call, message in (("getstatus", asm.GetStatusRes), ("getcurrentsession", asm.AsmSession)):
            service.post("faults", {})
            body = json.dumps({"asm_session_sid": service.sid(), **request} if call == "getstatus" else {}).encode()
            plain = service.call(call, "agent-0", body)
            service.post("faults", {"odd": {}})
            odd = service.call(call, "agent-0", body)
            assert odd.status == plain.status
            if plain.status == 200:
                assert plain.body != odd.body
                assert protojson.read(message, odd.body) == protojson.read(message, plain.body)
                raised += b"alert" in plain.body
    assert raised


def test_one_fault_can_be_set_beside_others() -> None:
    """A fault that is set by its name leaves those in force; its own count and duration start again."""
    service = Service()
    service.post("faults/foreign_404", {"duration": 3, "agents": ["agent-1"]})
    service.clock.now += 2
    service.post("faults/status_500", {"agents": ["agent-0"], "count": 1})
    assert [service.poll(f"agent-{number}").status for number in (0, 1, 2)] == [500, 404, 200]
    service.clock.now += 1
    assert [service.poll(f"agent-{number}").status for number in (0, 1)] == [200, 200]
    service.post("faults/status_500", {"count": 1})
    assert [service.poll().status for _ in range(2)] == [500, 200]


def test_what_the_service_refused_and_ended_is_remembered() -> None:
    """Events in refused requests, and the ends of each session, are recorded; foreign refusals do not count."""
    service = Service()
    bad, sid = activated(1, reference_id="refuse-409"), service.sid()
    service.poll(events=[bad, activated(2)])
    service.poll(events=[bad])
    service.post("faults/foreign_404", {"count": 1})
    service.poll(events=[activated(3)])
    assert [(one["status"], one["alone"]) for one in service.get("refusals")] == [
        (409, False),
        (409, False),
        (409, True),
    ]
    assert service.agent("agent-0")["ends"] == {}
    for lever in ("end", "resume", "login", "logout"):
        service.post(f"agents/agent-0/{lever}", {})
    assert service.agent("agent-0")["ends"] == {sid: 2, str(int(sid) + 1): 1}


def test_a_fault_may_last_for_a_time() -> None:
    """After its duration, counted from when it was set, requests are served again."""
    service = Service()
    service.post("faults", {"foreign_404": {"duration": 3, "agents": ["agent-1"]}})
    assert [service.poll("agent-0").status, service.poll("agent-1").status] == [200, 404]
    service.clock.now += 3
    assert service.poll("agent-1").status == 200
    service.post("faults", {"foreign_404": {"duration": 3}})
    assert service.poll().status == 404


@pytest.mark.parametrize("fault", ["status_429", "status_503"])
def test_coming_back_before_retry_after_is_counted(fault: str) -> None:
    """Retry-After is sent; a request that comes before it has passed is counted against the client."""
    service = Service(faults={fault: Fault(retry_after=5, count=1)})
    assert (b"retry-after", b"5") in service.poll().headers
    service.clock.now += 4.9
    service.poll()
    service.clock.now += 0.1
    service.poll()
    assert service.get("stats")[fault.replace("status_", "early_after_")] == 1


def test_faults_hit_whom_and_as_often_as_told() -> None:
    """A fault can be limited to some agents, calls, requests with events, a number, or a probability."""
    service = Service()
    service.post("faults", {"status_500": {"agents": ["agent-1"], "count": 2, "only_events": True}})
    assert service.poll("agent-0", events=[activated(1)]).status == 200
    assert service.poll("agent-1").status == 200
    assert [service.poll("agent-1", events=[activated(2)]).status for _ in range(3)] == [500, 500, 200]
    service.post("faults", {"status_503": {"calls": ["getcurrentsession"]}})
    assert service.poll().status == 200
    assert service.call("getcurrentsession", "agent-0", b"{}").status == 503
    service.post("faults", {"status_429": {"probability": 0.3}})
    assert 250 < sum(service.poll().status == 429 for _ in range(1000)) < 350


def test_wrong_fault_settings_are_refused_and_change_nothing() -> None:
    """An unknown fault and an invalid probability are reported by name, and change nothing."""
    service = Service(faults={"status_500": Fault()})
    settings: list[Any] = [{"explode": {}}, {"status_500": {"probability": 2}}, {"status_500": {"chance": 1}}]
    for wrong in settings:
        status, text = pull(service.simulator, "POST", "/sim/faults", b"", json.dumps(wrong).encode())
        assert status == 400
        assert b"error" in text
    assert service.poll().status == 500


def test_slow_delays_and_still_answers() -> None:
    """`slow` and the latency add up to the delay before the request is handled."""
    service = Service(latency=0.01, faults={"slow": Fault(ms=250)})
    visit = service.simulator.begin("getstatus", b"Bearer sim-token-agent-0", b"{}")
    assert visit.delay == pytest.approx(0.26)
    assert visit.fault is None


@pytest.mark.parametrize("body", MALFORMED)
def test_malformed_answers_cannot_be_read(body: bytes) -> None:
    """No reader of the vendor's messages can read an answer of `malformed`."""
    with pytest.raises(protojson.ProtoJSONError):
        protojson.read(asm.GetStatusRes, body)


def test_a_malformed_answer_is_200_and_took_the_events() -> None:
    """`malformed` takes the events, and what it garbled does not count as shown."""
    service = Service(faults={"malformed": Fault()})
    answer = service.poll(events=[activated(1)])
    assert (answer.status, answer.body in MALFORMED) == (200, True)
    assert len(service.taken()) == 1
    assert service.agent("agent-0")["pictures"] == []


@pytest.mark.parametrize(("fault", "taken"), [("cut", 0), ("cut_after", 1)])
async def test_a_cut_connection_gives_no_answer(fault: str, taken: int) -> None:
    """A cut request ends in a connection error; after `cut_after`, and only then, its events were taken."""
    service = Service(faults={fault: Fault(count=2)})
    body = {"asm_session_sid": service.sid(), "events": [activated(1)]}
    async with serve(service.simulator) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as client:
        for _ in range(2):  # the answer is cut before it begins, and in its middle
            with pytest.raises(httpx.TransportError):
                await client.post(GETSTATUS, json=body)
        assert len(service.taken()) == 2 * taken
        assert (await client.post(GETSTATUS, json=body)).status_code == 200
        stats = (await client.get("/sim/stats")).json()
    assert stats["by_result"] == {"cut": 2, "200": 1}
    assert service.agent("agent-0")["in_flight"] == 0
    assert service.agent("agent-0")["shown"] == 1


# ------------------------------------------------------------------------------------------------- the server

BEARER = {"Authorization": "Bearer sim-token-agent-0"}


async def test_the_server_answers_over_http() -> None:
    """It listens on a free port, keeps connections alive, and answers as the vendor's addresses do."""
    service = Service()
    async with serve(service.simulator) as url, httpx.AsyncClient(base_url=url, headers=BEARER) as client:
        session = (await client.post("/api/v1alpha1/asm/asmapi/getcurrentsession", json={})).json()
        answer = await client.post(GETSTATUS, json={"asm_session_sid": session["asmSessionSid"]})
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["voiceStatus"]["statusDesc"] == service.agent("agent-0")["status_desc"]
        big = {"asm_session_sid": session["asmSessionSid"], "events": [activated(1, customerName="x" * 500_000)]}
        assert (await client.post(GETSTATUS, json=big)).status_code == 200
        assert (await client.get(GETSTATUS)).status_code == 405
        assert (await client.post("/api/v1alpha1/asm/asmapi/nothing", json={})).json()["code"] == 5
        assert (await client.post("/sim/agents/agent-9/login")).status_code == 404
        assert (await client.get("/sim/stats")).json()["connections_made"] == 1


async def test_a_client_that_leaves_ends_its_request() -> None:
    """A request that hangs ends when its client leaves, so the next one does not overlap, and nothing was taken."""
    service = Service(faults={"hang": Fault(count=1)})
    body = {"asm_session_sid": service.sid(), "events": [activated(1)]}
    async with serve(service.simulator) as url:
        async with httpx.AsyncClient(base_url=url, headers=BEARER) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(GETSTATUS, json=body, timeout=0.05)
        async with httpx.AsyncClient(base_url=url, headers=BEARER) as client:
            assert (await client.post(GETSTATUS, json=body)).status_code == 200
    stats = service.get("stats")
    assert (stats["by_result"], stats["overlaps"]) == ({"gone": 1, "200": 1}, 0)
    assert len(service.taken()) == 1


async def test_overlapping_requests_of_one_agent_are_counted() -> None:
    """Two concurrent requests of one agent count as an overlap; those of two agents do not."""
    service = Service(latency=0.05)
    async with serve(service.simulator) as url, httpx.AsyncClient(base_url=url) as client:

        async def ask(agent_id: str) -> None:
            headers = {"Authorization": f"Bearer sim-token-{agent_id}"}
            await client.post(GETSTATUS, json={"asm_session_sid": service.sid(agent_id)}, headers=headers)

        await asyncio.gather(ask("agent-0"), ask("agent-1"))
        assert service.get("stats")["overlaps"] == 0
        await asyncio.gather(ask("agent-0"), ask("agent-0"))
        assert service.get("stats")["overlaps"] == 1


async def test_the_server_stops_although_a_request_hangs() -> None:
    """Leaving the block ends every connection, also one whose answer is still being withheld."""
    service = Service(faults={"hang": Fault()})
    async with httpx.AsyncClient(headers=BEARER) as client:
        async with serve(service.simulator) as url:
            hanging = asyncio.create_task(client.post(url + GETSTATUS, json={}))
            while not service.agent("agent-0")["in_flight"]:
                await asyncio.sleep(0)
        with pytest.raises(httpx.HTTPError):
            await hanging
    assert service.agent("agent-0")["in_flight"] == 0


# ------------------------------------------------------------------------------------------------- the record


def test_what_was_shown_is_remembered() -> None:
    """The statuses, messages, alerts and calls that each agent was shown are recorded, with the times of
    its requests.
    """
    service = Service()
    wish: dict[str, Any] = {"perform_get_queued_calls": True, "perform_get_message": True}
    service.poll(**wish)
    service.clock.now += 1.5
    service.post("agents/agent-0/status", {"status_desc": "PAUSED", "agent_is_muted": True})
    service.post("agents/agent-0/message", {"text": "hello"})
    service.post("agents/agent-0/alert", {"kind": "directed_call_ringing", "caller_id": "+12005550100"})
    sid = service.post("queue", {"add": {}})["call_sid"]
    last = service.poll(**wish)
    service.clock.now += 1
    service.poll(**wish)
    log = service.agent("agent-0")
    assert [picture["status_desc"] for picture in log["pictures"]][1:] == ["PAUSED"]
    assert log["pictures"][1]["at"] == EPOCH + 1.5
    assert log["pictures"][1]["asm_session_sid"] == service.sid()
    assert log["last_status"]["agent_is_muted"] is True
    assert [message["message"] for message in log["messages"]] == ["hello"]
    assert [(alert["kind"], alert["alert_id"]) for alert in log["alerts"]] == [("directed_call_ringing", "alert-0-1")]
    assert log["calls"][-1]["calls"][-1] == ["agent_queue", sid]
    assert log["last_answer"] == json.loads(last.body)
    assert (log["polls"], log["shown"], log["gaps"]) == (3, 3, [1.5, 1.0])


def test_an_alert_goes_when_it_expires_or_is_cleared() -> None:
    """An alert is shown for its expire_duration, or until it is cleared."""
    service = Service()
    service.post("agents/agent-0/alert", {"expire_duration": 30, "message": "x"})
    assert service.status()["alert"]["backofficeMessage"]["expireDuration"] == "30"
    service.clock.now += 30
    assert "alert" not in service.status()
    service.post("agents/agent-0/alert", {"kind": "directed_call_hangup"})
    service.clock.now += 30
    assert "directedCallHangup" in service.status()["alert"]
    service.post("agents/agent-0/alert", {"clear": True})
    assert "alert" not in service.status()


def test_the_record_is_bounded_if_asked() -> None:
    """With a limit only the newest entries are kept, and the loss of others is reported; without one all are kept."""
    bounded, full = Service(log_limit=20), Service()
    for service in (bounded, full):
        for number in range(100):
            service.clock.now += 1
            service.post("agents/agent-0/status", {"status_desc": "READY"})
            service.poll(events=[activated(number)])
    kept, everything = bounded.agent("agent-0"), full.agent("agent-0")
    assert len(everything["pictures"]) == len(full.taken()) == 100
    assert kept["pictures"] == everything["pictures"][-len(kept["pictures"]) :]
    assert 10 < len(kept["pictures"]) <= 20
    assert 10 < len(bounded.taken()) <= 20
    assert bounded.get("events")[-1]["index"] == 99
    assert (kept["truncated"], bounded.get("stats")["truncated"]) == (True, True)
    assert (everything["truncated"], full.get("stats")["truncated"]) == (False, False)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("agents/agent-0/status", {"status_desc": "READY", "message": "not a field of the own status"}),
        ("agents/agent-0/alert", {"kind": "fire"}),
        ("agents/agent-0/resume", {}),
        ("agents/agent-0/message", {}),
        ("queue", {"add": {"call_sid": "many"}}),
        ("queue", {}),
    ],
)
def test_a_lever_pulled_wrongly_says_so(path: str, body: dict[str, Any]) -> None:
    """A wrong request to /sim/ is answered 400 with what is wrong, and changes nothing."""
    service = Service()
    before = service.poll(perform_get_queued_calls=True).body
    status, text = pull(service.simulator, "POST", f"/sim/{path}", b"", json.dumps(body).encode())
    assert status == 400
    assert msgspec.json.decode(text)["error"]
    assert service.poll(perform_get_queued_calls=True).body == before


# ------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command, running, and its first line of output."""
    files = ["--write-tokens", str(tmp_path / "secrets"), "--write-sessions", str(tmp_path / "sessions.toml")]
    command = [sys.executable, "-m", "bridge", "simulate", "--listen", "127.0.0.1:0"]
    command += ["--sessions", "2", "--fault-500", "1", *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal(
    running: tuple[subprocess.Popen[str], str], number: signal.Signals, tmp_path: Path
) -> None:
    """The command prints its address, applies the faults, writes the bridge's files, and exits with 0
    after a signal.
    """
    process, line = running
    url = next(word for word in line.split() if word.startswith("http://"))
    assert httpx.post(url + GETSTATUS, headers=BEARER, json={}).status_code == 500
    tokens = json.loads((tmp_path / "secrets" / "sim-tokens.json").read_text())
    assert tokens == {"agent-0": "sim-token-agent-0", "agent-1": "sim-token-agent-1"}
    sessions = tomllib.loads((tmp_path / "sessions.toml").read_text())["sessions"]
    assert [session["token"] for session in sessions] == [f"file:sim-tokens.json#{agent_id}" for agent_id in tokens]
    assert all(session["skills"] and session["labels"]["site"] for session in sessions)
    process.send_signal(number)
    assert process.wait(10) == 0


@pytest.mark.parametrize("listen", ["8090", "localhost:http", "localhost:70000"])
def test_a_wrong_address_is_wrong_usage(listen: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid address ends the command with exit code 2 and says what is wrong."""
    with pytest.raises(SystemExit) as exit_:
        main(["simulate", "--listen", listen])
    assert exit_.value.code == 2
    assert "HOST:PORT" in capsys.readouterr().err


def test_a_taken_address_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot listen exits with 1 and says which option to change."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as exit_:
        main(["simulate", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"])
    assert exit_.value.code == 1
    assert "--listen" in capsys.readouterr().err


def test_any_fault_can_be_given_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    """--fault NAME[=SHARE] sets faults that have no flag; an unknown name is reported with all valid ones."""
    from bridge.cli.simulate import _by_name

    assert _by_name(["foreign_404", "gzip=0.25"]) == {"foreign_404": 1.0, "gzip": 0.25}
    for wrong in ("explode", "gzip=2", "gzip=much"):
        with pytest.raises(SystemExit) as exit_:
            main(["simulate", "--fault", wrong])
        assert exit_.value.code == 2
        assert "foreign_404" in capsys.readouterr().err


def test_faults_by_flag_are_faults_by_name() -> None:
    """Every kind of fault can be set at the start."""
    from bridge.cli.simulate import _faults
    from bridge.testing.simulator.faults import NAMES

    faults: Faults = _faults(dict.fromkeys(NAMES, 0.5), Fault(retry_after=3))
    assert list(faults) == list(NAMES)
    assert {fault.probability for fault in faults.values()} == {0.5}


# ------------------------------------------------------------------------------------------- conversations


def pages(service: Service, agent_id: str = "agent-0", **request: Any) -> list[list[dict[str, Any]]]:
    """The pages of the agent's list of conversations."""
    found, token = [], ""
    while True:
        body = {"asm_session_sid": service.sid(agent_id), **request, **({"page_token": token} if token else {})}
        answer = service.call("listconversations", agent_id, json.dumps(body).encode())
        assert answer.status == 200, answer.body
        value = json.loads(answer.body)
        found.append(value.get("conversations", []))
        token = value.get("nextPageToken", "")
        if not token:
            return found


def test_conversations_live_plausible_lives() -> None:
    """Conversations come, change hands, close and are not seen again; lists of several pages are among them."""
    service, sizes, statuses, gone = Service(change_rate=1.0, logouts=False), set(), set(), set[str]()
    before: set[str] = set()
    for _ in range(300):
        service.clock.now += 1
        listed = [one for page in pages(service) for one in page]
        sids = {one["conversationSid"] for one in listed}
        assert len(sids) == len(listed)
        assert not sids & gone
        gone |= before - sids
        before = sids
        sizes.add(len(listed))
        statuses |= {one["status"] for one in listed}
    assert {1, 4, 7} <= sizes
    assert max(sizes) < 20
    assert len(gone) > 30
    assert statuses == {
        f"CONVERSATION_STATUS_{name}"
        for name in ("NEWLY_ASSIGNED", "AWAITING_REPLY_FROM_CUSTOMER", "AWAITING_REPLY_FROM_AGENT")
    }


def test_conversations_repeat_themselves() -> None:
    """The same seed gives the same conversations at the same time, however often they were looked at."""
    one, other = Service(change_rate=1.0, logouts=False), Service(change_rate=1.0, logouts=False)
    for service in (one, other):
        service.clock.now += 10
        pages(service)
        service.clock.now += 40 if service is one else 30
    other.clock.now += 10
    assert pages(one) == pages(other)
    assert pages(one) != pages(one, "agent-1")


@pytest.mark.parametrize("emit_defaults", [False, True])
def test_conversations_are_the_vendors(emit_defaults: bool) -> None:
    """A list is a ``ListConversationsRes`` in camelCase, of which the bridge's own reader leaves nothing out."""
    service = Service(emit_defaults=emit_defaults)
    body = json.dumps({"asm_session_sid": service.sid()}).encode()
    answer = service.call("listconversations", "agent-0", body)
    read = protojson.read(asm.ListConversationsRes, answer.body)
    sent = json.loads(answer.body)["conversations"]
    assert [one.conversation_sid for one in read.conversations] == [one["conversationSid"] for one in sent]
    own = service.agent("agent-0")["conversations_open"]
    assert {one.conversation_sid: one.customer_name for one in read.conversations}.items() <= {
        sid: one["customer_name"] for sid, one in own.items()
    }.items()
    assert read.conversations[0].conversation_assignments[0].user_id == "agent-0"


def test_a_list_can_be_narrowed_and_is_refused_for_another_session() -> None:
    """Statuses and channels narrow a list; a wrong token or session, and an unknown field, are refused."""
    service = Service()
    service.post(
        "agents/agent-0/conversation", {"add": {"status": "CONVERSATION_STATUS_FLOW", "conversation_sid": "5"}}
    )
    (found,) = pages(service, statuses=["CONVERSATION_STATUS_FLOW"])
    assert [one["conversationSid"] for one in found] == ["5"]
    assert pages(service, channel_types=["CHANNEL_TYPE_VOICE"]) == [[]]
    for wrong, status in (({"asm_session_sid": "1"}, 404), ({"page_token": "x"}, 400), ({"page_size": 5}, 400)):
        body = json.dumps({"asm_session_sid": service.sid(), **wrong}).encode()
        assert service.call("listconversations", "agent-0", body).status == status


def test_conversations_can_be_changed_by_hand() -> None:
    """A conversation that was added stays until it is removed; what was shown of it, whole lists, is remembered."""
    service = Service()
    assert service.agent("agent-0")["conversations"] == []
    for sid in range(1, 6):
        service.post("agents/agent-0/conversation", {"add": {"conversation_sid": str(sid)}})
    pages(service)
    service.post("agents/agent-0/conversation", {"change": "3", "customer_name": "Zoe"})
    assert "Zoe" in {one.get("customerName") for page in pages(service) for one in page}
    service.post("agents/agent-0/conversation", {"remove": "3"})
    body = json.dumps({"asm_session_sid": service.sid()}).encode()
    service.call("listconversations", "agent-0", body)
    shown = service.agent("agent-0")["conversations"]
    assert len(shown) == 1, "the first page alone is no list"
    pages(service)
    first, second = service.agent("agent-0")["conversations"]
    assert first["conversations"].keys() - second["conversations"].keys() == {"3"}


@pytest.mark.parametrize("body", [{}, {"add": 5}, {"add": {"size": 1}}, {"change": "99"}, {"remove": "x"}])
def test_a_wrong_change_of_conversations_changes_nothing(body: dict[str, Any]) -> None:
    """The lever answers 400 and says what is wrong."""
    service = Service()
    path = "/sim/agents/agent-0/conversation"
    status, _ = pull(service.simulator, "POST", path, b"", json.dumps(body).encode())
    assert status == 400
