"""One agent without clock and network: the requests it makes, and what it concludes from each answer and failure."""

import json
import tracemalloc
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asm_bridge_schemas import records
from asm_bridge_schemas.asm import GetStatusRes
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentProfileChanged, AgentState
from bridge.agents.agent import Agent
from bridge.agents.health import Health, Unpollable
from bridge.agents.request import PollRequest
from bridge.asm.answer import Answer, read_response
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.asm.http.response import Response
from bridge.backoff import Backoff
from bridge.clock import Instant
from bridge.settings.model import InjectionSettings
from tests.support.agent_harness import AgentHarness, read_answer, sent
from tests.support.strategies import EPOCH, TTL, injection, session_body, status_body


def refused(status: int = 404) -> Refused:
    return Refused(f"HTTP {status}", http_status=status)


def timed_out() -> Unreachable:
    return Unreachable("ReadTimeout", possibly_processed=True)


def not_connected() -> Unreachable:
    return Unreachable("ConnectError")


def throttled(status: int = 429, retry_after: float | None = None) -> Throttled:
    return Throttled(f"HTTP {status}", http_status=status, retry_after=retry_after)


def server_error() -> Unavailable:
    return Unavailable("HTTP 500", http_status=500, possibly_processed=True)


def unauthorized() -> Unauthorized:
    return Unauthorized("HTTP 401", http_status=401)


def body(request: PollRequest) -> dict[str, Any]:
    return dict(json.loads(request.body))


def of_type(emitted: list[Any], *types: type) -> list[Any]:
    return [record for record in emitted if isinstance(record, types)]


def outcomes(harness: AgentHarness) -> dict[str, str]:
    return harness.picture.outcomes


# -- what is asked


def test_watching_begins_a_stream() -> None:
    """AgentWatchStarted is record 1 of a new stream, and AgentWatchEnded is its last."""
    harness = AgentHarness()
    (started,) = harness.watch(labels={"site": "manila"})
    assert (started.sequence, started.labels, started.asm_session_sid) == (1, {"site": "manila"}, None)
    (ended,) = harness.unwatch()
    assert (ended.stream_id, ended.sequence) == (started.stream_id, 2)
    assert ended.labels == {"site": "manila"}
    assert harness.watch()[0].stream_id != started.stream_id


def test_an_edited_profile_is_published() -> None:
    """An edit of labels or skills publishes AgentProfileChanged; an edit of anything else publishes nothing."""
    harness = AgentHarness()
    harness.watch(labels={"site": "manila"}, skills=["english"])
    (changed,) = harness.watch(labels={"site": "cebu"}, skills=["english"])
    assert (type(changed), changed.labels, changed.skills) == (AgentProfileChanged, {"site": "cebu"}, ["english"])
    assert harness.watch(labels={"site": "cebu"}, skills=["english"], interval=2.0) == []
    assert harness.watch(labels={"site": "cebu"}, skills=["english", "tagalog"])[0].skills == ["english", "tagalog"]


def test_watching_again_after_a_restart_goes_on_with_the_stream() -> None:
    """A move between processes continues the stream, and the next status refers to the last one."""
    first = AgentHarness().in_session()
    second = AgentHarness(state=first.agent.state, now=10, picture=first.picture)
    assert second.watch() == []
    request = second.poll(status_body("PEERED"))
    assert (request.call, body(request)["asm_session_sid"]) == ("getstatus", "7")
    (status,) = second.records
    assert status.changed == ["status_desc"]
    assert status.previous_status_desc == "READY"


def test_watching_again_writes_nothing() -> None:
    """A process that takes over thousands of agents does not write their states again."""
    first = AgentHarness().in_session()
    at = Instant(10, EPOCH + 10)
    second = Agent(first.agent.state, InjectionSettings(), Backoff(), at)
    assert second.watch(SessionEntry(labels=first.agent.state.labels), 1.0, at) is None
    assert second.watch(SessionEntry(labels={"site": "cebu"}), 1.0, at) is not None


def test_a_session_is_asked_for_and_then_polled() -> None:
    """An agent without asm_session_sid calls getcurrentsession first and then polls the session's status."""
    harness = AgentHarness()
    harness.watch()
    first = harness.next_request()
    assert (first.call, first.body) == ("getcurrentsession", b"{}")
    harness.answer(first, session_body("9007199254740993", voiceSession={"voiceSessionSid": "8"}))
    assert harness.agent.urgent
    second = harness.next_request()
    assert body(second)["asm_session_sid"] == "9007199254740993"
    started, status = harness.answer(second, status_body())
    assert (started.asm_session_sid, started.voice_session_sid) == ("9007199254740993", "8")
    assert status.previous_status_desc is None
    assert harness.agent.condition == "in_session"


def test_the_request_is_what_the_registry_says() -> None:
    """A request asks for keep-alive, skills and extensions as the registry entry says."""
    harness = AgentHarness()
    harness.watch(asm_session_sid="5", skills=["english"], agent_pbx_extensions=["12"], get_queued_calls=False)
    assert body(harness.next_request()) == {
        "asm_session_sid": "5",
        "perform_keep_alive": False,
        "perform_get_queued_calls": False,
        "perform_get_message": True,
        "minimum_message_timestamp": "0",
        "skills": ["english"],
        "events": [],
        "agent_pbx_extensions": ["12"],
    }


def test_messages_are_asked_for_from_the_last_committed_timestamp() -> None:
    """Messages are requested from the last committed timestamp, since records not committed may be lost with the
    process.
    """
    harness = AgentHarness().in_session()
    harness.poll(status_body(message="hello", messageTimestamp="12"))
    assert body(harness.next_request())["minimum_message_timestamp"] == "0"
    harness.agent.in_flight = None
    harness.agent.committed(harness.agent.state)
    assert body(harness.next_request())["minimum_message_timestamp"] == "12"


def test_an_unchanged_request_is_the_same_object() -> None:
    """An unchanged poll reuses the request object of the previous one."""
    harness = AgentHarness().in_session()
    first = harness.poll()
    assert harness.poll() is first
    harness.watch(skills=["french"])
    assert harness.poll() is not first


def test_the_same_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer with the same bytes as the last is not decoded; after a change of the request it is decoded again."""
    harness = AgentHarness().in_session()
    harness.poll()

    def unread(*_: Any) -> Any:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr("asm_bridge_schemas.protojson.read", unread)
        assert harness.answer(harness.next_request(), status_body()) == []
    harness.watch(get_queued_calls=False)
    with monkeypatch.context() as patch:
        patch.setattr("asm_bridge_schemas.protojson.read", unread)
        with pytest.raises(AssertionError, match="decoded"):
            harness.answer(harness.next_request(), status_body())


def test_an_answer_without_status_is_one_at_its_defaults() -> None:
    """An answer without voice_status is read as a status with every field at its default."""
    harness = AgentHarness()
    harness.watch(asm_session_sid="7")
    harness.poll(b"{}")
    (status,) = of_type(harness.records, records.AgentStatusChanged)
    assert status.status_desc == "UNAVALIABLE"


# -- sessions


@pytest.mark.parametrize("end", [session_body(None), session_body("7", asmSessionEnd="2026-11-23T09:30:00Z")])
def test_an_ended_session_is_told(end: bytes) -> None:
    """After a refused poll the session is looked up at once; if there is none, AgentSessionEnded is emitted."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), refused())
    assert harness.agent.urgent
    doubt = harness.next_request()
    assert doubt.call == "getcurrentsession"
    (ended,) = harness.answer(doubt, end)
    assert (ended.reason, ended.asm_session_sid) == ("ended", "7")
    assert (harness.agent.condition, harness.agent.urgent) == ("no_session", False)
    assert harness.next_request().call == "getcurrentsession"


def test_a_refused_question_for_the_session_means_none() -> None:
    """A refusal of getcurrentsession means that the agent has no session (the vendor does not document that answer)."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), refused())
    harness.fail(harness.next_request(), refused())
    assert harness.records[-1].reason == "ended"  # type: ignore[union-attr]


def test_another_session_replaces_the_first() -> None:
    """A new session of the agent ends the former one as replaced."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), refused(400))
    (ended,) = harness.answer(harness.next_request(), session_body("8"))
    assert (ended.reason, ended.asm_session_sid) == ("replaced", "7")
    request = harness.next_request()
    assert body(request)["asm_session_sid"] == "8"
    assert harness.answer(request, status_body())[0].asm_session_sid == "8"


def test_the_same_session_that_comes_back_is_a_new_start() -> None:
    """A session that returns with the same sid starts again, even if its answer is the same as before."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), refused())
    harness.answer(harness.next_request(), session_body(None))
    harness.poll()
    harness.poll()
    assert [type(record) for record in harness.records[-2:]] == [
        records.AgentSessionStarted,
        records.AgentStatusChanged,
    ]


def test_a_fixed_session_is_only_ever_asked_for_itself() -> None:
    """An agent with a fixed session never polls another one, and resumes when the fixed one returns."""
    harness = AgentHarness()
    harness.watch(asm_session_sid="7")
    harness.poll()
    harness.fail(harness.next_request(), refused())
    harness.answer(harness.next_request(), session_body("8"))
    assert harness.agent.condition == "no_session"
    for _ in range(3):
        request = harness.next_request()
        assert body(request)["asm_session_sid"] == "7"
        assert harness.fail(request, refused()) == []
        assert not harness.agent.urgent
    started, _ = harness.answer(harness.next_request(), status_body())
    assert started.asm_session_sid == "7"


def test_events_wait_for_a_fixed_session_that_has_ended() -> None:
    """Events for a fixed session that has ended wait, and go out as soon as the session returns."""
    harness = AgentHarness()
    harness.watch(asm_session_sid="7")
    harness.poll()
    harness.inject(1)
    harness.fail(harness.next_request(), refused())
    harness.answer(harness.next_request(), session_body(None))
    request = harness.next_request()
    assert sent(request) == []
    harness.answer(request, status_body())
    assert harness.agent.urgent
    assert sent(harness.next_request()) == [1]


def test_fixing_another_sid_ends_the_session_in_view() -> None:
    """Fixing another sid ends the observed session, even if the newly fixed session has ended already."""
    harness = AgentHarness().in_session()
    harness.watch(asm_session_sid="5")
    harness.fail(harness.next_request(), refused())
    harness.answer(harness.next_request(), session_body("7"))
    assert harness.agent.state.asm_session_sid is None


def test_an_answer_about_a_former_session_is_not_taken_for_the_new() -> None:
    """An answer to a request made before a change of the registry entry does not apply to the new session."""
    harness = AgentHarness().in_session()
    request = harness.next_request()
    harness.watch(asm_session_sid="5")
    assert harness.answer(request, status_body("PEERED")) == []


# -- failures


def test_a_lost_agent_is_told_after_five_seconds() -> None:
    """An agent without an answer for longer than three intervals and 5 s emits AgentObservationLost once, with the time
    of the last answer.
    """
    harness = AgentHarness().in_session()
    for moment, lost in ((2.0, 0), (5.0, 0), (5.1, 1), (9.0, 0)):
        harness.now = moment
        emitted = harness.fail(harness.next_request(), timed_out())
        assert len(of_type(emitted, records.AgentObservationLost)) == lost
    (lost,) = of_type(harness.records, records.AgentObservationLost)
    assert (lost.reason, lost.since, lost.asm_session_sid) == ("unreachable", "2026-09-21T14:13:20.000000Z", "7")
    assert harness.agent.condition == "lost"


def test_a_slow_rhythm_has_more_patience() -> None:
    """With a long polling interval an agent counts as lost only after three intervals."""
    harness = AgentHarness().in_session(interval=10)
    harness.now = 30
    assert harness.fail(harness.next_request(), timed_out()) == []
    harness.now = 30.1
    assert of_type(harness.fail(harness.next_request(), timed_out()), records.AgentObservationLost)


@pytest.mark.parametrize("answer", ["READY", "PEERED"])
def test_observation_is_resumed_by_the_next_answer(answer: str) -> None:
    """The next answer, even an unchanged one, emits AgentObservationResumed with the loss's reason and since."""
    harness = AgentHarness().in_session()
    harness.now = 20
    harness.fail(harness.next_request(), Malformed("x"))
    emitted = harness.answer(harness.next_request(), status_body(answer))
    assert isinstance(emitted[0], records.AgentObservationResumed)
    assert emitted[0].reason == "malformed"
    assert len(emitted) == (1 if answer == "READY" else 2)
    assert harness.agent.condition == "in_session"


def test_an_agent_that_may_not_be_asked_is_lost_too() -> None:
    """The second of two agents that share a session is reported as sick (session_shared) and as lost."""
    harness = AgentHarness()
    harness.watch()
    harness.agent.unpollable = Unpollable("session_shared", "agent 'a' has the same token")
    assert harness.absorb(harness.agent.poll_skipped(None, harness.at)) == []
    harness.now = 5.1
    (lost,) = harness.absorb(harness.agent.poll_skipped(None, harness.at))
    assert lost.reason == "session_shared"  # type: ignore[union-attr]
    assert harness.agent.condition == "lost"


def test_being_refused_for_good_is_a_loss() -> None:
    """An agent whose polls are refused while its session lives counts as lost."""
    harness = AgentHarness().in_session()
    for _ in range(2):
        harness.now += 5
        harness.fail(harness.next_request(), refused(400))
        harness.answer(harness.next_request(), session_body("7"))
    assert of_type(harness.records, records.AgentObservationLost)[0].reason == "refused"


def test_a_refused_token_is_not_used_for_a_minute() -> None:
    """After a 401 or 403 an agent polls once a minute until its token changes."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request("old"), unauthorized())
    for moment, old in ((0.0, False), (59.9, False), (60.0, True)):
        harness.now = moment
        assert harness.agent.health.may_poll("old", harness.at) is old
        assert harness.agent.health.may_poll("new", harness.at)


def test_another_token_reference_is_used_at_once() -> None:
    """A new token reference in the registry is used at once, even after a 401."""
    harness = AgentHarness().in_session(token="file:a")
    harness.fail(harness.next_request("old"), unauthorized())
    harness.watch(token="file:b")
    assert harness.agent.health.may_poll("new", harness.at)


def test_retry_after_is_obeyed() -> None:
    """Polls and events alike wait until Retry-After has passed."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.fail(harness.next_request(), throttled(429, 12.5))
    harness.inject(2)
    harness.now = 12.4
    assert not harness.agent.health.may_poll("t", harness.at)
    harness.now = 12.5
    assert sent(harness.next_request()) == [1, 2]


def test_an_answer_that_cannot_be_read_changes_nothing() -> None:
    """An unreadable answer changes nothing, and the next one is read as usual."""
    harness = AgentHarness().in_session()
    for bad in (b"", b"{", b"[]", b"null", b'{"voiceStatus": 1}', b'{"voiceStatus": {"status": "x"}}'):
        assert harness.answer(harness.next_request(), bad) == []
    harness.poll(status_body("PEERED"))
    assert harness.records[-1].previous_status_desc == "READY"  # type: ignore[union-attr]


# -- events


def test_an_event_goes_out_in_the_next_request() -> None:
    """An event goes out with the next request, and any 2xx answer of the service delivers it, readable or not."""
    harness = AgentHarness().in_session()
    request = harness.next_request()
    harness.inject(1, 2)
    harness.answer(request, status_body())
    assert harness.agent.urgent
    request = harness.next_request()
    harness.inject(3)
    assert body(request)["events"] == [{"pause_event": {}}] * 2
    harness.answer(request, b'{"voiceStatus": 1}')
    assert outcomes(harness) == {"3/1": "delivered", "3/2": "delivered"}
    assert sent(harness.next_request()) == [3]


def test_events_wait_while_there_is_no_session() -> None:
    """Events for an agent without a session wait until their time to live is over, and then expire."""
    harness = AgentHarness()
    harness.watch()
    harness.inject(1)
    harness.answer(harness.next_request(), session_body(None))
    assert not harness.agent.urgent
    harness.pass_by(TTL - 1)
    harness.inject(2)
    harness.pass_by(1)
    harness.poll()
    request = harness.next_request()
    assert sent(request) == [2]
    assert outcomes(harness) == {"3/1": "expired"}


def test_an_event_refused_with_its_session_waits_for_the_next() -> None:
    """A refusal because the session has ended does not reject the event, which waits for the next session."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.fail(harness.next_request(), refused())
    harness.answer(harness.next_request(), session_body(None))
    assert outcomes(harness) == {}
    harness.answer(harness.next_request(), session_body("8"))
    request = harness.next_request()
    assert (sent(request), body(request)["asm_session_sid"]) == ([1], "8")
    harness.answer(request, status_body())
    assert outcomes(harness) == {"3/1": "delivered"}


def test_refused_events_are_tried_one_by_one_with_polls_between() -> None:
    """Refused events are tried one by one, with polls between them; the bad one is rejected, the good ones are
    delivered.
    """
    harness = AgentHarness().in_session()
    harness.inject(1, 2)
    requests = []
    for _ in range(20):
        if not harness.agent.urgent:
            break
        request = harness.next_request()
        requests.append(sent(request) if request.call == "getstatus" else "?")
        if request.call == "getcurrentsession":
            harness.answer(request, session_body("7"))
        elif 2 in sent(request):
            harness.fail(request, refused(400))
        else:
            harness.answer(request, status_body())
    assert requests == [[1, 2], "?", [], [1], [2], "?", []]
    assert outcomes(harness) == {"3/1": "delivered", "3/2": "rejected"}


def test_the_last_of_a_refused_batch_is_tried_alone() -> None:
    """The last event of a refused batch is tried alone even if the others have expired meanwhile."""
    harness = AgentHarness().in_session()
    harness.take(injection(1, EPOCH, expires_at="2026-09-21T14:13:25Z"), injection(2, EPOCH))
    harness.fail(harness.next_request(), refused(400))
    harness.fail(harness.next_request(), throttled(503, 6))
    harness.pass_by(6)
    harness.answer(harness.next_request(), session_body("7"))
    assert outcomes(harness) == {"3/1": "expired"}


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (timed_out(), True),
        (not_connected(), False),
        (throttled(), False),
        (unauthorized(), False),
        (server_error(), True),
    ],
)
def test_a_failed_try_is_no_refusal(error: AsmError, repeated: bool) -> None:
    """A 401, 403, 429, 5xx or time-out is retried, and the outcome says whether the event may have been delivered
    twice.
    """
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.fail(harness.next_request(), error)
    harness.now = 60
    if error.possibly_processed:  # the event may be why: a poll without it goes first
        assert sent(harness.poll()) == []
    request = harness.next_request()
    assert sent(request) == [1]
    (outcome,) = of_type(harness.answer(request, status_body()), records.InjectionCompleted)
    assert (outcome.outcome, outcome.attempts, outcome.possibly_repeated) == ("delivered", 2, repeated)


def test_attempts_end() -> None:
    """An event that fails max_attempts times is undeliverable."""
    harness = AgentHarness(settings=InjectionSettings(max_attempts=2)).in_session()
    harness.inject(1)
    harness.fail(harness.next_request(), timed_out())
    harness.poll()
    harness.fail(harness.next_request(), throttled(503))
    (outcome,) = of_type(harness.records, records.InjectionCompleted)
    assert (outcome.reason, outcome.http_status, outcome.possibly_repeated) == ("attempts_exhausted", 503, True)


def test_an_entry_of_a_dead_process_may_have_been_sent() -> None:
    """An entry that a dead process had open is possibly_repeated, because that process may have sent it."""
    harness = AgentHarness().in_session()
    harness.take(injection(1, possibly_processed=True))
    harness.answer(harness.next_request(), status_body())
    assert harness.records[-1].possibly_repeated  # type: ignore[union-attr]


def test_an_unregistered_agents_events_wait_a_while() -> None:
    """Entries of an unregistered agent wait like those of an unknown one, and are sent if it is registered again in
    time.
    """
    harness = AgentHarness().in_session()
    harness.now = 100
    harness.inject(1)
    harness.unwatch()
    harness.pass_by(9)
    harness.watch()
    harness.poll()
    assert sent(harness.next_request()) == [1]


def test_an_event_under_way_while_the_agent_is_unregistered_is_delivered() -> None:
    """An event in flight when its agent is unregistered is delivered if the service accepts it."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    request = harness.next_request()
    harness.unwatch()
    harness.agent.in_flight = None
    answer = read_answer(request, status_body())
    assert isinstance(answer, Answer)
    step = harness.agent.answered(request, answer, harness.at)
    assert step is not None
    assert [record.outcome for record in of_type(step.records, records.InjectionCompleted)] == ["delivered"]
    assert step.finished == [1]


def test_nothing_is_lost_of_an_agent_that_is_not_watched() -> None:
    """A time-out after the agent was unregistered emits nothing, and does not affect its next stream."""
    harness = AgentHarness().in_session()
    request = harness.next_request()
    harness.unwatch()
    harness.now = 10
    assert harness.fail(request, timed_out()) == []
    assert harness.agent.state.lost is None


def test_a_delivered_event_names_its_session() -> None:
    """An event that goes out with a session's first poll is recorded with that session's sid."""
    harness = AgentHarness()
    harness.watch()
    harness.inject(1)
    harness.answer(harness.next_request(), session_body("7"))
    emitted = harness.answer(harness.next_request(), status_body())
    assert {record.asm_session_sid for record in of_type(emitted, records.ConversationEventDelivered)} == {"7"}


def test_a_text_that_no_record_can_hold_stops_nobody_else() -> None:
    """An answer with a text of megabytes is not appended, so it cannot block the partition."""
    harness = AgentHarness().in_session()
    long = msgspec.json.encode({"voiceStatus": {"message": "x" * 300_000, "messageTimestamp": "1"}})
    assert harness.answer(harness.next_request(), long) == []
    assert harness.agent.problem is not None
    assert harness.agent.problem.reason == "malformed"


def test_an_answer_too_long_to_read_has_taken_its_events() -> None:
    """A 2xx answer that is too long to read has delivered the request's events."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    emitted = harness.fail(harness.next_request(), Malformed("too long", http_status=200, possibly_processed=True))
    assert [record.outcome for record in of_type(emitted, records.InjectionCompleted)] == ["delivered"]


# -- what is not the service's

PAGE = b"<html><body><h1>No</h1></body></html>"
ENVELOPE, NO_ROUTE = b'{"code": 14, "message": "no"}', b'{"message": "no route"}'
FOREIGN = [
    (200, PAGE), (200, b""), (200, ENVELOPE), (404, PAGE), (404, NO_ROUTE), (409, b""), (403, PAGE),
    (401, PAGE), (302, b""),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), FOREIGN)
def test_nothing_is_concluded_from_a_foreign_answer(status: int, body: bytes) -> None:
    """A foreign answer ends no session or call, and neither delivers nor rejects an event."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    for _ in range(4):
        assert harness.answer(harness.next_request(), body, status) == []
    state = harness.agent.state
    assert (state.asm_session_sid, harness.agent.condition) == ("7", "in_session")
    while not outcomes(harness):
        harness.poll()
    (outcome,) = of_type(harness.records, records.InjectionCompleted)
    assert (outcome.outcome, outcome.possibly_repeated) == ("delivered", True)
    assert harness.agent.state.status == state.status


def test_a_foreign_answer_to_the_question_for_the_session_ends_none() -> None:
    """A foreign answer to getcurrentsession after a refused poll does not end the session."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), refused())
    for status, body in FOREIGN:
        request = harness.next_request()
        assert request.call == "getcurrentsession"
        assert harness.answer(request, body, status) == []
    assert harness.answer(harness.next_request(), session_body(None))[0].reason == "ended"  # type: ignore[union-attr]


def test_an_agent_that_gets_only_foreign_answers_is_lost() -> None:
    """An agent that receives only foreign answers is lost with the reason foreign_answer."""
    harness = AgentHarness().in_session()
    harness.now = 6
    (lost,) = harness.answer(harness.next_request(), PAGE, 404)
    assert lost.reason == "foreign_answer"  # type: ignore[union-attr]


# -- how long it waits


def test_a_token_that_worked_gets_a_few_quick_tries() -> None:
    """A token that worked before is tried five times within about ten seconds, then once a minute."""
    harness = AgentHarness().in_session()
    waits = []
    for _ in range(8):
        harness.fail(harness.next_request(), unauthorized())
        waits.append(round(harness.agent.health.not_before - harness.now, 6))
        harness.now = harness.agent.health.not_before
    assert waits == [*sorted(waits[:5]), 60.0, 60.0, 60.0]
    assert waits[0] < 0.4
    assert 6 < sum(waits[:5]) < 12
    harness.poll()
    harness.fail(harness.next_request(), unauthorized())
    assert harness.agent.health.not_before - harness.now < 0.4


def test_waiting_is_over_when_the_outage_is() -> None:
    """An agent's back-off ends with the outage in which it began."""
    harness = AgentHarness().in_session()
    harness.fail(harness.next_request(), throttled(429, 50))
    harness.now = 5
    assert not harness.agent.health.may_poll("t", harness.at, outage_ended=-1)
    assert harness.agent.health.may_poll("t", harness.at, outage_ended=4)


def test_retry_after_zero_does_not_end_the_back_off() -> None:
    """The longer of Retry-After and the back-off applies."""
    health = Health(Backoff(100, 100), Instant(0, EPOCH))
    waits = []
    for _ in range(50):
        health.record_failure(throttled(429, 0), "t", Instant(0, EPOCH))
        waits.append(health.not_before)
    assert max(waits) > 10


def test_an_agent_that_cannot_be_polled_takes_no_memory_by_that() -> None:
    """An agent that is skipped at each tick, for days, does not use more memory."""
    harness = AgentHarness()
    harness.watch()
    harness.agent.unpollable = Unpollable("session_shared", "agent 'a' has the same token")
    tracemalloc.start()
    try:
        for _ in range(100):
            harness.agent.poll_skipped(None, harness.at)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(2000):
            harness.agent.poll_skipped(None, harness.at)
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()


# -- which event it is


def blocked(status: int) -> AsmError:
    answer = read_response(GetStatusRes, Response(status, PAGE))
    assert isinstance(answer, AsmError)
    return answer


def drive(harness: AgentHarness, culprit: int, error: AsmError, rounds: int = 80) -> list[list[int]]:
    """Sends requests, each of which fails if ``culprit`` is in it, until no event waits. Returns what was sent."""
    requests: list[list[int]] = []
    for _ in range(rounds):
        if not harness.agent.pending:
            return requests
        request = harness.next_request()
        requests.append(sent(request))
        if culprit in sent(request):
            harness.fail(request, error)
        else:
            harness.answer(request, status_body())
    raise AssertionError(requests)


@pytest.mark.parametrize("status", [403, 413, 414, 431])
def test_an_event_that_is_blocked_on_the_way_is_rejected_alone(status: int) -> None:
    """An event that a firewall or proxy blocks is rejected after three tries alone, between which polls without it
    succeed; the events sent with it are delivered.
    """
    harness = AgentHarness().in_session()
    harness.inject(1, 2, 3)
    requests = drive(harness, 2, blocked(status))
    assert requests == [[1, 2, 3], [], [1], [2], [], [2], [], [2], [], [3]]
    assert outcomes(harness) == {"3/1": "delivered", "3/2": "rejected", "3/3": "delivered"}
    (letter,) = harness.letters
    assert (letter.code, str(status) in letter.text) == ("refused", True)
    (outcome,) = [one for one in of_type(harness.records, records.InjectionCompleted) if one.outcome == "rejected"]
    assert (outcome.http_status, outcome.attempts) == (status, 4)


@pytest.mark.parametrize(
    "error",
    [Unavailable("HTTP 500", http_status=500, possibly_processed=True), timed_out(), blocked(502), blocked(404)],
)
def test_an_event_at_which_the_service_stumbles_ends_alone(error: AsmError) -> None:
    """An event at which the service fails is undeliverable after max_attempts, with polls without it in between; the
    others are delivered.
    """
    harness = AgentHarness().in_session()
    harness.inject(*range(1, 21))
    requests = drive(harness, 5, error)
    assert [len(one) for one in requests[:3]] == [20, 0, 1]
    assert all(not later for sooner, later in pairwise(requests) if 5 in sooner)
    ends = outcomes(harness)
    assert ends.pop("3/5") == "undeliverable"
    assert ends == {f"3/{number}": "delivered" for number in range(1, 21) if number != 5}
    (outcome,) = [one for one in of_type(harness.records, records.InjectionCompleted) if one.outcome == "undeliverable"]
    assert (outcome.http_status, outcome.reason, outcome.attempts) == (error.http_status, "attempts_exhausted", 10)


def test_a_firewall_that_blocks_everything_rejects_no_event() -> None:
    """An event is not rejected as long as polls without events are blocked, too."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    for _ in range(8):
        harness.fail(harness.next_request(), blocked(403))
    assert outcomes(harness) == {}
    assert drive(harness, 0, blocked(403))
    assert outcomes(harness) == {"3/1": "delivered"}


@pytest.mark.parametrize("error", [throttled(429), throttled(503, 1.0), blocked(429)])
def test_throttled_tries_are_no_attempts(error: AsmError) -> None:
    """An event that is throttled for long does not use up its attempts, but its outcome counts each sending."""
    harness = AgentHarness(settings=InjectionSettings(max_attempts=2)).in_session()
    harness.inject(1)
    while harness.agent.pending.injections[0].attempts < 7:
        harness.fail(harness.next_request(), error)
        harness.now += 10
    drive(harness, 0, error)
    (outcome,) = of_type(harness.records, records.InjectionCompleted)
    assert (outcome.outcome, outcome.attempts) == ("delivered", 8)


# -- everything at once

ERRORS = [timed_out, not_connected, unauthorized, throttled, lambda: throttled(503, 3.0), lambda: Malformed("x")]


class Conversation(RuleBasedStateMachine):
    """Any sequence of answers and failures gives each entry one outcome, and the state always lists those that are
    completed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.harness = AgentHarness(settings=InjectionSettings(max_attempts=4, max_events_per_request=2, max_pending=4))
        self.request: PollRequest | None = None
        self.offset = 10
        self.taken: list[int] = []
        self.first_sends: list[int] = []

    @initialize()
    def begin_in_session(self) -> None:
        self.harness.in_session()

    @rule(gap=st.integers(1, 2), ce_id=st.sampled_from([None, None, "a", "b"]), ttl=st.sampled_from([1.0, 20.0, TTL]))
    def inject(self, gap: int, ce_id: str | None, ttl: float) -> None:
        self.offset += gap
        self.taken.append(self.offset)
        headers = {} if ce_id is None else {"ce_id": ce_id}
        self.harness.take(injection(self.offset, EPOCH + self.harness.now, ttl=ttl, **headers))

    @precondition(lambda self: self.request is None)
    @rule()
    def begin(self) -> None:
        agent = self.harness.agent
        if agent.entry is None or not agent.health.may_poll("t", self.harness.at):
            return
        self.request = self.harness.next_request()
        assert len(self.request.injections) <= 2
        self.first_sends += [one.offset for one in self.request.injections if one.offset not in self.first_sends]
        ids = [one.injection_id for one in self.request.injections]
        assert len(set(ids)) == len(ids), "a repetition in the same request"
        assert all(one.expires_at > EPOCH + self.harness.now for one in self.request.injections)

    @precondition(lambda self: self.request is not None)
    @rule(desc=st.sampled_from(["READY", "PEERED"]), sid=st.sampled_from(["7", "8", None]))
    def answer(self, desc: str, sid: str | None) -> None:
        request = self._end()
        emitted = self.harness.answer(request, status_body(desc) if request.call == "getstatus" else session_body(sid))
        done = [one.entry for one in of_type(emitted, records.InjectionCompleted) if one.outcome == "delivered"]
        assert done == [one.entry for one in request.injections]

    @precondition(lambda self: self.request is not None)
    @rule(status=st.sampled_from([400, 404, 422]))
    def refuse(self, status: int) -> None:
        self.harness.fail(self._end(), refused(status))

    @precondition(lambda self: self.request is not None)
    @rule(error=st.sampled_from(ERRORS))
    def fail(self, error: Any) -> None:
        self.harness.fail(self._end(), error())

    def _end(self) -> PollRequest:
        assert self.request is not None
        request, self.request = self.request, None
        return request

    @rule(seconds=st.sampled_from([0.1, 1.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.harness.pass_by(seconds)

    @rule(sid=st.sampled_from([None, "7", "8"]), skills=st.sampled_from([[], ["english"]]))
    def watch(self, sid: str | None, skills: list[str]) -> None:
        self.harness.watch(asm_session_sid=sid, skills=skills)

    @precondition(lambda self: self.request is None)
    @rule()
    def unwatch(self) -> None:
        self.harness.unwatch()

    @rule()
    def commit(self) -> None:
        self.harness.agent.committed(self.harness.agent.state)

    @invariant()
    def the_state_tells_what_is_finished(self) -> None:
        state = self.harness.agent.state
        emitted = [one for one in self.taken if one <= state.bridge.inbox_offset and one not in state.bridge.inbox_open]
        assert emitted == sorted(self.harness.finished)
        assert len(outcomes(self.harness)) == len(self.harness.finished)
        waiting = [one.offset for one in self.harness.agent.pending.injections]
        assert waiting == [one for one in self.taken if one not in self.harness.finished]

    @invariant()
    def the_state_survives_a_restart(self) -> None:
        state = self.harness.agent.state
        assert msgspec.json.decode(msgspec.json.encode(state), type=AgentState) == state

    @invariant()
    def first_sends_are_in_order(self) -> None:
        assert self.first_sends == sorted(set(self.first_sends))

    @invariant()
    def the_reader_sees_what_the_agent_knows(self) -> None:
        state, picture = self.harness.agent.state, self.harness.picture
        assert picture.watched == (state.stream_id is not None)
        if picture.watched:
            assert (picture.stream_id, picture.sequence) == (state.stream_id, state.sequence)
            assert picture.session == state.asm_session_sid
            assert (picture.lost is None) == (state.lost is None)

    def teardown(self) -> None:
        if self.request is not None:
            self.harness.fail(self._end(), timed_out())
        self.harness.pass_by(TTL)
        assert not self.harness.agent.pending
        assert sorted(self.harness.finished) == self.taken
        assert len(outcomes(self.harness)) == len(self.taken)


class Handover(Conversation):
    """Adds processes that die to ``Conversation``: the next one has the committed state, and reads the inbox from the
    committed offset.
    """

    @rule(lag=st.integers(0, 3))
    def die(self, lag: int) -> None:
        """Ends the process: every step was committed, a request in flight may have been sent, and the inbox is read in
        portions.
        """
        old, self.request = self.harness, None
        self.harness = AgentHarness(
            old.settings, old.agent.state, old.now, old.records, old.letters, old.finished, old.picture
        )
        for number, one in enumerate(old.agent.pending.injections):
            if number == lag:
                self.harness.now += 20
            state = self.harness.agent.state
            assert one.offset > state.bridge.inbox_offset or one.offset in state.bridge.inbox_open, (
                f"entry {one.offset} is forgotten"
            )
            named = {"ce_id": one.injection_id} if one.identified else {}
            ttl = one.expires_at - one.received_at
            self.harness.take(injection(one.offset, one.received_at, ttl=ttl, possibly_processed=True, **named))


QUICK = settings(max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
Conversation.TestCase.settings = QUICK
TestConversation = Conversation.TestCase

Handover.TestCase.settings = settings(QUICK, derandomize=True, phases=(Phase.generate,))
TestHandover = Handover.TestCase


def test_an_event_that_is_forbidden_costs_its_own_outcome_only() -> None:
    """The service answers 403 whenever one event is in the request: polls go on in between, and its neighbours are
    delivered."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.inject(2)
    delivered: list[int] = []
    for _ in range(60):
        harness.now += 6
        request = harness.next_request()
        if 2 in sent(request):
            harness.fail(request, Unauthorized("HTTP 403", http_status=403))
            harness.now += 5
            assert sent(harness.poll()) == []
        else:
            records_ = harness.answer(request, status_body())
            delivered += [1 for one in of_type(records_, records.InjectionCompleted) if one.outcome == "delivered"]
    assert delivered == [1]
    assert not harness.agent.pending.injections


def test_a_session_that_cannot_be_looked_up_is_shown_by_a_poll() -> None:
    """An event is refused while getcurrentsession fails: a poll that is answered shows that the session lives, and the
    event is rejected."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.fail(harness.next_request(), refused())
    lookup = harness.next_request()
    assert lookup.call == "getcurrentsession"
    harness.fail(lookup, server_error())
    harness.now += 60
    plain = harness.next_request()
    assert (plain.call, sent(plain)) == ("getstatus", [])
    (outcome,) = of_type(harness.answer(plain, status_body()), records.InjectionCompleted)
    assert outcome.outcome == "rejected"


def test_events_that_have_expired_do_not_cause_one_poll_after_the_other() -> None:
    """Between their time and the sweep that ends them, the agent is polled at its own rhythm."""
    harness = AgentHarness().in_session()
    harness.inject(1)
    harness.now = TTL + 1
    assert sent(harness.next_request()) == []
    assert harness.agent.urgent_at(float("-inf")) > harness.now


@pytest.mark.parametrize("digests", [[], ["x", "y", "z"]])
def test_a_state_without_its_calls_digests(digests: list[str]) -> None:
    """An agent goes on from a state whose digests do not belong to its calls, and each call is updated once."""
    agent = AgentHarness().in_session()
    agent.poll(status_body(queuedCalls={"onHoldCalls": [{"callSid": "1"}, {"callSid": "2"}]}))
    books = msgspec.structs.replace(agent.agent.state.bridge, call_digests=digests)
    agent.agent.state = msgspec.structs.replace(agent.agent.state, bridge=books)
    agent.records.clear()
    for desc in ("PAUSED", "READY"):
        calls = [{"callSid": sid, "phoneNumber": "5"} for sid in ("1", "2", desc)]
        agent.poll(status_body(desc, queuedCalls={"onHoldCalls": calls}))
    changed = [record for record in agent.records if isinstance(record, records.QueuedCallChanged)]
    assert [one.change for one in changed if one.call_sid in ("1", "2")] == ["updated"] * 2
