"""The judge of the chaos runs: it passes a run without fault, and finds each kind of violation."""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState, Books, Status
from asm_bridge_schemas.statuses import status_group
from bridge.agents.step import DeadLetter
from bridge.kafka.encoding import Encoder
from bridge.kafka.partitioner import partition_for
from bridge.record_id import RecordId
from tests.support.chaos import injections
from tests.support.chaos.checker import broken_promises
from tests.support.chaos.facts import Facts, Message, Produced, Record

AGENT = "agent-7"
HOME = partition_for(AGENT, 8)
SID = "1000000000000000001"
MARKER = "9007199254740993"
AT = "2026-11-23T09:30:{:02d}.000000Z"
EVENT = {"activated_conversation_event": {"conversation": {"conversation_sid": MARKER}}}
VALUE = json.dumps(EVENT).encode()
ENTRY = f"{HOME}/0"
BAD_ENTRY = f"{HOME}/1"


def story() -> list[Record]:
    """One agent's records, in order: two statuses, a call, a message, an alert, injections, a new login."""
    view = {"asm_session_sid": SID}
    call = {"list": "agent_queue", "call_sid": "4000000000001000003"}
    alert = {"kind": "backoffice_message", "alert_id": "a1"}
    names = list(Status.__struct_fields__)
    tail = {"injection_id": "i1", "event": EVENT, "conversation_sid": MARKER, "kind": "activated_conversation_event"}
    times = {"received_at": AT.format(0), "completed_at": AT.format(5)}
    told: list[Record] = [
        {"type": "AgentWatchStarted", "reason": "registered", "asm_session_sid": None},
        {"type": "AgentSessionStarted", "voice_session_sid": "2", **view},
        _status("READY", 1, names, None, None, 2) | view,
        {"type": "QueuedCallChanged", "change": "entered", "reason": None, **call, **view},
        {"type": "ConversationEventDelivered", "delivered_at": AT.format(5), **tail, **view},
        {"type": "InjectionCompleted", "injection_id": "i1", "entry": ENTRY, "outcome": "delivered", **times, **view},
        {"type": "AgentMessageReceived", "message": "Well done", "message_timestamp": 5, **view},
        {"type": "AgentAlertRaised", **alert, **view},
        {"type": "AgentAlertCleared", **alert, **view},
        _status("PEERED", 2, ["status_desc", "last_status_change"], "READY", AT.format(2), 9) | view,
        {"type": "InjectionCompleted", "injection_id": "i2", "entry": BAD_ENTRY, "outcome": "undeliverable", **times}
        | view,
        {"type": "QueuedCallChanged", "change": "left", "reason": "session_ended", **call, **view},
        {"type": "AgentSessionEnded", "voice_session_sid": "2", "reason": "ended", **view},
        {"type": "AgentSessionStarted", "voice_session_sid": "2", **view},
        _status("IDLE", 3, names, None, None, 14) | view,
    ]
    in_topic: Counter[str] = Counter()
    return [_numbered(record, number, in_topic) for number, record in enumerate(told)]


def _status(desc: str, change: int, changed: list[str], before: str | None, since: str | None, number: int) -> Record:
    own = msgspec.structs.asdict(Status(status_desc=desc, last_status_change=change))
    previous = {
        "previous_status_desc": before,
        "previous_observed_at": since,
        "previous_duration_ms": None if before is None else 7000,
    }
    group = {"status_group": status_group(desc), "status_since": AT.format(number)}
    return {"type": "AgentStatusChanged", "changed": changed, **group, **previous, **own}


def _numbered(record: Record, number: int, in_topic: Counter[str]) -> Record:
    topic = records.TOPICS[_class(record["type"])]
    in_topic[topic] += 1
    common = {"agent_id": AGENT, "stream_id": "s1", "sequence": number + 1, "observed_at": AT.format(number)}
    common["topic_sequence"] = in_topic[topic]
    if record["type"] == "QueuedCallChanged":
        common |= {"start_date": None, "waited_ms": None}
    return {**common, **({"possibly_repeated": False} if record["type"] == "InjectionCompleted" else {}), **record}


def _class(name: str) -> type[msgspec.Struct]:
    return next(cls for cls in records.TOPICS if cls.__name__ == name)


def message(record: Record, offset: int) -> Message:
    """A record as the bridge would write it."""
    cls = _class(record["type"])
    filled = {"voice_session_sid": None, "source": None, **record}
    known = {name: value for name, value in filled.items() if name in cls.__struct_fields__}
    record_of_it: Any = msgspec.convert(known, cls)
    out = Encoder("json", "asm.inject").record(record_of_it)
    return Message(
        out.topic, HOME, offset, out.timestamp or 0, out.key, json.dumps(record).encode(), tuple(out.headers)
    )


def dead_letter() -> Message:
    letter = DeadLetter(
        key=AGENT.encode(),
        value=b"{}",
        code="malformed_event",
        text="no event",
        origin=RecordId.parse(f"asm.inject/{BAD_ENTRY}"),
    )
    out = Encoder("json", "asm.inject").dead_letter(letter)
    return Message(out.topic, HOME, 0, 0, out.key, out.value, tuple(out.headers))


def state(told: list[Record]) -> Message:
    own = {name: told[-1][name] for name in Status.__struct_fields__}
    last = AgentState(
        agent_id=AGENT,
        stream_id="s1",
        sequence=len(told),
        asm_session_sid=SID,
        status=msgspec.convert(own, Status),
        bridge=Books(message_cursor=5),
    )
    return Message("agent-state", HOME, 0, 0, AGENT.encode(), msgspec.json.encode(last), ())


def shown() -> Record:
    """What the simulator showed: the same as is emitted."""
    pictures = [("READY", 1), ("PEERED", 2), ("IDLE", 3)]
    return {
        "agent_id": AGENT,
        "truncated": False,
        "shown": 9,
        "asm_session_sid": SID,
        "ends": {SID: 1},
        "pictures": [{"asm_session_sid": SID, "status_desc": d, "last_status_change": n} for d, n in pictures],
        "messages": [{"message": "Well done", "message_timestamp": 5}],
        "calls": [{"calls": [["agent_queue", "4000000000001000003"]]}, {"calls": []}],
        "alerts": [{"kind": "backoffice_message", "alert_id": "a1"}, {"kind": None, "alert_id": None}],
        "conversations": [],
        "last_status": {"status_desc": "IDLE", "last_status_change": 3, "current_session_id": 0},
    }


def taken(index: int = 0, marker: str = MARKER) -> Record:
    event = {"activated_conversation_event": {"conversation": {"conversation_sid": marker}}}
    return {"index": index, "agent_id": AGENT, "asm_session_sid": SID, "event": event}


def facts(told: list[Record] | None = None, **more: Any) -> Facts:
    """A run in which every promise was kept, except for the arguments."""
    told = story() if told is None else told
    produced = [
        Produced(AGENT, HOME, 0, "i1", AGENT.encode(), VALUE, MARKER),
        Produced(AGENT, HOME, 1, "i2", AGENT.encode(), b"{}"),
    ]
    messages = [*(message(record, offset) for offset, record in enumerate(told)), dead_letter(), state(story())]
    given = {"produced": produced, "agents": {AGENT: shown()}, "taken": [taken()], "whole": True, "messages": messages}
    return Facts(**{**given, **more})


def test_a_run_without_fault_passes() -> None:
    """A run in which every promise was kept has no violation."""
    assert broken_promises(facts()) == []


def _without(*numbers: int) -> list[Record]:
    return [record for number, record in enumerate(story(), 1) if number not in numbers]


def _renumbered(told: Iterable[Record]) -> list[Record]:
    return [{**record, "sequence": number} for number, record in enumerate(told, 1)]


def _with(number: int, **fields: Any) -> list[Record]:
    return [{**record, **fields} if n == number else record for n, record in enumerate(story(), 1)]


def _swapped(first: int, second: int) -> list[Record]:
    told = story()
    told[first - 1], told[second - 1] = told[second - 1], told[first - 1]
    return told


BROKEN_STREAMS: dict[str, Callable[[], list[Record]]] = {
    "sequence is not 1..14: missing [7]": lambda: _without(7),
    "repeated [3]": lambda: [*story(), story()[2]],
    "is there 2 times": lambda: [*story(), story()[2]],
    "stands before a lower one": lambda: _swapped(3, 10),
    "begins with AgentSessionStarted": lambda: _renumbered(_without(1)),
    "goes on after AgentWatchEnded": lambda: _renumbered([*story()[:13], _ended(), *story()[13:]]),
    "told without a session": lambda: _renumbered(_without(2)),
    "previous_status_desc is 'IDLE', expected 'READY'": lambda: _with(10, previous_status_desc="IDLE"),
    "previous_observed_at is": lambda: _with(10, previous_observed_at=AT.format(1)),
    "changed is ['status_desc'], expected": lambda: _with(10, changed=["status_desc"]),
    "changed is [], expected": lambda: _with(3, changed=[]),
    "tells no change": lambda: _with(10, changed=[], status_desc="READY", last_status_change=1),
    "expected None": lambda: _with(15, previous_status_desc="PEERED"),
    "asm_session_sid is '3', expected": lambda: _with(7, asm_session_sid="3"),
    "calls are still in view": lambda: _renumbered(_without(12)),
    "left, and was not in view": lambda: _renumbered(_without(4)),
    "entered, and was in view": lambda: _renumbered([*story()[:4], story()[3], *story()[4:]]),
    "left without a reason": lambda: _with(12, reason=None),
    "the message (5, 'Well done') was told before": lambda: _renumbered([*story()[:7], story()[6], *story()[7:]]),
    "is older than": lambda: _renumbered([*story()[:7], {**story()[6], "message_timestamp": 4}, *story()[7:]]),
    "the alert ('backoffice_message', 'a1') is still in view": lambda: _renumbered(_without(9)),
    "the alert is ('backoffice_message', 'a1'), expected None": lambda: _renumbered(_without(8)),
    "was not ended before": lambda: _renumbered(_without(12, 13)),
    "the loss is ('unreachable', 'x'), expected None": lambda: _renumbered([*story(), _loss("Resumed")]),
    "the observation was lost already": lambda: _renumbered([*story(), *[_loss("Lost")] * 2]),
    "2 ConversationEventDelivered and 1 outcomes": lambda: _renumbered([*story()[:5], story()[4], *story()[5:]]),
    "has 0 outcomes": lambda: _renumbered(_without(6)),
    "has 2 outcomes": lambda: _renumbered([*story(), story()[5]]),
    "an outcome for the entry 0/99": lambda: [*story(), {**story()[5], "sequence": 16, "entry": "0/99"}],
    "its outcome is about i3": lambda: _with(6, injection_id="i3"),
    "which nobody produced": lambda: _with(5, conversation_sid="1"),
    "its outcome says 77": lambda: _with(6, asm_session_sid="77"),
    "statuses: ('1000000000000000001', 'HUNGUP', 2) was published": lambda: _with(10, status_desc="HUNGUP"),
    "status_desc at the end is IDLE, published READY": lambda: _with(15, status_desc="READY"),
    "messages: [(5, 'Well done')] were shown, and not published": lambda: _renumbered(_without(7)),
    "the state's sequence is 15, the stream says 14": lambda: _without(15),
    "the session at the end is": lambda: story()[:13],
    "were in view, and not shown so": lambda: _renumbered([*story()[:4], *_gone_and_back(), *story()[4:]]),
    f"session {SID} was ended 2 times, and ended 1 times": lambda: _renumbered(
        [*story()[:14], *story()[12:14], *story()[14:]]
    ),
}  # fmt: skip


def _gone_and_back() -> list[Record]:
    """Adds an answer without calls between two answers with one."""
    entered = story()[3]
    gone = {**entered, "change": "left", "reason": "gone", "observed_at": AT.format(30)}
    return [gone, {**entered, "observed_at": AT.format(31)}]


def _loss(kind: str) -> Record:
    return {**story()[8], "type": f"AgentObservation{kind}", "reason": "unreachable", "since": "x"}


def _ended() -> Record:
    return {**story()[0], "type": "AgentWatchEnded", "sequence": 14, "topic_sequence": 6}


@pytest.mark.parametrize("evidence", BROKEN_STREAMS)
def test_a_broken_stream_is_caught(evidence: str) -> None:
    """Each way in which a stream's records can contradict each other or the simulator is reported."""
    found = broken_promises(facts(BROKEN_STREAMS[evidence]()))
    assert any(evidence in problem for problem in found), found


TALK = {"asm_session_sid": SID, "conversation_sid": "6"}


def _talk(*changes: tuple[str, list[str], str | None]) -> dict[str, Any]:
    """A run with these changes of a conversation, published after the story: (change, changed, status)."""
    told = story()
    in_topic = Counter(records.TOPICS[_class(record["type"])] for record in told)
    for change, changed, status in changes:
        known = None if status is None else {"conversation_sid": "6", "status": status}
        record = {"type": "ConversationChanged", "change": change, "changed": changed, "conversation": known, **TALK}
        told.append(_numbered(record, len(told), in_topic))
    listed = [{"asm_session_sid": SID, "conversations": {"6": "NEW"}}, {"asm_session_sid": SID, "conversations": {}}]
    agents = _agent(conversations=[*listed, {"asm_session_sid": SID, "conversations": {"6": "NEW"}}])["agents"]
    messages = [*(message(record, offset) for offset, record in enumerate(told)), dead_letter()]
    stated = json.loads(state(told[:15]).value or b"{}") | {"sequence": len(told)}
    stated["bridge"]["conversations"] = {"6": "x"}
    last = state(told[:15])._replace(value=json.dumps(stated).encode())
    return {"messages": [*messages, last], "agents": agents}


_CAME = ("entered", ["conversation_sid", "status"], "NEW")


def test_conversations_that_are_told_as_shown_pass() -> None:
    """Records that describe each conversation as it was shown are not accused."""
    assert broken_promises(facts(**_talk(_CAME))) == []
    assert broken_promises(facts(**_talk(_CAME, ("left", [], "NEW"), _CAME))) == []
    assert broken_promises(facts(**_talk(_CAME, ("left", [], None), _CAME))) == []


BROKEN_TALK: dict[str, Callable[[], dict[str, Any]]] = {
    "conversation 6 entered, and was in view": lambda: _talk(_CAME, _CAME),
    "conversation 6 updated, and was not in view": lambda: _talk(("updated", ["status"], "NEW")),
    "changed is ['status'], expected []": lambda: _talk(_CAME, ("updated", ["status"], "NEW")),
    "tells no change": lambda: _talk(_CAME, ("updated", [], "NEW")),
    "changed is [], expected ['status']": lambda: _talk(_CAME, ("updated", [], "CLOSED")),
    "conversation 6 left as": lambda: _talk(_CAME, ("left", [], "CLOSED"), _CAME),
    "conversations [('6', 'CLOSED')] were published, and never shown": lambda: _talk(
        ("entered", ["conversation_sid", "status"], "CLOSED")
    ),
    "conversations at the end are {'6': 'NEW'}, published {}": lambda: _talk(_CAME, ("left", [], "NEW")),
    "the state's conversations is ['6'], the stream says []": lambda: _talk(_CAME, ("left", [], "NEW")),
}


@pytest.mark.parametrize("evidence", BROKEN_TALK)
def test_a_conversation_told_wrongly_is_caught(evidence: str) -> None:
    """Each way in which the records of conversations can contradict each other, or what was shown, is reported."""
    found = broken_promises(facts(**BROKEN_TALK[evidence]()))
    assert any(evidence in problem for problem in found), found


def _altered(number: int, **fields: Any) -> dict[str, Any]:
    messages = facts().messages
    messages[number - 1] = messages[number - 1]._replace(**fields)
    return {"messages": messages}


def _agent(**fields: Any) -> dict[str, Any]:
    return {"agents": {AGENT: {**shown(), **fields}}}


def _last(**fields: Any) -> dict[str, Any]:
    return _agent(last_status={**shown()["last_status"], **fields})


def _stated(**fields: Any) -> dict[str, Any]:
    *messages, last = facts().messages
    value = None if not fields else json.dumps({**json.loads(last.value or b""), **fields}).encode()
    return {"messages": [*messages, last._replace(value=value)]}


def _headers(number: int, name: str, value: bytes) -> dict[str, Any]:
    headers = tuple((key, value if key == name else given) for key, given in facts().messages[number - 1].headers)
    return _altered(number, headers=headers)


def _one_more(agent_id: str | None) -> dict[str, Any]:
    more = Produced(agent_id, 0, 7, "0/7", agent_id.encode() if agent_id else None, b"x")
    return {"produced": [*facts().produced, more]}


def _second_delivery() -> dict[str, Any]:
    """A second event, also delivered, that reached the service before the first."""
    times = {"received_at": AT.format(0), "completed_at": AT.format(5)}
    ids = {"injection_id": "i9", "conversation_sid": "5"}
    told = [
        *story(),
        {**story()[4], **ids, "sequence": 16},
        {**story()[5], **ids, **times, "sequence": 17, "entry": f"{HOME}/2"},
    ]
    produced = [*facts().produced, Produced(AGENT, HOME, 2, "i9", AGENT.encode(), b"", "5")]
    return {"told": told, "produced": produced, "taken": [taken(0, "5"), taken(1)]}


BROKEN_FACTS: dict[str, Callable[[], dict[str, Any]]] = {
    "topic is 'agent-messages', expected 'agent-status'": lambda: _altered(1, topic="agent-messages"),
    "key is b'agent-8'": lambda: _altered(1, key=b"agent-8"),
    f"partition is {(HOME + 1) % 8}, expected {HOME}": lambda: _altered(1, partition=(HOME + 1) % 8),
    "its Kafka timestamp is 5": lambda: _altered(1, timestamp=5),
    "header ce_id is 's1:7'": lambda: _headers(1, "ce_id", b"s1:7"),
    "header ce_type is 'x'": lambda: _headers(1, "ce_type", b"x"),
    "header ce_time is 'x'": lambda: _headers(1, "ce_time", b"x"),
    "header ce_source is 'x'": lambda: _headers(1, "ce_source", b"x"),
    "header content-type is 'x'": lambda: _headers(1, "content-type", b"x"),
    "the simulator forgot": lambda: _agent(truncated=True),
    "was published, and not shown there": lambda: _agent(pictures=shown()["pictures"][::-1]),
    "were shown, and not published": lambda: _agent(pictures=[*shown()["pictures"][:2], *shown()["pictures"][1:], {
        "asm_session_sid": SID, "status_desc": "X", "last_status_change": 9}]),
    "calls at the end are [('hqm', '1')], published []": lambda: _agent(calls=[{"calls": [["hqm", "1"]]}]),
    "the alert at the end is": lambda: _agent(alerts=[{"kind": "backoffice_message", "alert_id": "a2"}]),
    "the last message shown": lambda: _agent(messages=[*shown()["messages"], {"message": "x", "message_timestamp": 6}]),
    "disabled at the end is True, published False": lambda: _last(disabled=True),
    "transfer_members at the end": lambda: _last(transfer_members=[{}]),
    "was shown, and there is no stream": lambda: {"agents": {**_agent()["agents"], "agent-9": shown()}},
    "the state's stream_id is None": _stated,
    "the state's sequence is 14": lambda: _stated(sequence=14),
    "the state's status is": lambda: _stated(status=None),
    "the state's asm_session_sid": lambda: _stated(asm_session_sid="4"),
    "the state's message_cursor is 4": lambda: _stated(bridge={"message_cursor": 4}),
    "the state's calls is": lambda: _stated(calls=[{"list": "hqm", "call_sid": "1"}]),
    "never reached the service": lambda: {"taken": []},
    "reached the service 2 times": lambda: {"taken": [taken(), taken(1)]},
    "that nobody produced": lambda: {"taken": [taken(), taken(1, "6")]},
    "first arrived in the order [1, 0]": _second_delivery,
    "has 0 dead letters, expected 1": lambda: {"messages": [m for m in facts().messages if m.topic != "dead-letters"]},
    "has 2 dead letters, expected 1": lambda: {"messages": [*facts().messages, dead_letter()]},
    "a dead letter of": lambda: {"produced": facts().produced[:1]},
    "has another key or value": lambda: _altered(16, value=None),
    "does not say why": lambda: _headers(16, "asm_error", b""),
    "entry 0/7 (0/7 for None): has 0 dead letters": lambda: _one_more(None),
    "entry 0/7 (0/7 for agent-7): has 0 outcomes": lambda: _one_more(AGENT),
}  # fmt: skip


@pytest.mark.parametrize("evidence", BROKEN_FACTS)
def test_a_broken_promise_is_caught(evidence: str) -> None:
    """Each way in which the records can disagree with simulator, inbox, state or their own headers is reported."""
    given = BROKEN_FACTS[evidence]()
    found = broken_promises(facts(**given))
    assert any(evidence in problem for problem in found), found


def _rejected(http_status: int) -> list[Record]:
    """Rejects the event without the dead letter that is due."""
    told = _with(6, outcome="rejected", http_status=http_status)
    return _renumbered(record for record in told if record["type"] != "ConversationEventDelivered")


def _refused(status: int, alone: bool = True) -> Record:
    return {"agent_id": AGENT, "event": EVENT, "status": status, "alone": alone}


def test_only_the_service_rejects_an_event() -> None:
    """An event may be rejected only if the service refused it alone, with that status, or a firewall blocks it."""
    evidence = "is rejected with 404, and the service refused it alone with"

    def problems(**given: Any) -> list[str]:
        return [one for one in broken_promises(facts(_rejected(404), taken=[], **given)) if evidence in one]

    assert len(problems()) == 1
    assert len(problems(refused=[_refused(404, alone=False)])) == 1
    assert len(problems(refused=[_refused(400)])) == 1
    assert problems(refused=[_refused(404)]) == []
    conversation = {"conversation_sid": MARKER, "reference_id": "marked"}
    value = json.dumps({"activated_conversation_event": {"conversation": conversation}}).encode()
    disliked = [Produced(AGENT, HOME, 0, "i1", AGENT.encode(), value, MARKER), facts().produced[1]]
    assert problems(produced=disliked) == []


def test_an_event_that_is_sent_again_says_so() -> None:
    """An event may reach the service twice only if its outcome says possibly_repeated."""
    assert broken_promises(facts(_with(6, possibly_repeated=True), taken=[taken(), taken(1)])) == []


def test_a_killed_process_may_miss_what_came_and_went() -> None:
    """A status that was shown but not committed when the process died may be missing; others may not."""
    more = {"asm_session_sid": SID, "status_desc": "X", "last_status_change": 9}
    pictures = [*shown()["pictures"][:1], more, *shown()["pictures"][1:]]
    assert broken_promises(facts(whole=False, **_agent(pictures=pictures))) == []
    assert broken_promises(facts(whole=True, **_agent(pictures=pictures))) != []


def test_an_ended_watch_leaves_no_state() -> None:
    """The state of an agent that is no longer watched must have no stream."""
    found = broken_promises(facts([*story()[:13], _ended()], agents={}))
    assert found == [f"{AGENT}: the state has stream s1, which has ended or never was"]


def test_what_other_programs_wrote_among_the_states_is_not_judged() -> None:
    """A record under a key that another program used is not an agent's state, whatever its key and value."""
    more = [Message("agent-state", HOME, 1, 0, b"\xff", b"?", ())]
    assert broken_promises(facts(messages=[*facts().messages, *more], foreign=frozenset({b"\xff"}))) == []


def test_a_record_with_a_key_that_is_too_long_has_a_dead_letter_alone() -> None:
    """A key that is too long for an agent_id: a dead letter without a key is due, and no outcome."""
    key = b"x" * 1025
    letter = dead_letter()
    origin = ("asm_origin", f"asm.inject/{HOME}/2".encode())
    headers = (origin, *(header for header in letter.headers if header[0] != "asm_origin"))
    produced = [*facts().produced, Produced("x", HOME, 2, f"{HOME}/2", key, b"{}")]
    kept = facts(produced=produced, messages=[*facts().messages, letter._replace(key=None, headers=headers, offset=1)])
    assert broken_promises(kept) == []
    assert any("has 0 dead letters, expected 1" in text for text in broken_promises(facts(produced=produced)))


def _in_the_inbox(*copies: tuple[int, int, str], key: bytes = AGENT.encode()) -> list[str]:
    """The violations if two of the agent's events were produced into a foreign partition and these are the copies:
    (partition, offset, origin).
    """
    foreign = (HOME + 1) % 8
    produced = [Produced(AGENT, foreign, offset, f"{foreign}/{offset}", AGENT.encode(), VALUE) for offset in (0, 1)]
    read = [Message("inject", p.partition, p.offset, 0, p.key, p.value, ()) for p in produced]
    read += [
        Message("inject", partition, offset, 0, key, VALUE, (("asm_origin", f"asm.inject/{origin}".encode()),))
        for partition, offset, origin in copies
    ]
    return list(injections.moved_once(Facts(read, produced=produced)))


def test_what_becomes_of_a_foreign_record_is_judged() -> None:
    """A record in a wrong partition must be moved once, to its agent's, unchanged and in order, and the inbox must hold
    nothing else.
    """
    first, second = ((HOME + 1) % 8, 0), ((HOME + 1) % 8, 1)
    one, two = (HOME, 5, f"{first[0]}/0"), (HOME, 6, f"{second[0]}/1")
    assert _in_the_inbox(one, two) == []
    assert "was moved 0 times, expected 1" in _in_the_inbox(one)[0]
    assert "was moved 2 times, expected 1" in _in_the_inbox(one, two, (HOME, 7, one[2]))[0]
    assert "its home is" in _in_the_inbox(one, ((HOME + 2) % 8, 6, two[2]))[0]
    assert "its home is" in _in_the_inbox(one, two, key=b"agent-8")[0]
    assert "in the order [6, 5]" in _in_the_inbox((HOME, 6, one[2]), (HOME, 5, two[2]))[0]
    assert "which nobody produced" in _in_the_inbox(one, two, (HOME, 7, "0/99"))[0]
