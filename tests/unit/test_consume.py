"""What the records' own package gives to consumers: decoding, the proof that nothing is missing, pictures."""

import doctest
import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from asm_bridge_schemas import consume, picture, records
from asm_bridge_schemas.consume import Missing, Sequences, Unknown, decode
from asm_bridge_schemas.frame import frame
from asm_bridge_schemas.picture import Pictures, fold
from asm_bridge_schemas.records import TOPICS, AgentState, Published
from bridge.kafka.encoding import Encoder
from bridge.kafka.outgoing import Outgoing
from tests.support.agent_harness import AgentHarness, public
from tests.support.samples import sample
from tests.support.strategies import status_body

Stream = list[tuple[Published, AgentState]]
"""Each record with the state that was published with it."""


def written(cls: type[msgspec.Struct], encoding: Any = "json") -> tuple[msgspec.Struct, Outgoing]:
    encoder, record = Encoder(encoding, "asm.inject"), sample(cls)
    if isinstance(record, AgentState):
        return record, encoder.state(record.agent_id, record, 1.0)
    if isinstance(record, records.PartitionHeartbeat):
        return record, encoder.heartbeat(record)
    return record, encoder.record(record)


@pytest.mark.parametrize("module", [consume, picture])
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    """What the modules' docstrings show is what happens."""
    assert doctest.testmod(module) == (0, doctest.testmod(module).attempted)
    assert doctest.testmod(module).attempted > 0


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("cls", TOPICS, ids=lambda cls: cls.__name__)
def test_every_record_is_decoded_by_its_headers(cls: type[msgspec.Struct], encoding: str) -> None:
    """Each record that the bridge writes comes back equal, framed or not, however a client hands over the headers."""
    record, message = written(cls, encoding)
    assert message.value is not None
    assert decode(message.value, message.headers) == record
    assert decode(frame(7) + message.value, dict(message.headers)) == record
    assert decode(message.value, [(name, value.decode()) for name, value in message.headers]) == record
    without_type = [header for header in message.headers if header[0] != "ce_type"]
    assert decode(message.value, without_type) == record


def test_what_cannot_be_read_is_reported_and_stops_nobody() -> None:
    """A type of a later release, a broken value and another program's record are Unknown; a tombstone is None."""
    later = decode(b"{}", [("ce_type", b"com.tcn.asm.agent_yawned.v1"), ("content-type", b"application/json")])
    assert isinstance(later, Unknown)
    assert later.ce_type == "com.tcn.asm.agent_yawned.v1"
    assert decode(None, [("ce_type", b"x")]) is None
    _, message = written(records.AgentWatchStarted)
    for value in (b"", b"\xff", b"[" * 100_000, b'{"type": "AgentWatchStarted"}', b"\0\0\0\0\1"):
        assert isinstance(decode(value, message.headers), Unknown)
    for headers in (None, {}, [("ce_type", None)], [("ce_type", b"\xff")], {"content-type": "text/plain"}):
        assert isinstance(decode(b"7", headers), Unknown)
    assert isinstance(decode(b'{"type": "AgentYawned"}'), Unknown)


def test_headers_that_a_gateway_has_changed_are_read() -> None:
    """The case of a header's name, a media type's parameters and other spellings, a repeated header, bytes of another
    kind: all mean the same."""
    record, message = written(records.AgentWatchStarted)
    assert message.value is not None
    headers = dict(message.headers)
    assert decode(message.value, {name.upper(): value for name, value in headers.items()}) == record
    for content_type in ("application/json; charset=utf-8", "Application/JSON", ""):
        assert decode(message.value, headers | {"content-type": content_type.encode()}) == record
    assert decode(message.value, [*headers.items(), *headers.items()]) == record
    assert decode(memoryview(message.value), {name: bytearray(value) for name, value in headers.items()}) == record
    assert decode(message.value.decode(), headers) == record  # type: ignore[arg-type]
    packed, message = written(records.AgentWatchStarted, "msgpack")
    assert decode(message.value, {"Content-Type": b"application/msgpack;v=1"}) == packed
    for value in (7, {"type": "AgentWatchStarted"}, "ab"):
        assert isinstance(decode(value, headers), Unknown)  # type: ignore[arg-type]


def test_all_that_decode_returns_may_be_passed_on() -> None:
    """A reader of every topic passes whatever comes to Sequences and Pictures: a state's number does not stand for the
    record's, and nothing but events changes a picture."""
    sequences, pictures = Sequences(), Pictures()
    state = AgentState(agent_id="agent-7", stream_id="s1", sequence=1, observed_at="2026-11-23T09:30:00.000250Z")
    others = [state, sample(records.PartitionHeartbeat), Unknown(None, "?"), None]
    for other in others:
        assert sequences.see(other) == "unnumbered"  # type: ignore[arg-type]
        assert pictures.apply(other) == []  # type: ignore[arg-type]
    assert pictures.agents == {}
    assert pictures.held == 0
    for other in (numbered(1), sample(records.PartitionHeartbeat), Unknown(None, "?")):
        assert pictures.load("agent-7", other) == []  # type: ignore[arg-type]
    assert sequences.see(numbered(2)) == "ahead"
    assert sequences.missing() == [Missing("agent-7", "s1", 1, 1)]


@pytest.mark.parametrize("topic", ["asm.queued-calls", "agent-state", "dead-letters", ""])
def test_sequences_refuse_a_topic_without_numbers(topic: str) -> None:
    """A name with its prefix, or a topic without numbers, would never show that a record is missing."""
    with pytest.raises(ValueError, match=r"agent-status, .*queued-calls"):
        Sequences(topic=topic)


def numbered(number: int, topic_number: int = 1, stream: str = "s1") -> Published:
    return records.AgentProfileChanged(
        agent_id="agent-7",
        stream_id=stream,
        sequence=number,
        topic_sequence=topic_number,
        asm_session_sid=None,
        observed_at="2026-11-23T09:30:00.000250Z",
    )


def of_no_stream() -> Published:
    outcome = sample(records.InjectionCompleted)
    assert isinstance(outcome, records.InjectionCompleted)
    return replace(outcome, stream_id=None, sequence=None, topic_sequence=None)


def test_numbers_say_what_is_missing() -> None:
    """Numbers that come out of order are ahead, then late; those that never come are missing."""
    sequences = Sequences()
    seen = [sequences.see(numbered(number)) for number in (1, 2, 4, 7, 3, 2, 5)]
    assert seen == ["next", "next", "ahead", "ahead", "late", "repeated", "late"]
    assert sequences.missing() == [Missing("agent-7", "s1", 6, 6)]
    assert sequences.see(numbered(3, stream="s2")) == "ahead"
    assert sequences.missing()[1:] == [Missing("agent-7", "s2", 1, 2)]
    assert sequences.see(of_no_stream()) == "unnumbered"


def test_one_topic_has_its_own_numbers() -> None:
    """A reader of one topic counts by topic_sequence, and other topics' records are no part of it."""
    sequences = Sequences(topic="agent-status", from_start=False)
    assert [sequences.see(numbered(one, two)) for one, two in ((7, 3), (9, 4), (12, 6))] == ["next", "next", "ahead"]
    assert sequences.missing() == [Missing("agent-7", "s1", 5, 5)]
    assert sequences.see(sample(records.QueuedCallChanged)) == "unnumbered"
    with pytest.raises(ValueError, match="topic_sequence"):
        sequences.join(AgentState(agent_id="agent-7", stream_id="s1", sequence=3))


def test_a_state_covers_what_was_before_it() -> None:
    """After joining a state, its numbers are repeated, the next one is next, and only later ones can be missing."""
    sequences = Sequences()
    sequences.see(numbered(3))
    sequences.see(numbered(9))
    sequences.join(AgentState(agent_id="agent-7", stream_id="s1", sequence=5))
    sequences.join(AgentState(agent_id="agent-8"))
    assert [sequences.see(numbered(number)) for number in (5, 6, 4, 10)] == ["repeated", "late", "repeated", "next"]
    assert sequences.missing() == [Missing("agent-7", "s1", 7, 8)]


@given(st.permutations(range(1, 12)), st.integers(0, 11), st.integers(0, 10))
def test_sequences_agree_with_a_set(numbers: list[int], taken: int, joined: int) -> None:
    """Whatever the order and wherever a state is joined: what is missing is what a set of numbers lacks."""
    sequences, seen = Sequences(), set(range(1, joined + 1))
    if joined:
        sequences.join(AgentState(agent_id="agent-7", stream_id="s1", sequence=joined))
    for number in numbers[:taken]:
        assert (sequences.see(numbered(number)) == "repeated") == (number in seen)
        seen.add(number)
    missing = {number for gap in sequences.missing() for number in range(gap.first, gap.last + 1)}
    assert missing == set(range(1, max(seen, default=0))) - seen


STEPS = st.lists(
    st.sampled_from(["READY", "PEERED", "call-1", "call-2", "calls", "nothing", "alert", "end", "lost", "profile"]),
    max_size=25,
)


def played(steps: list[str], *, unwatch: bool = False, lives: int = 1) -> Stream:
    """What an agent publishes that is answered this; with more ``lives`` it is removed and registered again."""
    harness, stream = AgentHarness(), Stream()
    answers = {
        "call-1": {"queuedCalls": {"agentQueueCalls": [{"callSid": "1", "startDate": "2026-09-21T14:13:20Z"}]}},
        "call-2": {"queuedCalls": {"onHoldCalls": [{"callSid": "2", "skills": ["english"]}]}},
        "calls": {"queuedCalls": {"agentQueueCalls": [{"callSid": "2"}, {"callSid": "1", "callType": "OUTBOUND"}]}},
        "nothing": {},
        "alert": {"alert": {"backofficeMessage": {"id": "a1", "message": "hello"}}},
    }

    def take() -> None:
        stream.extend((record, harness.agent.state) for record in harness.records[len(stream) :])

    for number, step in enumerate(["begin", *steps] + ["again", *steps] * (lives - 1)):
        harness.now += 1
        if step in ("begin", "again"):
            if step == "again":
                harness.unwatch()
                take()
            harness.in_session(get_queued_calls=True)
        elif step == "lost":
            harness.pass_by(20)
        elif step == "profile":
            harness.watch(get_queued_calls=True, labels={"number": str(number)})
        elif step == "end":
            harness.answer(harness.next_request(), b"{}", 404)
        else:
            harness.poll(status_body(step) if step not in answers else status_body("READY", **answers[step]))
        take()
    if unwatch:
        harness.unwatch()
        take()
    return stream


def shuffled(stream: list[Published], seed: int) -> list[Published]:
    """The records as a reader of all topics gets them: in order within each topic only."""
    topics, chance = defaultdict(list), random.Random(seed)
    for record in stream:
        topics[TOPICS[type(record)]].append(record)
    left = [TOPICS[type(record)] for record in stream]
    chance.shuffle(left)
    return [topics[topic].pop(0) for topic in left]


@settings(max_examples=100)
@given(STEPS, st.integers(0, 1000), st.booleans(), st.integers(1, 3))
def test_pictures_are_what_the_bridge_publishes(steps: list[str], seed: int, unwatch: bool, lives: int) -> None:
    """Records in any order of the topics lead to the published state; each is applied once, in the order of its stream,
    also if a topic is read beyond the end of one stream before another topic."""
    stream = played(steps, unwatch=unwatch, lives=lives)
    pictures, applied = Pictures(), list[Published]()
    for record in shuffled([record for record, _ in stream], seed):
        applied += pictures.apply(record)
        assert pictures.apply(record) == []
    assert by_stream(applied) == by_stream(record for record, _ in stream)
    assert pictures.held == 0
    left = {agent_id: public(state) for agent_id, state in pictures.agents.items()}
    assert left == ({} if unwatch else {"agent-7": public(stream[-1][1])})


def by_stream(found: Iterable[Published]) -> dict[str | None, list[Published]]:
    streams: dict[str | None, list[Published]] = {}
    for record in found:
        streams.setdefault(record.stream_id, []).append(record)
    return streams


@settings(max_examples=100)
@given(STEPS, st.integers(0, 1000), st.randoms(use_true_random=False))
def test_joining_late_leads_to_the_same_picture(steps: list[str], seed: int, chance: random.Random) -> None:
    """A reader begins with any published state and with records from any time before it, whichever it reads first."""
    stream = played(steps)
    joined = chance.choice(stream)[1]
    after = [record for record, _ in stream if (record.sequence or 0) > joined.sequence]
    come = shuffled([record for record, _ in stream[chance.randrange(joined.sequence + 1) :]], seed)
    pictures, applied = Pictures(), list[Published]()
    loaded_at = chance.randrange(len(come) + 1)
    for number, record in enumerate(come):
        if number == loaded_at:
            applied += pictures.load("agent-7", joined)
        applied += pictures.apply(record)
    if loaded_at == len(come):
        applied += pictures.load("agent-7", joined)
    assert [record for record in applied if (record.sequence or 0) > joined.sequence] == after
    assert public(pictures.agents["agent-7"]) == public(stream[-1][1])
    assert pictures.held == 0


def test_a_step_that_comes_again_replaces_the_first() -> None:
    """After a crash of an at_least_once bridge the last step comes with another content: the later one holds."""
    stream = [record for record, _ in played(["PEERED", "calls"])]
    pictures = Pictures()
    for record in stream:
        pictures.apply(record)
    assert len(pictures.agents["agent-7"].calls) == 2
    last = [record for record in stream if record.observed_at == stream[-1].observed_at]
    assert len(last) > 1
    again = replace(numbered(last[0].sequence), stream_id=last[0].stream_id, observed_at="2099-01-01T00:00:00.000000Z")
    assert pictures.apply(last[0]) == []
    assert pictures.apply(again) == [again]
    assert pictures.agents["agent-7"].calls == []
    assert pictures.agents["agent-7"].sequence == again.sequence
    assert pictures.agents["agent-7"].status.status_desc == "PEERED"


def test_a_step_that_comes_again_may_be_shorter_and_out_of_order() -> None:
    """The new step's records come in any order between topics, and a number of the former step that the new one does
    not have is not taken for what follows."""
    first, *former = (numbered(number) for number in (1, 2, 3, 4))
    former = [replace(record, observed_at="2026-11-23T09:30:01.000000Z") for record in former]
    new = [replace(record, observed_at="2026-11-23T09:30:09.000000Z", topic_sequence=7) for record in former[:2]]
    after = replace(former[2], observed_at="2026-11-23T09:30:10.000000Z")
    pictures = Pictures()
    arriving = [first, former[0], former[1], new[1], former[2], new[0], after]
    assert [pictures.apply(one) for one in arriving] == [[first], [former[0]], [former[1]], [], [], new, [after]]
    assert pictures.held == 0


@given(st.randoms(use_true_random=False))
def test_steps_that_come_again_lead_to_the_last_of_them_however_topics_lag(chance: random.Random) -> None:
    """An at_least_once bridge that crashes between its records and its state continues from the state before: whatever
    each topic's lag, the picture is that of the steps that hold, and no record of the others is kept."""
    topics: dict[str, list[Any]] = {}
    held, at = AgentState(agent_id="agent-7"), 0
    for lost in [False, *(chance.random() < 0.3 for _ in range(chance.randrange(4))), False]:
        at, state = at + 1, held
        for number in range(state.sequence + 1, state.sequence + chance.randrange(2, 5)):
            contents: list[tuple[type[Published], dict[str, Any]]] = [
                (records.AgentProfileChanged, {"labels": {"at": str(at)}}),
                (records.QueuedCallChanged, {"change": "entered", "list": "hqm", "call_sid": str(at)}),
                (records.AgentMessageReceived, {"message": "m", "message_timestamp": at}),
            ]
            cls, fields = chance.choice(contents)
            if number == 1:
                cls, fields = records.AgentWatchStarted, {"reason": "registered"}
            place = {"stream_id": "s", "sequence": number, "topic_sequence": 1, "asm_session_sid": None}
            record = cls(agent_id="agent-7", observed_at=f"2026-11-23T09:30:{at:02}.000000Z", **place, **fields)
            topics.setdefault(records.TOPICS[cls], []).append(record)
            folded = fold(state, record)
            assert folded is not None
            state = folded
        if not lost:
            held = state
            topics.setdefault("agent-state", []).append(state)
    if chance.random() < 0.5:
        del topics["agent-state"]
    pictures = Pictures()
    lags = {topic: chance.choice([0.1, 1.0, 5.0]) for topic in topics}
    while topics:
        (topic,) = chance.choices(list(topics), [lags[one] for one in topics])
        record = topics[topic].pop(0)
        pictures.load("agent-7", record) if topic == "agent-state" else pictures.apply(record)
        topics = {one: coming for one, coming in topics.items() if coming}
    assert pictures.agents == {"agent-7": held}
    assert pictures.held == 0


def test_a_stream_with_a_gap_does_not_hold_up_the_next() -> None:
    """Retention may have taken a record of an agent's former stream: the next one is shown all the same, and the former
    is continued when the record comes after all, until a state says that it is over."""
    stream = played(["calls", "PEERED"], lives=2)
    first, second = by_stream(record for record, _ in stream).values()
    pictures, joined, repaired = Pictures(), Pictures(), Pictures()
    for record in [*first[:2], *first[3:], *second]:
        for one in (pictures, joined, repaired):
            one.apply(record)
    assert pictures.agents["agent-7"].stream_id == second[0].stream_id
    assert pictures.held == len(first) - 3
    assert joined.load("agent-7", pictures.agents["agent-7"]) == []
    assert joined.held == 0
    assert joined.apply(first[2]) == []
    state = stream[2][1]
    assert state.stream_id == first[0].stream_id
    assert repaired.load("agent-7", state) == first[state.sequence :]
    assert repaired.held == 0
    assert repaired.agents == joined.agents
    assert pictures.apply(first[2]) == first[2:]
    assert pictures.held == 0
    assert joined.agents == pictures.agents


def test_a_late_tombstone_ends_its_own_stream_only() -> None:
    """The states of an agent that was removed and registered again may be read after the events of its new stream."""
    first, second = played(["READY"], unwatch=True), played(["PEERED"])
    pictures = Pictures()
    for record, _ in second:
        pictures.apply(record)
    now = pictures.agents["agent-7"]
    later = replace(now, observed_at="2099-01-01T00:00:00.000000Z")
    pictures.agents["agent-7"] = later
    pictures.load("agent-7", first[3][1])
    pictures.load("agent-7", None)
    assert pictures.agents["agent-7"] == later
    for record, _ in first:
        assert pictures.apply(record) == []
    pictures.load("agent-7", second[-1][1])
    pictures.load("agent-7", None)
    assert pictures.agents == {}
    assert pictures.load("agent-7", second[-1][1]) == []
    assert pictures.agents == {}
