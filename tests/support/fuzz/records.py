"""What Kafka and the service bring: answers, records of the inbox, the registry and the state, dead letters."""

import contextlib
import json
from typing import Any

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.records import AgentState
from bridge.agents.agent import Agent
from bridge.agents.step import DeadLetter, Step
from bridge.asm.answer import MAX_RETRY_AFTER, Answer, read_response
from bridge.asm.client import CALLS
from bridge.asm.errors import AsmError
from bridge.asm.http.response import Response
from bridge.backoff import Backoff
from bridge.clock import Instant
from bridge.kafka.encoding import Encoder, read_dead_letter, read_state
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.resend import NotResendable, resend
from bridge.kafka.show import as_json, as_line
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.registry.registry import InvalidEntry, Registry
from bridge.settings.model import InjectionSettings
from tests.support.agent_harness import AgentHarness
from tests.support.fuzz.data import Data
from tests.support.remembering_journal import RememberingJournal
from tests.support.samples import PAGE_SAMPLE, sample
from tests.support.strategies import EPOCH, Message, list_body, session_body, status_body

TOKEN = "s3cr3t-t0ken"
LARGEST = 1024 * 1024
"""Bytes of a message that a topic with Kafka's defaults takes: what these small inputs lead to must fit."""
_ENCODER = Encoder("json", "asm.inject")
_ENTRY = b'{"asm_session_sid": "7", "token": "env:T"}'
_EVENT = b'{"pause_event": {}}'


def answers(data: bytes) -> None:
    """An answer is read or is an ``AsmError`` without the token, and the agent publishes what came of it, and goes on
    with the next good answer.
    """
    given = Data(data)
    call, status, known = given.choice([*CALLS]), given.choice((200, 200, 200, *range(200, 600, 7))), given.byte() % 2
    retry_after, date, body = given.part().decode("latin-1"), given.part().decode("latin-1"), given.rest()
    response = Response(status, body, retry_after or None, date or None)
    read = read_response(CALLS[call], response, token=TOKEN)
    if isinstance(read, AsmError):
        assert TOKEN not in str(read)
        assert len(str(read)) < 1000
        assert 0 <= (read.retry_after or 0) <= MAX_RETRY_AFTER
    else:
        assert isinstance(read, Answer)
    _follow(AgentHarness().in_session(get_conversations=bool(known)), body, status)


def _follow(agent: AgentHarness, body: bytes, status: int) -> None:
    """The agent gets the answer to whatever it asks, and then good ones, which it publishes."""
    for _ in range(3):
        if agent.agent.health.may_poll("t", agent.at):
            agent.answer(agent.next_request(), body, status)
    good = {
        "getstatus": status_body(queue="after"),
        "getcurrentsession": session_body("7"),
        "listconversations": list_body(),
    }
    for _ in range(8):
        agent.pass_by(120)
        request = agent.next_request()
        agent.answer(request, good[request.call])
    assert agent.agent.state.status is not None
    assert agent.agent.state.status.queue == "after"
    for record in agent.records:
        _fits(_ENCODER.record(record))
    _fits(_ENCODER.state("agent-7", agent.agent.state, EPOCH))


def _fits(message: Outgoing) -> None:
    assert message.value is not None
    size = len(message.key or b"") + len(message.value) + sum(len(n) + len(v or b"") for n, v in message.headers)
    assert size <= LARGEST, (message.topic, size)


class _Journal(RememberingJournal):
    """Keeps what a partition's agents append, and demands that it can be written."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[int] = []

    def append(self, step: Step) -> None:
        super().append(step)
        self.finished += step.finished
        for record in step.records:
            _fits(_ENCODER.record(record))
        for letter in step.dead_letters:
            self.dead_letter(letter)
        _fits(_ENCODER.state(step.state.agent_id, step.state, EPOCH))

    def dead_letter(self, letter: DeadLetter) -> None:
        message = _ENCODER.dead_letter(letter)
        assert message.key is not None or message.value is not None
        size = len(message.value or b"") + sum(len(n.encode()) + len(v or b"") for n, v in message.headers)
        assert size <= LARGEST

    def add(self, message: Outgoing) -> None:
        raise AssertionError("there is one partition: nothing is moved")

    def advance(self, **marks: Any) -> None:
        self.metadata = msgspec.structs.replace(self.metadata, **marks)


class _Clock:
    @staticmethod
    def now() -> Instant:
        return Instant(0.0, EPOCH)


class _Partition:
    """The agents of the only partition, of which ``good`` is registered."""

    def __init__(self) -> None:
        self.journal = _Journal()
        self.agents: PartitionAgents
        self.registry = Registry(self._changed, self._refused)
        policy = Policy(1.0, InjectionSettings(), Backoff(), _Clock())  # type: ignore[arg-type]
        self.agents = PartitionAgents(self.journal, 1, self.registry, _ignore, policy)  # type: ignore[arg-type]
        self.agents.begin(0)
        self.registry.read(Message(0, key=b"good", value=_ENTRY, topic="asm.sessions", partition=0))

    def _changed(self, agent_id: str) -> None:
        self.agents.sync(agent_id)

    def _refused(self, entry: InvalidEntry) -> None:
        self.agents.dead_letter(entry)

    def waiting(self, agent_id: str) -> list[int]:
        return [
            one.offset for agent in self.agents if agent.state.agent_id == agent_id for one in agent.pending.injections
        ]


def _ignore(agent: Agent, agents: PartitionAgents) -> None:
    """The poller's part: nothing is polled."""


def _message(given: Data, offset: int, topic: str) -> Message:
    """A record of a topic; its timestamp is any that Kafka allows."""
    has, timestamp = given.byte(), int.from_bytes(bytes(given.byte() for _ in range(6)), "big", signed=True)
    names = [given.part().decode(errors="backslashreplace") for _ in range(has >> 4 & 3)]
    headers = [(name, given.part()) for name in names]
    key, value = given.part(), given.rest()
    return Message(
        offset,
        value if has & 1 else None,
        headers,
        key if has & 2 else None,
        timestamp if has & 4 else int(EPOCH * 1000),
        0,
        topic,
    )


def inbox(data: bytes) -> None:
    """Any record of the inbox waits or is finished, once; what it leads to can be written; the good records before and
    behind it are kept.
    """
    partition = _Partition()
    read = [_message(Data(data), 1, "asm.inject")]
    for offset in (0, 2):
        read.insert(offset, Message(offset, _EVENT, key=b"good", partition=0))
    partition.agents.deliver(read)
    partition.agents.sweep()
    assert {0, 2} <= {*partition.waiting("good")}
    waiting = sum(len(agent.pending.injections) for agent in partition.agents)
    assert waiting in (2, 3)
    assert partition.journal.finished.count(1) <= 1
    assert partition.journal.offsets.committable == 0
    read_dead_letter(read[1])


def registry(data: bytes) -> None:
    """Any record of the registry is applied or refused with a dead letter that can be written; the agents before and
    behind it are watched.
    """
    partition = _Partition()
    message = _message(Data(data), 1, "asm.sessions")
    partition.registry.read(message)
    partition.registry.read(Message(2, key=b"behind", value=_ENTRY, topic="asm.sessions", partition=0))
    names = {agent.state.agent_id for agent in partition.agents if agent.entry is not None}
    assert "behind" in names
    assert "good" in names or message.key == b"good"
    assert len(partition.registry) == len(names)
    for name in names:
        partition.registry.unpollable(name)


def states(data: bytes) -> None:
    """A record of ``asm.agent-state`` is read or refused with ``DecodeError``; an agent that goes on from any state
    that is read publishes what can be written.
    """
    given = Data(data)
    headers: list[tuple[str, bytes | None]] = [("content-type", given.part() or None)] if given.byte() % 2 else []
    value = given.rest()
    try:
        state = read_state(b"agent-7", value, headers)
    except msgspec.DecodeError:
        return
    agent = Agent(state, InjectionSettings(), Backoff(0.0, 0.0), Instant(0.0, EPOCH))
    steps = [agent.watch(SessionEntry(), 1.0, Instant(0.0, EPOCH))]
    for number in range(4):
        at = Instant(number * 120.0, EPOCH + number * 120)
        request = agent.next_request("t", at)
        body = session_body("7") if request.call == "getcurrentsession" else status_body(queue="after")
        read = read_response(CALLS[request.call], Response(200, body))
        assert isinstance(read, Answer)
        steps.append(agent.answered(request, read, at))
    steps.append(agent.unwatch(Instant(999.0, EPOCH + 999)))
    for step in filter(None, steps):
        for record in step.records:
            _fits(_ENCODER.record(record))
        _fits(_ENCODER.state("agent-7", step.state, EPOCH))


def shown(data: bytes) -> None:
    """Any record of any topic is shown as a line for a terminal and as JSON, and decoded for a consumer; a dead letter
    is sent again, or it is said why not.
    """
    message = _message(Data(data), 1, "asm.agent-status")
    assert as_line(message, "asm.").isprintable()
    assert json.loads(as_json(message))["offset"] == 1
    decode(message.value, message.headers)
    with contextlib.suppress(NotResendable):
        again = resend(read_dead_letter(message), EPOCH)
        assert again.injection_id


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_CALL = {"callSid": "9007199254740993", "callType": "INBOUND", "startDate": "2026-11-23T09:30:00Z", "skills": ["a"]}
_STATUS = {
    "statusDesc": "PEERED",
    "status": "7",
    "queue": "q",
    "currentSessionId": "7",
    "message": "hello",
    "messageTimestamp": "1626791817289",
    "queuedCalls": {"agentQueueCalls": [_CALL], "onHoldCalls": [_CALL], "hqmCalls": []},
    "lastStatusChange": "1s",
    "transferMembers": [
        {"identifier": "a", "memberType": "TransferMemberType_AGENT", "agentSession": {"asmSessionSid": "8"}}
    ],
    "alert": {"backofficeMessage": {"id": "a1", "message": "m", "timestamp": "2026-11-23T09:30:00Z"}},
}
ANSWER_SEEDS = [
    b"\x00\x00\x00\xfe\xfe" + _json({"voiceStatus": _STATUS}),
    b"\x00\x00\x01\xfe\xfe"
    + _json({"voice_status": {"status_desc": "READY", "queued_calls": {"agent_queue_calls": [_CALL]}}}),
    b"\x01\x00\x00\xfe\xfe" + session_body("9", voiceSessionSid="5", agentSid="3"),
    b"\x02\x00\x01\xfe\xfe"
    + list_body({"conversationSid": "1", "skills": {"skills": {"a": True}}, "dateCreated": "1s"}, then="x"),
    b"\x00\x20\x0030\xfeMon, 23 Nov 2026 09:30:00 GMT\xfe" + _json({"code": 8, "message": "wait", "details": []}),
    b"\x00\x1f\x00Mon, 23 Nov 2026 09:40:00 GMT\xfe\xfe<html><script>x</script>Bearer s3cr3t-t0ken</html>",
    b"\x00\x1d\x00\xfe\xfe" + _json({"code": 16, "message": f"bad {TOKEN}", "details": [{"@type": "t"}]}),
]
_MESSAGE = b"\x00" * 6
INBOX_SEEDS = [
    b"\x03" + _MESSAGE + b"agent-7\xfe" + PAGE_SAMPLE,
    b"\x03" + _MESSAGE + b"good\xfe" + _EVENT,
    b"\x13" + _MESSAGE + b"ce_id\xfeid-1\xfegood\xfe" + _EVENT,
    b"\x23" + _MESSAGE + b"expires_at\xfeasm_origin\xfe2026-11-23T09:30:00Z\xfeasm.inject/3/17\xfegood\xfe" + _EVENT,
    b"\x33"
    + _MESSAGE
    + b"asm_origin\xfeasm_received_at\xfetraceparent\xfeasm.inject/0/7\xfe2026-11-23T09:30:00Z\xfe00-"
    + b"a" * 32
    + b"-"
    + b"b" * 16
    + b"-01\xfegood\xfe"
    + _EVENT,
    b"\x13"
    + _MESSAGE
    + b"content-type\xfeapplication/cloudevents+json\xfegood\xfe"
    + _json(
        {
            "specversion": "1.0",
            "id": "i",
            "source": "/s",
            "type": "t",
            "data": {"pause_event": {}},
            "data_base64": "e30=",
        }
    ),
    b"\x13"
    + _MESSAGE
    + b"content-type\xfeapplication/msgpack\xfegood\xfe"
    + msgspec.msgpack.encode({"pause_event": {}}),
    b"\x01" + _MESSAGE + b"\xfe" + _EVENT,
    b"\x07\x7f\xff\xff\xff\xff\xffgood\xfe" + _EVENT,
]
_FULL_ENTRY = SessionEntry(
    token="file:a#b",
    interval=0.5,
    skills=["x"],
    labels={"site": "m"},
    agent_pbx_extensions=["1"],
    get_conversations=True,
)
REGISTRY_SEEDS = [
    b"\x03" + _MESSAGE + b"agent-7\xfe" + msgspec.json.encode(_FULL_ENTRY),
    b"\x03" + _MESSAGE + b"good\xfe" + _json({"asm_session_sid": 7, "token": "literal"}),
    b"\x02" + _MESSAGE + b"good\xfe",
    b"\x03" + _MESSAGE + b"\xff\xfe{}",
    b"\x13" + _MESSAGE + b"ce_id\xfex\xfeagent-9\xfe{}",
]


def _seed_state(**fields: Any) -> bytes:
    agent = AgentHarness().in_session(**fields)
    agent.poll(_json({"voiceStatus": _STATUS}))
    return b"\x00" + msgspec.json.encode(agent.agent.state)


_PACK, _LETTER = b"content-type\xfeapplication/msgpack", b"asm_error_code\xfeasm_error\xfeasm_origin"
_ODD = [
    {"type": "AgentStatusChanged", "changed": 5},
    {"type": {"a": 1}},
    {"type": "AgentState", "status": "x", "calls": 7},
    {"type": "AgentProfileChanged", "labels": [1], "skills": 3},
]
SHOWN_SEEDS = [
    *INBOX_SEEDS,
    *(b"\x03" + _MESSAGE + b"agent-7\xfe" + msgspec.json.encode(sample(kind)) for kind in records.TOPICS),
    *(b"\x03" + _MESSAGE + b"agent-7\xfe" + _json(value) for value in _ODD),
    b"\x13" + _MESSAGE + _PACK + b"\xfegood\xfe" + msgspec.msgpack.encode({"type": "AgentState"}),
    b"\x33" + _MESSAGE + _LETTER + b"\xferejected\xfetext\xfeasm.inject/3/17\xfegood\xfe" + _EVENT,
]
STATE_SEEDS = [
    _seed_state(),
    _seed_state(get_conversations=True, labels={"a": "b"}),
    b"\x01application/msgpack\xfe" + msgspec.msgpack.encode(AgentState(agent_id="agent-7", stream_id="s", sequence=2)),
    b"\x00"
    + _json(
        {"agent_id": "agent-7", "version": 1, "stream_id": "s", "sequence": 9, "inbox_offset": 4, "message_cursor": 3}
    ),
]
