"""The records between two answers, checked by a reader that has only the records."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_bridge_schemas import asm, records
from asm_bridge_schemas.records import AgentState, Published, Status
from bridge.agents import diff as changes
from bridge.agents.diff import end_session, observe
from bridge.agents.step import Step
from tests.support.pictures import Picture
from tests.support.strategies import EPOCH, TIMES, answers, sids

STATUS_FIELDS = Status.__struct_fields__
Observed = tuple[str, asm.VoiceStatus, bool, bool]
observations = st.tuples(sids, answers, st.booleans(), st.booleans())
histories = st.lists(observations | st.sampled_from(["ended", "unwatched"]), min_size=1, max_size=8)


class Reader:
    """An agent's state and a reader of its records; each state goes through Kafka's encoding."""

    def __init__(self) -> None:
        self.state = AgentState(agent_id="agent-7", stream_id="s", sequence=1)
        self.picture = Picture(stream_id="s", sequence=1, watched=True)
        self.steps = 0

    def step(self) -> Step:
        self.steps += 1
        return Step(self.state, EPOCH + self.steps)

    def take(self, step: Step) -> list[Published]:
        for record in step.records:
            self.picture.apply(record)
        self.state = msgspec.json.decode(msgspec.json.encode(step.state), type=AgentState)
        assert self.state == step.state
        return step.records

    def observe(self, observed: Observed) -> list[Published]:
        sid, answer, calls, messages = observed
        step = self.step()
        observe(step, answer, sid=sid, voice_sid=None, calls=calls, messages=messages)
        return self.take(step)

    def end(self, reason: str) -> list[Published]:
        step = self.step()
        end_session(step, reason)
        return self.take(step)


def status_of(answer: asm.VoiceStatus) -> dict[str, Any]:
    return {name: getattr(msgspec.convert(msgspec.to_builtins(answer), Status), name) for name in STATUS_FIELDS}


def calls_of(answer: asm.VoiceStatus) -> dict[tuple[str, str], dict[str, Any]]:
    queued = answer.queued_calls or asm.QueuedCalls()
    lists = {"agent_queue": queued.agent_queue_calls, "on_hold": queued.on_hold_calls, "hqm": queued.hqm_calls}
    return {(name, call.call_sid): call_fields(call) for name, found in lists.items() for call in found}


def call_fields(call: asm.QueuedCallData) -> dict[str, Any]:
    (start, start_raw), (hold, hold_raw) = TIMES[call.start_date], TIMES[call.hold_date]
    plain = ("phone_number", "caller_id", "call_type", "skills", "agent_specific", "queued_notification_type")
    dates = {"start_date": start, "start_date_raw": start_raw, "hold_date": hold, "hold_date_raw": hold_raw}
    return dates | {name: getattr(call, name) for name in plain}


def alert_of(answer: asm.VoiceStatus) -> tuple[str, str] | None:
    shown = {} if answer.alert is None else msgspec.structs.asdict(answer.alert)
    return next(((kind, alert.id) for kind, alert in shown.items() if alert is not None), None)


@given(histories)
def test_the_records_lead_from_one_picture_to_the_next(history: list[Observed | str]) -> None:
    """A consumer that applies the records to the old state has the new one, whatever the answers were."""
    reader = Reader()
    for observed in history:
        if isinstance(observed, str):
            reader.end(observed)
            assert reader.picture.session is None
            continue
        reader.observe(observed)
        sid, answer, calls, _ = observed
        assert reader.picture.session == sid
        assert reader.picture.status == status_of(answer)
        assert reader.picture.calls == (calls_of(answer) if calls else {})
        assert reader.picture.alert == alert_of(answer)


@given(histories)
def test_the_same_answer_again_tells_nothing(history: list[Observed | str]) -> None:
    """An unchanged answer emits no records."""
    reader = Reader()
    for observed in history:
        if isinstance(observed, str):
            reader.end(observed)
            assert reader.end(observed) == []
        else:
            reader.observe(observed)
            before = reader.state
            assert reader.observe(observed) == []
            assert reader.state == before


@given(histories)
def test_each_message_is_told_once(history: list[Observed | str]) -> None:
    """A message is emitted once, identified by text and timestamp, although the cursor is inclusive, across sessions
    and restarts.
    """
    reader = Reader()
    expected: list[tuple[str, int]] = []
    for observed in history:
        if isinstance(observed, str):
            reader.end(observed)
            continue
        reader.observe(observed)
        _, answer, _, asked = observed
        shown = answer.message, answer.message_timestamp
        cursor = expected[-1][1] if expected else 0
        if asked and answer.message and shown not in expected and shown[1] >= cursor:
            expected.append(shown)
    assert reader.picture.messages == expected


@given(observations, st.sampled_from(["ended", "replaced", "unwatched"]))
def test_a_session_leaves_nothing_behind(observed: Observed, reason: str) -> None:
    """A session's end emits the end of each call (session_ended) and of the alert under that session's sid."""
    reader = Reader()
    reader.observe(observed)
    calls, alert = set(reader.picture.calls), reader.picture.alert
    told = reader.end(reason)
    left = [record for record in told if isinstance(record, records.QueuedCallChanged)]
    cleared = [record for record in told if isinstance(record, records.AgentAlertCleared)]
    assert {(record.list, record.call_sid) for record in left} == calls
    assert {record.reason for record in left} <= {"session_ended"}
    assert [(record.kind, record.alert_id) for record in cleared] == [alert] * (alert is not None)
    assert {record.asm_session_sid for record in told} == {observed[0]}
    assert isinstance(told[-1], records.AgentSessionEnded)
    assert told[-1].reason == reason


@given(observations, observations)
def test_another_sid_replaces_the_session(first: Observed, second: Observed) -> None:
    """A login that directly follows another ends the first session as replaced before any record of the second."""
    reader = Reader()
    reader.observe(first)
    told = reader.observe(second)
    ends = [place for place, record in enumerate(told) if isinstance(record, records.AgentSessionEnded)]
    assert len(ends) == (first[0] != second[0])
    for place in ends:
        assert told[place].reason == "replaced"  # type: ignore[union-attr]
        assert isinstance(told[place + 1], records.AgentSessionStarted)
        assert isinstance(told[place + 2], records.AgentStatusChanged)
        assert {record.asm_session_sid for record in told[: place + 1]} == {first[0]}
        assert {record.asm_session_sid for record in told[place + 1 :]} == {second[0]}


def test_the_same_session_that_comes_back_begins_a_new_chain() -> None:
    """A session that returns with the same sid emits AgentSessionStarted, and its first status names every field."""
    reader = Reader()
    observed: Observed = ("7", asm.VoiceStatus(status_desc="READY"), True, True)
    reader.observe(observed)
    reader.end("ended")
    started, status = reader.observe(observed)
    assert isinstance(started, records.AgentSessionStarted)
    assert isinstance(status, records.AgentStatusChanged)
    assert status.changed == list(STATUS_FIELDS)
    assert status.previous_status_desc is None
    assert status.previous_observed_at is None


def test_keep_alive_is_no_change() -> None:
    """A change of keep_alive_succeeded emits no records, since it says nothing about the agent."""
    reader = Reader()
    reader.observe(("7", asm.VoiceStatus(), True, True))
    assert reader.observe(("7", asm.VoiceStatus(keep_alive_succeeded=True), True, True)) == []


def test_the_order_of_the_calls_is_no_change() -> None:
    """Reordered calls emit no records, since a call is identified by list and sid."""
    reader = Reader()
    a, b = asm.QueuedCallData(call_sid="1"), asm.QueuedCallData(call_sid="2")
    told = []
    for found in ([a, b], [b, a]):
        answer = asm.VoiceStatus(queued_calls=asm.QueuedCalls(hqm_calls=found))
        told = reader.observe(("7", answer, True, True))
    assert told == []


def test_a_queue_that_many_see_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that see the same lists get the same records and share a list in their states, even if one has a call of
    its own.
    """
    looked: list[str] = []

    def digest(call: asm.QueuedCallData) -> str:
        looked.append(call.call_sid)
        return call.phone_number

    monkeypatch.setattr(changes, "_digest", digest)
    held: list[list[asm.QueuedCallData]] = [[], [], [asm.QueuedCallData(call_sid="99")]]
    states = [AgentState(agent_id=f"agent-{number}", stream_id="s") for number, _ in enumerate(held)]
    for number, told in (("a", [50, 50, 51]), ("b", [50, 50, 50]), ("b", [0, 0, 0])):
        queue = [asm.QueuedCallData(call_sid=str(sid), phone_number=number) for sid in range(50)]
        steps = [Step(state, EPOCH) for state in states]
        for step, own in zip(steps, held, strict=True):
            answer = asm.VoiceStatus(queued_calls=asm.QueuedCalls(hqm_calls=queue, on_hold_calls=own))
            observe(step, answer, sid="7", voice_sid=None, calls=True, messages=True)
        assert [sum(isinstance(one, records.QueuedCallChanged) for one in step.records) for step in steps] == told
        states = [step.state for step in steps]
        assert states[0].calls is states[1].calls
    assert Counter(looked) == {str(sid): 3 for sid in range(50)} | {"99": 1}


def test_calls_no_longer_asked_for_are_left_as_not_asked() -> None:
    """Calls that are no longer requested leave the view as not requested rather than as ended."""
    reader = Reader()
    queued = asm.QueuedCalls(hqm_calls=[asm.QueuedCallData(call_sid="1")])
    reader.observe(("7", asm.VoiceStatus(queued_calls=queued), True, True))
    (left,) = reader.observe(("7", asm.VoiceStatus(queued_calls=queued), False, True))
    assert isinstance(left, records.QueuedCallChanged)
    assert (left.change, left.reason) == ("left", "not_asked")


@pytest.mark.parametrize(
    ("voice_sid", "current", "told"), [("5", "6", "5"), (None, "6", "6"), (None, "0", None), ("0", "0", None)]
)
def test_the_voice_session_is_told_where_it_is_known(voice_sid: str | None, current: str, told: str | None) -> None:
    """The voice session is taken from getcurrentsession, else from the status; "0" is protobuf's form of unset."""
    step = Step(AgentState(agent_id="a", stream_id="s"), EPOCH)
    answer = asm.VoiceStatus(current_session_id=current)
    observe(step, answer, sid="7", voice_sid=voice_sid, calls=True, messages=True)
    assert step.records[0].voice_session_sid == told  # type: ignore[union-attr]


def test_a_voice_session_at_its_default_does_not_hide_that_of_the_status() -> None:
    """A voice session of "0" in getcurrentsession does not hide the one in the status."""
    step = Step(AgentState(agent_id="a", stream_id="s"), EPOCH)
    observe(step, asm.VoiceStatus(current_session_id="6"), sid="7", voice_sid="0", calls=True, messages=True)
    assert step.records[0].voice_session_sid == "6"  # type: ignore[union-attr]


def test_times_that_cannot_be_read_come_raw() -> None:
    """An unreadable time such as "1s" is null, with its text in the ..._raw field."""
    reader = Reader()
    call = asm.QueuedCallData(call_sid="1", start_date="1s", hold_date="2026-11-23T10:30:00+01:00")
    told = reader.observe(("7", asm.VoiceStatus(queued_calls=asm.QueuedCalls(on_hold_calls=[call])), True, True))
    (entered,) = [record for record in told if isinstance(record, records.QueuedCallChanged)]
    assert (entered.start_date, entered.start_date_raw) == (None, "1s")
    assert (entered.hold_date, entered.hold_date_raw) == ("2026-11-23T09:30:00Z", None)


def test_an_unwatched_agents_record_has_no_number() -> None:
    """A record of an unwatched agent has no sequence number."""
    step = Step(AgentState(agent_id="a"), EPOCH)
    step.emit(
        records.InjectionCompleted,
        injection_id="i",
        source=None,
        entry="3/5",
        outcome="expired",
        received_at=step.at,
        completed_at=step.at,
    )
    assert (step.records[0].stream_id, step.records[0].sequence, step.state.sequence) == (None, None, 0)
