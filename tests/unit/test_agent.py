"""One agent without clock and network: what it asks, and what it makes of each answer and failure."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asm_bridge_schemas import records
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentState
from bridge.agents.agent import Agent, Instant, PollRequest, Unpollable
from bridge.settings.model import InjectionSettings
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.backoff import Backoff
from tests.support.strategies import EPOCH, TTL, Desk, entry, sent, session_body, status_body


def refused(status: int = 404) -> Refused:
    return Refused(f"HTTP {status}", http_status=status)


def timed_out() -> Unreachable:
    return Unreachable("ReadTimeout", possibly_processed=True)


def not_connected() -> Unreachable:
    return Unreachable("ConnectError")


def throttled(status: int = 429, retry_after: float | None = None) -> Throttled:
    return Throttled(f"HTTP {status}", http_status=status, retry_after=retry_after)


def unauthorized() -> Unauthorized:
    return Unauthorized("HTTP 401", http_status=401)


def body(ask: PollRequest) -> dict[str, Any]:
    return dict(json.loads(ask.body))


def of_type(told: list[Any], *types: type) -> list[Any]:
    return [record for record in told if isinstance(record, types)]


def outcomes(desk: Desk) -> dict[str, str]:
    return desk.picture.outcomes


# -- what is asked


def test_watching_begins_a_stream() -> None:
    """AgentWatchStarted is number 1 of a stream made anew each time; AgentWatchEnded is its last."""
    desk = Desk()
    (started,) = desk.watch(labels={"site": "manila"})
    assert (started.sequence, started.labels, started.asm_session_sid) == (1, {"site": "manila"}, None)
    (ended,) = desk.unwatch()
    assert (ended.stream_id, ended.sequence) == (started.stream_id, 2)
    assert ended.labels == {"site": "manila"}
    assert desk.watch()[0].stream_id != started.stream_id
    assert desk.watch(labels={"site": "cebu"}) == []


def test_watching_again_after_a_restart_goes_on_with_the_stream() -> None:
    """A move between processes is no new stream; statuses chain on."""
    first = Desk().in_session()
    second = Desk(state=first.agent.state, now=10, picture=first.picture)
    assert second.watch() == []
    ask = second.poll(status_body("PEERED"))
    assert (ask.call, body(ask)["asm_session_sid"]) == ("getstatus", "7")
    (status,) = second.told
    assert status.changed == ["status_desc"]
    assert status.previous_status_desc == "READY"


def test_watching_again_writes_nothing() -> None:
    """What takes over thousands of agents must not write all their states anew."""
    first = Desk().in_session()
    at = Instant(10, EPOCH + 10)
    second = Agent(first.agent.state, InjectionSettings(), Backoff(), at)
    assert second.watch(SessionEntry(labels=first.agent.state.labels), 1.0, at) is None
    assert second.watch(SessionEntry(labels={"site": "cebu"}), 1.0, at) is not None


def test_a_session_is_asked_for_and_then_polled() -> None:
    """asm_session_sid null: ask getcurrentsession, then its status at once."""
    desk = Desk()
    desk.watch()
    first = desk.ask()
    assert (first.call, first.body) == ("getcurrentsession", b"{}")
    desk.answer(first, session_body("9007199254740993", voiceSession={"voiceSessionSid": "8"}))
    assert desk.agent.urgent
    second = desk.ask()
    assert body(second)["asm_session_sid"] == "9007199254740993"
    started, status = desk.answer(second, status_body())
    assert (started.asm_session_sid, started.voice_session_sid) == ("9007199254740993", "8")
    assert status.previous_status_desc is None
    assert desk.agent.condition == "in_session"


def test_the_request_is_what_the_registry_says() -> None:
    """Keep-alive only where it is wished; skills and extensions as registered."""
    desk = Desk()
    desk.watch(asm_session_sid="5", skills=["english"], agent_pbx_extensions=["12"], get_queued_calls=False)
    assert body(desk.ask()) == {
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
    """What was told and not committed may be lost with the process: it is asked for again."""
    desk = Desk().in_session()
    desk.poll(status_body(message="hello", messageTimestamp="12"))
    assert body(desk.ask())["minimum_message_timestamp"] == "0"
    desk.agent.in_flight = None
    desk.agent.committed(desk.agent.state)
    assert body(desk.ask())["minimum_message_timestamp"] == "12"


def test_an_unchanged_request_is_the_same_object() -> None:
    """The common poll builds nothing."""
    desk = Desk().in_session()
    first = desk.poll()
    assert desk.poll() is first
    desk.watch(skills=["french"])
    assert desk.poll() is not first


def test_the_same_answer_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as before mean the same; after a change of the request they are read again."""
    desk = Desk().in_session()
    desk.poll()

    def unread(*_: Any) -> Any:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.read", unread)
        assert desk.answer(desk.ask(), status_body()) == []
    desk.watch(get_queued_calls=False)
    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.read", unread)
        with pytest.raises(AssertionError, match="decoded"):
            desk.answer(desk.ask(), status_body())


def test_an_answer_without_status_is_one_at_its_defaults() -> None:
    """An answer without voice_status is one with every field at its default."""
    desk = Desk()
    desk.watch(asm_session_sid="7")
    desk.poll(b"{}")
    (status,) = of_type(desk.told, records.AgentStatusChanged)
    assert status.status_desc == "UNAVALIABLE"


# -- sessions


@pytest.mark.parametrize("end", [session_body(None), session_body("7", asmSessionEnd="2026-11-23T09:30:00Z")])
def test_an_ended_session_is_told(end: bytes) -> None:
    """A refused poll is looked into at once; without a session now, it has ended."""
    desk = Desk().in_session()
    desk.fail(desk.ask(), refused())
    assert desk.agent.urgent
    doubt = desk.ask()
    assert doubt.call == "getcurrentsession"
    (ended,) = desk.answer(doubt, end)
    assert (ended.reason, ended.asm_session_sid) == ("ended", "7")
    assert (desk.agent.condition, desk.agent.urgent) == ("no_session", False)
    assert desk.ask().call == "getcurrentsession"


def test_a_refused_question_for_the_session_means_none() -> None:
    """What getcurrentsession answers without a session is not documented: a refusal is taken for it."""
    desk = Desk().in_session()
    desk.fail(desk.ask(), refused())
    desk.fail(desk.ask(), refused())
    assert desk.told[-1].reason == "ended"  # type: ignore[union-attr]


def test_another_session_replaces_the_first() -> None:
    desk = Desk().in_session()
    desk.fail(desk.ask(), refused(400))
    (ended,) = desk.answer(desk.ask(), session_body("8"))
    assert (ended.reason, ended.asm_session_sid) == ("replaced", "7")
    ask = desk.ask()
    assert body(ask)["asm_session_sid"] == "8"
    assert desk.answer(ask, status_body())[0].asm_session_sid == "8"


def test_the_same_session_that_comes_back_is_a_new_start() -> None:
    """Also when the same sid comes back, and although its answer is the same as before."""
    desk = Desk().in_session()
    desk.fail(desk.ask(), refused())
    desk.answer(desk.ask(), session_body(None))
    desk.poll()
    desk.poll()
    assert [type(record) for record in desk.told[-2:]] == [records.AgentSessionStarted, records.AgentStatusChanged]


def test_a_fixed_session_is_only_ever_asked_for_itself() -> None:
    """It ends, another is there: the other is not polled; the fixed one is asked for again, and may come back."""
    desk = Desk()
    desk.watch(asm_session_sid="7")
    desk.poll()
    desk.fail(desk.ask(), refused())
    desk.answer(desk.ask(), session_body("8"))
    assert desk.agent.condition == "no_session"
    for _ in range(3):
        ask = desk.ask()
        assert body(ask)["asm_session_sid"] == "7"
        assert desk.fail(ask, refused()) == []
        assert not desk.agent.urgent
    started, _ = desk.answer(desk.ask(), status_body())
    assert started.asm_session_sid == "7"


def test_events_wait_for_a_fixed_session_that_has_ended() -> None:
    """They are not sent into it, and go out as soon as it is back."""
    desk = Desk()
    desk.watch(asm_session_sid="7")
    desk.poll()
    desk.inject(1)
    desk.fail(desk.ask(), refused())
    desk.answer(desk.ask(), session_body(None))
    ask = desk.ask()
    assert sent(ask) == []
    desk.answer(ask, status_body())
    assert desk.agent.urgent
    assert sent(desk.ask()) == [1]


def test_fixing_another_sid_ends_the_session_in_view() -> None:
    """Session 7 is in view; the entry now says 5, which has ended: nobody observes 7 any more."""
    desk = Desk().in_session()
    desk.watch(asm_session_sid="5")
    desk.fail(desk.ask(), refused())
    desk.answer(desk.ask(), session_body("7"))
    assert desk.agent.state.asm_session_sid is None


def test_an_answer_about_a_former_session_is_not_taken_for_the_new() -> None:
    """The registry's entry changed while a request was under way."""
    desk = Desk().in_session()
    ask = desk.ask()
    desk.watch(asm_session_sid="5")
    assert desk.answer(ask, status_body("PEERED")) == []


# -- failures


def test_a_lost_agent_is_told_after_five_seconds() -> None:
    """No answer for longer than three intervals and 5 s: AgentObservationLost, once, with the last answer's time."""
    desk = Desk().in_session()
    for moment, lost in ((2.0, 0), (5.0, 0), (5.1, 1), (9.0, 0)):
        desk.now = moment
        told = desk.fail(desk.ask(), timed_out())
        assert len(of_type(told, records.AgentObservationLost)) == lost
    (lost,) = of_type(desk.told, records.AgentObservationLost)
    assert (lost.reason, lost.since, lost.asm_session_sid) == ("unreachable", "2026-09-21T14:13:20.000000Z", "7")
    assert desk.agent.condition == "lost"


def test_a_slow_rhythm_has_more_patience() -> None:
    """Three intervals, where these are longer."""
    desk = Desk().in_session(interval=10)
    desk.now = 30
    assert desk.fail(desk.ask(), timed_out()) == []
    desk.now = 30.1
    assert of_type(desk.fail(desk.ask(), timed_out()), records.AgentObservationLost)


@pytest.mark.parametrize("answer", ["READY", "PEERED"])
def test_observation_is_resumed_by_the_next_answer(answer: str) -> None:
    """Also by one that is the same as before; it repeats the loss's reason and since."""
    desk = Desk().in_session()
    desk.now = 20
    desk.fail(desk.ask(), Malformed("x"))
    told = desk.answer(desk.ask(), status_body(answer))
    assert isinstance(told[0], records.AgentObservationResumed)
    assert told[0].reason == "malformed"
    assert len(told) == (1 if answer == "READY" else 2)
    assert desk.agent.condition == "in_session"


def test_an_agent_that_may_not_be_asked_is_lost_too() -> None:
    """Two agents of one session are a fault: the second is reported as sick, session_shared."""
    desk = Desk()
    desk.watch()
    desk.agent.sick = Unpollable("session_shared", "agent 'a' has the same token")
    assert desk.absorb(desk.agent.hindered(desk.agent.sick, desk.at)) == []
    desk.now = 5.1
    (lost,) = desk.absorb(desk.agent.hindered(desk.agent.sick, desk.at))
    assert lost.reason == "session_shared"  # type: ignore[union-attr]
    assert desk.agent.condition == "lost"


def test_being_refused_for_good_is_a_loss() -> None:
    """The session lives and its polls are refused: there is no observation."""
    desk = Desk().in_session()
    for _ in range(2):
        desk.now += 5
        desk.fail(desk.ask(), refused(400))
        desk.answer(desk.ask(), session_body("7"))
    assert of_type(desk.told, records.AgentObservationLost)[0].reason == "refused"


def test_a_refused_token_is_not_used_for_a_minute() -> None:
    """401/403: the session stops asking until its token changes, trying once a minute."""
    desk = Desk().in_session()
    desk.fail(desk.ask("old"), unauthorized())
    for moment, old in ((0.0, False), (59.9, False), (60.0, True)):
        desk.now = moment
        assert desk.agent.may_poll("old", desk.at) is old
        assert desk.agent.may_poll("new", desk.at)


def test_another_token_reference_is_used_at_once() -> None:
    """After a 401 the registry names another token: no minute's wait for the operator."""
    desk = Desk().in_session(token="file:a")
    desk.fail(desk.ask("old"), unauthorized())
    desk.watch(token="file:b")
    assert desk.agent.may_poll("new", desk.at)


def test_retry_after_is_obeyed() -> None:
    """By everything, events too."""
    desk = Desk().in_session()
    desk.inject(1)
    desk.fail(desk.ask(), throttled(429, 12.5))
    desk.inject(2)
    desk.now = 12.4
    assert not desk.agent.may_poll("t", desk.at)
    desk.now = 12.5
    assert sent(desk.ask()) == [1, 2]


def test_an_answer_that_cannot_be_read_changes_nothing() -> None:
    """One bad answer never stops another: the next one is read."""
    desk = Desk().in_session()
    for bad in (b"", b"{", b"[]", b"null", b'{"voiceStatus": 1}', b'{"voiceStatus": {"status": "x"}}'):
        assert desk.answer(desk.ask(), bad) == []
    desk.poll(status_body("PEERED"))
    assert desk.told[-1].previous_status_desc == "READY"  # type: ignore[union-attr]


# -- events


def test_an_event_goes_out_in_the_next_request() -> None:
    """At once, while later entries wait for the next one; delivered by any 2xx, readable or not."""
    desk = Desk().in_session()
    ask = desk.ask()
    desk.inject(1, 2)
    desk.answer(ask, status_body())
    assert desk.agent.urgent
    ask = desk.ask()
    desk.inject(3)
    assert body(ask)["events"] == [{"pause_event": {}}] * 2
    desk.answer(ask, b"<html>")
    assert outcomes(desk) == {"3/1": "delivered", "3/2": "delivered"}
    assert sent(desk.ask()) == [3]


def test_events_wait_while_there_is_no_session() -> None:
    """The agent has no session now: they wait until their time is over, and are expired."""
    desk = Desk()
    desk.watch()
    desk.inject(1)
    desk.answer(desk.ask(), session_body(None))
    assert not desk.agent.urgent
    desk.pass_by(TTL - 1)
    desk.inject(2)
    desk.pass_by(1)
    desk.poll()
    ask = desk.ask()
    assert sent(ask) == [2]
    assert outcomes(desk) == {"3/1": "expired"}


def test_an_event_refused_with_its_session_waits_for_the_next() -> None:
    """getcurrentsession tells a refused event from an ended session."""
    desk = Desk().in_session()
    desk.inject(1)
    desk.fail(desk.ask(), refused())
    desk.answer(desk.ask(), session_body(None))
    assert outcomes(desk) == {}
    desk.answer(desk.ask(), session_body("8"))
    ask = desk.ask()
    assert (sent(ask), body(ask)["asm_session_sid"]) == ([1], "8")
    desk.answer(ask, status_body())
    assert outcomes(desk) == {"3/1": "delivered"}


def test_refused_events_are_tried_one_by_one_with_polls_between() -> None:
    """Meanwhile polls go on without events; the bad one is rejected, the good ones are delivered."""
    desk = Desk().in_session()
    desk.inject(1, 2)
    requests = []
    for _ in range(20):
        if not desk.agent.urgent:
            break
        ask = desk.ask()
        requests.append(sent(ask) if ask.call == "getstatus" else "?")
        if ask.call == "getcurrentsession":
            desk.answer(ask, session_body("7"))
        elif 2 in sent(ask):
            desk.fail(ask, refused(400))
        else:
            desk.answer(ask, status_body())
    assert requests == [[1, 2], "?", [], [1], [2], "?", []]
    assert outcomes(desk) == {"3/1": "delivered", "3/2": "rejected"}


def test_the_last_of_a_refused_batch_is_tried_alone() -> None:
    """Two are refused together; before it is known why, the first expires: the second was never tried alone."""
    desk = Desk().in_session()
    desk.take(entry(1, EPOCH, expires_at="2026-09-21T14:13:25Z"), entry(2, EPOCH))
    desk.fail(desk.ask(), refused(400))
    desk.fail(desk.ask(), throttled(503, 6))
    desk.pass_by(6)
    desk.answer(desk.ask(), session_body("7"))
    assert outcomes(desk) == {"3/1": "expired"}


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (timed_out(), True),
        (not_connected(), False),
        (throttled(), False),
        (unauthorized(), False),
        (Unavailable("HTTP 500", http_status=500, possibly_processed=True), True),
    ],
)
def test_a_failed_try_is_no_refusal(error: AsmError, repeated: bool) -> None:
    """401, 403, 429, 5xx and time-outs are tried again; the outcome says whether the event may have come twice."""
    desk = Desk().in_session()
    desk.inject(1)
    desk.fail(desk.ask(), error)
    desk.now = 60
    ask = desk.ask()
    assert sent(ask) == [1]
    (outcome,) = of_type(desk.answer(ask, status_body()), records.InjectionCompleted)
    assert (outcome.outcome, outcome.attempts, outcome.possibly_repeated) == ("delivered", 2, repeated)


def test_attempts_end() -> None:
    desk = Desk(limits=InjectionSettings(max_attempts=2)).in_session()
    desk.inject(1)
    desk.fail(desk.ask(), timed_out())
    desk.fail(desk.ask(), throttled(503))
    (outcome,) = of_type(desk.told, records.InjectionCompleted)
    assert (outcome.reason, outcome.http_status, outcome.possibly_repeated) == ("attempts_exhausted", 503, True)


def test_an_entry_of_a_dead_process_may_have_been_sent() -> None:
    """The process that had it may have sent it before it died: possibly_repeated."""
    desk = Desk().in_session()
    desk.take(entry(1, possibly_processed=True))
    desk.answer(desk.ask(), status_body())
    assert desk.told[-1].possibly_repeated  # type: ignore[union-attr]


def test_an_unregistered_agents_events_wait_a_while() -> None:
    """Its entries wait on, as those of an unknown agent; registered again in time, it gets them."""
    desk = Desk().in_session()
    desk.now = 100
    desk.inject(1)
    desk.unwatch()
    desk.pass_by(9)
    desk.watch()
    desk.poll()
    assert sent(desk.ask()) == [1]


def test_an_event_under_way_while_the_agent_is_unregistered_is_delivered() -> None:
    """It was taken by the service: unregistering does not change that."""
    desk = Desk().in_session()
    desk.inject(1)
    ask = desk.ask()
    desk.unwatch()
    desk.agent.in_flight = None
    step = desk.agent.answered(ask, 200, status_body(), desk.at)
    assert step is not None
    assert [record.outcome for record in of_type(step.records, records.InjectionCompleted)] == ["delivered"]
    assert step.finished == [1]


def test_nothing_is_lost_of_an_agent_that_is_not_watched() -> None:
    """Unregistered while a request hangs: its time-out tells nothing, and the next stream begins clean."""
    desk = Desk().in_session()
    ask = desk.ask()
    desk.unwatch()
    desk.now = 10
    assert desk.fail(ask, timed_out()) == []
    assert desk.agent.state.lost is None


def test_a_delivered_event_names_its_session() -> None:
    """An event may go out with a session's first poll: its record carries that session's sid."""
    desk = Desk()
    desk.watch()
    desk.inject(1)
    desk.answer(desk.ask(), session_body("7"))
    told = desk.answer(desk.ask(), status_body())
    assert {record.asm_session_sid for record in of_type(told, records.ConversationEventDelivered)} == {"7"}


def test_a_text_that_no_record_can_hold_stops_nobody_else() -> None:
    """A message of megabytes is no answer: it is never appended, where it would stop the whole partition."""
    desk = Desk().in_session()
    long = msgspec.json.encode({"voiceStatus": {"message": "x" * 300_000, "messageTimestamp": "1"}})
    assert desk.answer(desk.ask(), long) == []
    assert desk.agent.trouble is not None
    assert desk.agent.trouble.reason == "malformed"


def test_an_answer_too_long_to_read_has_taken_its_events() -> None:
    """2xx is delivered, whatever the body is."""
    desk = Desk().in_session()
    desk.inject(1)
    told = desk.fail(desk.ask(), Malformed("too long", http_status=200, possibly_processed=True))
    assert [record.outcome for record in of_type(told, records.InjectionCompleted)] == ["delivered"]


# -- everything at once

ERRORS = [timed_out, not_connected, unauthorized, throttled, lambda: throttled(503, 3.0), lambda: Malformed("x")]


class Conversation(RuleBasedStateMachine):
    """An agent in arbitrary company: every entry gets one outcome, and the state always tells which are finished."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(limits=InjectionSettings(max_attempts=4, max_events_per_request=2, max_pending=4))
        self.ask: PollRequest | None = None
        self.offset = 10
        self.taken: list[int] = []
        self.first_sends: list[int] = []

    @initialize()
    def begin_in_session(self) -> None:
        self.desk.in_session()

    @rule(gap=st.integers(1, 2), ce_id=st.sampled_from([None, None, "a", "b"]), ttl=st.sampled_from([1.0, 20.0, TTL]))
    def inject(self, gap: int, ce_id: str | None, ttl: float) -> None:
        self.offset += gap
        self.taken.append(self.offset)
        headers = {} if ce_id is None else {"ce_id": ce_id}
        self.desk.take(entry(self.offset, EPOCH + self.desk.now, ttl=ttl, **headers))

    @precondition(lambda self: self.ask is None)
    @rule()
    def begin(self) -> None:
        if not self.desk.agent.may_poll("t", self.desk.at):
            return
        self.ask = self.desk.ask()
        assert len(self.ask.injections) <= 2
        self.first_sends += [one.offset for one in self.ask.injections if one.offset not in self.first_sends]
        ids = [one.injection_id for one in self.ask.injections]
        assert len(set(ids)) == len(ids), "a repetition in the same request"
        assert all(one.expires_at > EPOCH + self.desk.now for one in self.ask.injections)

    @precondition(lambda self: self.ask is not None)
    @rule(desc=st.sampled_from(["READY", "PEERED"]), sid=st.sampled_from(["7", "8", None]))
    def answer(self, desc: str, sid: str | None) -> None:
        ask = self._end()
        told = self.desk.answer(ask, status_body(desc) if ask.call == "getstatus" else session_body(sid))
        done = [one.entry for one in of_type(told, records.InjectionCompleted) if one.outcome == "delivered"]
        assert done == [one.entry for one in ask.injections]

    @precondition(lambda self: self.ask is not None)
    @rule(status=st.sampled_from([400, 404, 422]))
    def refuse(self, status: int) -> None:
        self.desk.fail(self._end(), refused(status))

    @precondition(lambda self: self.ask is not None)
    @rule(error=st.sampled_from(ERRORS))
    def fail(self, error: Any) -> None:
        self.desk.fail(self._end(), error())

    def _end(self) -> PollRequest:
        assert self.ask is not None
        ask, self.ask = self.ask, None
        return ask

    @rule(seconds=st.sampled_from([0.1, 1.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.desk.pass_by(seconds)

    @rule(sid=st.sampled_from([None, "7", "8"]), skills=st.sampled_from([[], ["english"]]))
    def watch(self, sid: str | None, skills: list[str]) -> None:
        self.desk.watch(asm_session_sid=sid, skills=skills)

    @precondition(lambda self: self.ask is None)
    @rule()
    def unwatch(self) -> None:
        self.desk.unwatch()

    @rule()
    def commit(self) -> None:
        self.desk.agent.committed(self.desk.agent.state)

    @invariant()
    def the_state_tells_what_is_finished(self) -> None:
        state = self.desk.agent.state
        told = [one for one in self.taken if one <= state.inbox_offset and one not in state.inbox_open]
        assert told == sorted(self.desk.finished)
        assert len(outcomes(self.desk)) == len(self.desk.finished)
        waiting = [one.offset for one in self.desk.agent.pending.injections]
        assert waiting == [one for one in self.taken if one not in self.desk.finished]

    @invariant()
    def the_state_survives_a_restart(self) -> None:
        state = self.desk.agent.state
        assert msgspec.json.decode(msgspec.json.encode(state), type=AgentState) == state

    @invariant()
    def first_sends_are_in_order(self) -> None:
        assert self.first_sends == sorted(set(self.first_sends))

    @invariant()
    def the_reader_sees_what_the_agent_knows(self) -> None:
        state, picture = self.desk.agent.state, self.desk.picture
        assert picture.watched == (state.stream_id is not None)
        if picture.watched:
            assert (picture.stream_id, picture.sequence) == (state.stream_id, state.sequence)
            assert picture.session == state.asm_session_sid
            assert (picture.lost is None) == (state.lost is None)

    def teardown(self) -> None:
        if self.ask is not None:
            self.desk.fail(self._end(), timed_out())
        self.desk.pass_by(TTL)
        assert not self.desk.agent.pending
        assert sorted(self.desk.finished) == self.taken
        assert len(outcomes(self.desk)) == len(self.taken)


class Handover(Conversation):
    """The same with processes that die: the next one has the committed state, and reads the inbox from its prefix."""

    @rule(lag=st.integers(0, 3))
    def die(self, lag: int) -> None:
        """Every step was committed; a request under way may have been sent. The inbox is read in portions."""
        old, self.ask = self.desk, None
        self.desk = Desk(old.limits, old.agent.state, old.now, old.told, old.letters, old.finished, old.picture)
        for number, one in enumerate(old.agent.pending.injections):
            if number == lag:
                self.desk.now += 20
            state = self.desk.agent.state
            assert one.offset > state.inbox_offset or one.offset in state.inbox_open, f"entry {one.offset} is forgotten"
            named = {"ce_id": one.injection_id} if one.identified else {}
            ttl = one.expires_at - one.received_at
            self.desk.take(entry(one.offset, one.received_at, ttl=ttl, possibly_processed=True, **named))


QUICK = settings(max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
Conversation.TestCase.settings = QUICK
TestConversation = Conversation.TestCase

Handover.TestCase.settings = settings(QUICK, derandomize=True, phases=(Phase.generate,))
TestHandover = Handover.TestCase
