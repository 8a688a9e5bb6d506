"""One agent without clock and network: tests decide which answers it gets, and when.

What it publishes is judged twice: by a reader of its records, and by folding them into its published state.
"""

from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.picture import fold
from asm_bridge_schemas.records import AgentState, Books, Published
from bridge.agents.agent import Agent
from bridge.agents.injection import Injection
from bridge.agents.request import PollRequest
from bridge.agents.step import DeadLetter, Step
from bridge.asm.answer import UNCHANGED, Answer, read_response
from bridge.asm.client import CALLS
from bridge.asm.errors import AsmError
from bridge.asm.http.response import Response
from bridge.backoff import Backoff
from bridge.clock import Instant
from bridge.settings.model import InjectionSettings
from tests.support.pictures import Picture
from tests.support.strategies import EPOCH, injection, session_body, status_body


def read_answer(request: PollRequest, body: bytes, status: int = 200) -> Answer | AsmError:
    """Decodes an answer to the request, as the client does."""
    if body == request.known:
        return UNCHANGED
    return read_response(CALLS[request.call], Response(status, body))


def public(state: AgentState) -> AgentState:
    """A state without its private accounting, and with its calls in an order that is independent of events."""
    return replace(state, bridge=Books(), calls=sorted(state.calls, key=lambda call: (call.list, call.call_sid)))


@dataclass
class AgentHarness:
    """An agent, a clock that moves only on request, and the records emitted so far."""

    settings: InjectionSettings = field(default_factory=InjectionSettings)
    state: AgentState = field(default_factory=lambda: AgentState(agent_id="agent-7"))
    now: float = 0.0
    records: list[Published] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    picture: Picture = field(default_factory=Picture)

    def __post_init__(self) -> None:
        self.folded = replace(self.state, bridge=Books()) if self.state.stream_id else None
        self.agent = Agent(self.state, self.settings, Backoff(0.0, 0.0), self.at)

    @property
    def at(self) -> Instant:
        return Instant(self.now, EPOCH + self.now)

    def absorb(self, step: Step | None) -> list[Published]:
        if step is None:
            return []
        assert step.state is self.agent.state
        for record in step.records:
            self.picture.apply(record)
            self.folded = fold(self.folded, record)
        assert public(self.folded or AgentState(agent_id=step.state.agent_id)) == public(step.state)
        self.records += step.records
        self.letters += step.dead_letters
        self.finished += step.finished
        return step.records

    def watch(self, interval: float = 1.0, **fields: Any) -> list[Published]:
        return self.absorb(self.agent.watch(SessionEntry(**fields), interval, self.at))

    def unwatch(self) -> list[Published]:
        return self.absorb(self.agent.unwatch(self.at))

    def take(self, *injections: Injection) -> list[Published]:
        return [record for one in injections for record in self.absorb(self.agent.take(one, self.at))]

    def inject(self, *offsets: int, **headers: str) -> list[Published]:
        return self.take(*(injection(offset, EPOCH + self.now, **headers) for offset in offsets))

    def next_request(self, token: str = "t") -> PollRequest:
        assert self.agent.health.may_poll(token, self.at)
        assert self.agent.in_flight is None, "a second request while one is in flight"
        self.agent.in_flight = self.agent.next_request(token, self.at)
        return self.agent.in_flight

    def answer(self, request: PollRequest, body: bytes, status: int = 200) -> list[Published]:
        answer = read_answer(request, body, status)
        if isinstance(answer, AsmError):
            return self.fail(request, answer)
        self.agent.in_flight = None
        return self.absorb(self.agent.answered(request, answer, self.at))

    def fail(self, request: PollRequest, error: AsmError) -> list[Published]:
        self.agent.in_flight = None
        return self.absorb(self.agent.failed(request, error, self.at))

    def pass_by(self, seconds: float) -> list[Published]:
        self.now += seconds
        return self.absorb(self.agent.sweep(self.at))

    def poll(self, body: bytes | None = None) -> PollRequest:
        """Makes a request and answers it: with session "7" for getcurrentsession, otherwise with the given body."""
        request = self.next_request()
        answer = session_body("7") if request.call == "getcurrentsession" else body or status_body()
        self.answer(request, answer)
        return request

    def in_session(self, **fields: Any) -> "AgentHarness":
        """Watches the agent, with session "7" and its first status emitted."""
        self.watch(**fields)
        self.poll()
        if self.agent.state.asm_session_sid is None:
            self.poll()
        assert self.agent.state.asm_session_sid is not None
        return self


def sent(request: PollRequest) -> list[int]:
    """The offsets of the injections in a request."""
    return [one.offset for one in request.injections]
