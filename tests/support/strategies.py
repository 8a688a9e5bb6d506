"""What the vendor may answer, and an agent without clock and network to put it to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from asm_bridge_schemas import asm
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentState, Published
from bridge.agents.agent import Agent, Instant, PollRequest
from bridge.agents.injection import Injection, read_injection
from bridge.settings.model import InjectionSettings
from bridge.agents.step import DeadLetter, Step
from bridge.asm.errors import AsmError
from bridge.backoff import Backoff
from tests.support.pictures import Picture

EPOCH = 1_790_000_000.0
TTL = 300.0
PAUSE_EVENT = b'{"pause_event": {}}'

sids = st.sampled_from(["1", "2", "9007199254740993", str(2**63 - 1)])
texts = st.sampled_from(["", "a", "Grüße", "\x00", "日本", "x" * 50])
TIMES = {
    None: (None, None),
    "1s": (None, "1s"),
    "": (None, ""),
    "2026-11-23T09:30:00Z": ("2026-11-23T09:30:00Z", None),
    "2026-11-23T10:30:00.120+01:00": ("2026-11-23T09:30:00.120Z", None),
}
"""A time as sent: the time and the raw text that are published."""
times = st.sampled_from(list(TIMES))

sessions_of_agents = st.builds(asm.AgentSession, agent_sid=sids, asm_session_sid=sids, user_id=texts)
callers = st.builds(asm.CallerSid, caller_sid=sids, type=st.sampled_from(["INBOUND", "OUTBOUND", "77"]), org_id=texts)
members = st.builds(
    asm.TransferMember,
    identifier=texts,
    is_muted=st.booleans(),
    member_type=st.sampled_from(["TransferMemberType_AGENT", "TransferMemberType_CALLER", "9"]),
    agent_session=st.none() | sessions_of_agents,
    caller_sid=st.none() | callers,
    outbound_id=st.none() | texts,
)
calls = st.builds(
    asm.QueuedCallData,
    call_sid=sids,
    phone_number=texts,
    call_type=st.sampled_from(["INBOUND", "MAC", "12"]),
    start_date=times,
    hold_date=times,
    skills=st.lists(texts, max_size=2),
    agent_specific=st.booleans(),
)
call_lists = st.lists(calls, max_size=3, unique_by=lambda call: call.call_sid)
queues = st.builds(asm.QueuedCalls, agent_queue_calls=call_lists, on_hold_calls=call_lists, hqm_calls=call_lists)
_alert_ids = st.sampled_from(["", "a1", "a2"])
alerts = st.one_of(
    st.just(asm.AgentAlert()),
    st.builds(
        asm.AgentAlert,
        backoffice_message=st.builds(asm.AgentBackofficeMessageAlert, id=_alert_ids, message=texts, timestamp=times),
    ),
    st.builds(
        asm.AgentAlert,
        directed_call_ringing=st.builds(
            asm.AgentDirectedCallRingingAlert, id=_alert_ids, caller_sid=st.none() | callers, expire_duration=st.just(5)
        ),
    ),
    st.builds(
        asm.AgentAlert,
        directed_call_hangup=st.builds(
            asm.AgentDirectedCallHangupAlert, id=_alert_ids, target_agent_session=st.none() | sessions_of_agents
        ),
    ),
)
answers = st.builds(
    asm.VoiceStatus,
    status=st.sampled_from([0, 7, 2**63 - 1]),
    status_desc=st.sampled_from(["UNAVALIABLE", "READY", "PEERED", "99"]),
    paused=st.booleans(),
    queue=texts,
    current_session_id=sids | st.just("0"),
    keep_alive_succeeded=st.booleans(),
    message=texts,
    message_timestamp=st.integers(0, 3),
    queued_calls=st.none() | queues,
    transfer_members=st.lists(members, max_size=2),
    alert=st.none() | alerts,
)


@dataclass
class Message:
    """A record of the inbox."""

    offset: int
    value: bytes | None = PAUSE_EVENT
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = b"agent-7"
    timestamp: int = int(EPOCH * 1000)
    partition: int = 3
    topic: str = "asm.inject"


def entry(
    offset: int, now: float = EPOCH, *, possibly_processed: bool = False, ttl: float = TTL, **headers: str
) -> Injection:
    """An entry that holds an event, arrived ``now``; ``headers`` as ``ce_id="a"``."""
    named = [(name, value.encode()) for name, value in headers.items()]
    return read_injection(Message(offset, headers=named, timestamp=round(now * 1000)), ttl, possibly_processed)


def status_body(desc: str = "READY", **fields: Any) -> bytes:
    return json.dumps({"voiceStatus": {"statusDesc": desc, **fields}}).encode()


def session_body(sid: str | None, **fields: Any) -> bytes:
    return json.dumps({"asmSessionSid": sid, **fields} if sid else {}).encode()


@dataclass
class Desk:
    """An agent, a clock that stands until it is moved, and what was told so far."""

    limits: InjectionSettings = field(default_factory=InjectionSettings)
    state: AgentState = field(default_factory=lambda: AgentState(agent_id="agent-7"))
    now: float = 0.0
    told: list[Published] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    picture: Picture = field(default_factory=Picture)

    def __post_init__(self) -> None:
        self.agent = Agent(self.state, self.limits, Backoff(0.0, 0.0), self.at)

    @property
    def at(self) -> Instant:
        return Instant(self.now, EPOCH + self.now)

    def absorb(self, step: Step | None) -> list[Published]:
        if step is None:
            return []
        assert step.state is self.agent.state
        for record in step.records:
            self.picture.apply(record)
        self.told += step.records
        self.letters += step.dead_letters
        self.finished += step.finished
        return step.records

    def watch(self, interval: float = 1.0, **fields: Any) -> list[Published]:
        return self.absorb(self.agent.watch(SessionEntry(**fields), interval, self.at))

    def unwatch(self) -> list[Published]:
        return self.absorb(self.agent.unwatch(self.at))

    def take(self, *entries: Injection) -> list[Published]:
        return [record for one in entries for record in self.absorb(self.agent.take(one, self.at))]

    def inject(self, *offsets: int, **headers: str) -> list[Published]:
        return self.take(*(entry(offset, EPOCH + self.now, **headers) for offset in offsets))

    def ask(self, token: str = "t") -> PollRequest:
        assert self.agent.may_poll(token, self.at)
        assert self.agent.in_flight is None, "a second request while one is under way"
        self.agent.in_flight = self.agent.ask(token, self.at)
        return self.agent.in_flight

    def answer(self, ask: PollRequest, body: bytes) -> list[Published]:
        self.agent.in_flight = None
        return self.absorb(self.agent.answered(ask, 200, body, self.at))

    def fail(self, ask: PollRequest, error: AsmError) -> list[Published]:
        self.agent.in_flight = None
        return self.absorb(self.agent.failed(ask, error, self.at))

    def pass_by(self, seconds: float) -> list[Published]:
        self.now += seconds
        return self.absorb(self.agent.sweep(self.at))

    def poll(self, body: bytes | None = None) -> PollRequest:
        """A request and its answer: that the session is "7", and otherwise the given one."""
        ask = self.ask()
        self.answer(ask, session_body("7") if ask.call == "getcurrentsession" else body or status_body())
        return ask

    def in_session(self, **fields: Any) -> "Desk":
        """Watched, with session "7" and its first status told."""
        self.watch(**fields)
        self.poll()
        if self.agent.state.asm_session_sid is None:
            self.poll()
        assert self.agent.state.asm_session_sid is not None
        return self


def sent(ask: PollRequest) -> list[int]:
    """The offsets of the entries in a request."""
    return [one.offset for one in ask.injections]
