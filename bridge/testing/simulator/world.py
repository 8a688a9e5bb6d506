"""The simulated floor: agents with their tokens, the waiting calls, and the time that passes for them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from bridge.testing.simulator import agents, calls, conversations
from bridge.testing.simulator.answers import Answer
from bridge.testing.simulator.conversations import Conversations
from bridge.testing.simulator.faults import FaultName, Faults
from bridge.testing.simulator.ledger import Conduct, Ledger
from bridge.testing.simulator.pictures import SimulatedAgent
from bridge.testing.simulator.wire import Value


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How a simulated service behaves."""

    agents: int = 10
    change_rate: float = 0.2
    """Mean status changes per second and agent; 0: nothing happens by itself."""
    seed: int = 1
    emit_defaults: bool = False
    """Print fields at their default, as gateways with emit_unpopulated do."""
    ended: Literal["not_found", "failed_precondition"] = "not_found"
    """The answer to a request for a session that has ended: 404 (5) or 400 (9)."""
    older_errors: bool = False
    """Refusals have ``"error"``, too, as older gateways print them."""
    logouts: bool = True
    """Whether agents log out and in again from time to time."""
    latency: float = 0.0
    """Seconds that every answer takes."""
    log_limit: int | None = None
    """Entries kept in each list of what was shown and taken; None: all."""
    faults: Faults = {}


class Poll(NamedTuple):
    """A ``GetStatusReq`` as read."""

    asm_session_sid: int
    keep_alive: bool
    want_calls: bool
    want_message: bool
    since: int
    skills: tuple[str, ...]
    events: tuple[Value, ...]


class Shown(NamedTuple):
    """The contents of an answer to ``getstatus`` and their sources; if these are the same, it is sent again."""

    poll: Poll
    version: int
    queue_version: int
    answer: Answer
    asm_session_sid: str
    status: Value
    message: tuple[int, str] | None
    queued: Value | None
    alert: Value | None


class Listed(NamedTuple):
    """The conversations of the list that is being read, page by page; ``whole``: the last page is among them."""

    asm_session_sid: str
    conversations: tuple[Value, ...]
    whole: bool


@dataclass(slots=True)
class Caller:
    """An agent as the service knows it, with the last request read and the last answer sent, for reuse."""

    life: SimulatedAgent
    conversations: Conversations
    token: str
    conduct: Conduct = field(default_factory=Conduct)
    retry_at: dict[FaultName, float] = field(default_factory=dict)
    body: bytes = b""
    poll: Poll | None = None
    shown: Shown | None = None
    noted: Shown | None = None
    listed: Listed | None = None


class LifeTime:
    """The seconds of the agents' days: those of the clock, without those in which it was frozen."""

    def __init__(self, start: float) -> None:
        self._start = start
        self.frozen_at: float | None = None

    def at(self, now: float) -> float:
        """The time in the agents' days when the clock shows ``now``."""
        return (now if self.frozen_at is None else self.frozen_at) - self._start

    def freeze(self, now: float) -> None:
        """Freezes the time; does nothing if it is frozen."""
        self.frozen_at = now if self.frozen_at is None else self.frozen_at

    def thaw(self, now: float) -> None:
        """Continues where the time was frozen."""
        if self.frozen_at is not None:
            self._start += now - self.frozen_at
            self.frozen_at = None


class World:
    """Agents from ``agent-0`` on, each with the token ``sim-token-<agent_id>``. ``clock`` returns seconds
    since 1970.
    """

    def __init__(self, options: Options, clock: Callable[[], float] = time.time) -> None:
        epoch = clock()
        self.options = options
        self.clock = clock
        self.life_time = LifeTime(epoch)
        self.callers = {caller.life.agent_id: caller for caller in _born(options, epoch)}
        self.queue = calls.opened(options.seed, change_rate=options.change_rate, epoch=epoch)
        self.ledger = Ledger(options.log_limit)
        self._by_authorization = {_bearer(caller.token): caller for caller in self.callers.values()}

    def authorized(self, authorization: bytes) -> Caller | None:
        """The agent that sent the request, by its Authorization header; None if the token is unknown."""
        caller = self._by_authorization.get(authorization)
        if caller is None and authorization[:7].lower() == b"bearer ":
            return self._by_authorization.get(b"Bearer " + authorization[7:].strip())
        return caller

    def set_token(self, caller: Caller, token: str) -> None:
        """Gives an agent another token; the old one becomes unknown."""
        self._by_authorization.pop(_bearer(caller.token), None)
        caller.token = token
        self._by_authorization[_bearer(token)] = caller

    def now(self) -> float:
        """The time in the agents' days, in seconds since the start."""
        return self.life_time.at(self.clock())

    def lived(self, caller: Caller) -> SimulatedAgent:
        """The agent as it is now."""
        agents.advance(caller.life, self.now())
        return caller.life

    def conversations(self, caller: Caller) -> Conversations:
        """The agent's conversations as they are now."""
        conversations.advance(caller.conversations, self.now())
        return caller.conversations


def _born(options: Options, epoch: float) -> list[Caller]:
    rate, seed = options.change_rate, options.seed
    lives = (
        agents.born(n, seed, change_rate=rate, epoch=epoch, logouts=options.logouts) for n in range(options.agents)
    )
    return [Caller(life, _conversations(life, seed), token_of(life.agent_id)) for life in lives]


def _conversations(life: SimulatedAgent, seed: int) -> Conversations:
    return conversations.opened(
        life.index, life.agent_id, life.skills[1], seed, change_rate=life.change_rate, epoch=life.epoch
    )


def token_of(agent_id: str) -> str:
    """The token that an agent starts with."""
    return f"sim-token-{agent_id}"


def _bearer(token: str) -> bytes:
    return f"Bearer {token}".encode()
