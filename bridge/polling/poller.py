"""One schedule for all agents of a process, and one poll."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from math import floor

import structlog

from bridge.agents.agent import Agent, Instant, PollRequest
from bridge.agents.step import Step
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient, usable
from bridge.asm.errors import AsmError, Malformed, Unreachable
from bridge.asm.http.request import Failure, Response
from bridge.asm.tokens import Tokens
from bridge.partitions.watcher import PartitionAgents
from bridge.telemetry import tracing
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_OK = METRICS.polls.labels("ok")

SLOT = 0.05
"""Seconds: what is due within one slot is asked together, because waking up costs more than asking."""

_TOGETHER = 64
"""Requests after which everything else has a turn: commits, events to be injected, partitions that are being opened."""


def now() -> Instant:
    return Instant(time.monotonic(), time.time())


class Poller:
    """Asks each agent at its own rhythm: its last due time plus its interval, so that nothing drifts.

    Phases are spread by a hash of the agent_id. No two requests of one agent are under way at a time; a tick that
    finds the last
    one unanswered, or a partition that cannot commit, is skipped and counted. ``holds()``: whether this process may
    still act as owner at all (one that was paused must not send what somebody else sends by now).
    """

    def __init__(
        self,
        client: AsmClient,
        tokens: Tokens,
        host: CircuitBreaker,
        rate_limit: float | None = None,
        holds: Callable[[], bool] = lambda: True,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._host = host
        self._rate_limit = rate_limit
        self._holds = holds
        self._slots: defaultdict[int, list[tuple[Agent, float]]] = defaultdict(list)
        self._homes: dict[Agent, PartitionAgents] = {}
        self._intervals: dict[Agent, float] = {}
        self._ready: dict[Agent, None] = {}
        self._waking: set[Agent] = set()
        self._slot = 0
        self._allowance = 0.0

    async def run(self) -> None:
        """Fire what is due, slot by slot, until cancelled."""
        self._slot = min(self._slots, default=int(time.monotonic() / SLOT)) - 1
        while True:
            await _until((self._slot + 1) * SLOT)
            self._slot += 1
            self._allow()
            at = time.monotonic()
            for agent, due in self._slots.pop(self._slot, ()):
                self._tick(agent, due, at)
            while self._drain():  # noqa: ASYNC110 - not waiting, but letting others have a turn
                await asyncio.sleep(0)

    def add(self, agent: Agent, home: PartitionAgents) -> None:
        """Watch from now on, in the agent's own phase; where that would take more than a second, first before it."""
        if agent not in self._homes or agent.interval != self._intervals.get(agent):
            at = time.monotonic()
            due = _next_due(agent, at - agent.interval / 2)
            self._put(agent, due if due <= at + 1 else at + agent.share)
        self._homes[agent], self._intervals[agent] = home, agent.interval

    def remove(self, agent: Agent) -> None:
        self._homes.pop(agent, None)
        self._intervals.pop(agent, None)

    def poke(self, agent: Agent) -> None:
        """Ask now, not at the next tick, if the agent has something to say."""
        if agent.in_flight is not None or not agent.urgent or agent not in self._homes:
            return
        wait = agent.not_before - time.monotonic()
        if wait <= 0:
            self._ready[agent] = None
            if self._allowed:
                self._ask(agent, self._holds(), now())  # before those whose turn has come: they are many
        elif agent not in self._waking:
            self._waking.add(agent)
            asyncio.get_running_loop().call_later(wait, self._wake, agent)

    # -- the schedule

    def _put(self, agent: Agent, due: float) -> None:
        agent.due = due
        self._slots[max(int(due / SLOT), self._slot) + 1].append((agent, due))

    def _wake(self, agent: Agent) -> None:
        self._waking.discard(agent)
        self.poke(agent)

    def _tick(self, agent: Agent, due: float, at: float) -> None:
        if agent not in self._homes or agent.due != due:
            return
        late = at - due
        if late >= agent.interval:
            missed = int(late / agent.interval)
            METRICS.skipped_ticks.labels("late").inc(missed)
            due += missed * agent.interval
        self._put(agent, _next_due(agent, due))
        if agent.in_flight is not None:
            METRICS.skipped_ticks.labels("unanswered").inc()
        elif agent in self._ready:
            METRICS.skipped_ticks.labels("rate_limit").inc()
        else:
            METRICS.lateness_seconds.observe(late)
            self._ready[agent] = None

    def _allow(self) -> None:
        if self._rate_limit is not None:
            self._allowance = min(max(1.0, self._rate_limit * SLOT), self._allowance + self._rate_limit * SLOT)

    @property
    def _allowed(self) -> bool:
        return self._rate_limit is None or self._allowance >= 1

    def _drain(self) -> bool:
        """Ask those whose turn it is, as far as the rate allows. Returns whether there are more, for whom the loop is
        to be shared."""
        if not self._ready:
            return False
        holds, at = self._holds(), now()
        for _ in range(_TOGETHER):
            if not (self._ready and self._allowed):
                return False
            self._ask(next(iter(self._ready)), holds, at)
        return True

    def _ask(self, agent: Agent, holds: bool, at: Instant) -> None:
        """One of ``_ready``."""
        del self._ready[agent]
        home = self._homes.get(agent)
        if home is None or agent.in_flight is not None:
            return
        if not (holds and home.accepting):
            METRICS.skipped_ticks.labels("partition").inc()
        elif self._start(agent, home, at):
            self._allowance -= 1

    # -- one poll

    def _start(self, agent: Agent, home: PartitionAgents, at: Instant) -> bool:
        """Whether a request went out; ``_landed`` is told what came of it."""
        ask = self._next(agent, home, at)
        if ask is None:
            return False
        if ask.request is None:
            ask.request = self._client.request(ask.call, ask.token, ask.body)
        agent.in_flight = ask
        home.flying(agent)
        self._client.ask(ask.request, partial(self._landed, agent, home, ask, time.monotonic()))
        return True

    def _next(self, agent: Agent, home: PartitionAgents, at: Instant) -> PollRequest | None:
        """What to ask, if it is time and nothing hinders."""
        assert agent.entry is not None
        try:
            if agent.sick is not None:
                raise agent.sick
            token = self._tokens.get(agent.entry.token)
            if agent.may_poll(token, at):
                if self._host.may_poll(at.mono):
                    return agent.ask(token, at)
                raise Unreachable("the host does not answer; one request at a time tries it")
            home.append(agent.hindered(None, at))
        except AsmError as error:
            home.append(agent.hindered(error, at))
        return None

    def _landed(
        self, agent: Agent, home: PartitionAgents, ask: PollRequest, sent: float, answer: Response | Failure
    ) -> None:
        """What the answer means, as a step of the agent's partition; and whether there is more to say."""
        try:
            step = self._read(agent, ask, sent, answer)
        except Exception as error:  # a fault of ours with this answer must not stop this agent, nor another
            log.exception("poll.failed", agent_id=agent.state.agent_id, error=error)
            step = agent.failed(ask, Malformed(f"{type(error).__name__}", possibly_processed=True), now())
        try:
            home.append(step)
        finally:
            agent.in_flight = None
            home.settled(agent)
        self.poke(agent)

    def _read(self, agent: Agent, ask: PollRequest, sent: float, answer: Response | Failure) -> Step | None:
        at = now()
        METRICS.poll_seconds.observe(at.mono - sent)
        try:
            status, body = usable(answer)
        except AsmError as error:
            METRICS.polls.labels(error.reason).inc()
            if not isinstance(error, Unreachable):
                self._host.answered()
            elif error.counts_as_outage:
                self._host.silent(at.mono)
            step = agent.failed(ask, error, at)
            tracing.polled(ask, step, sent, error.http_status, error.reason)
            return step
        _OK.inc()
        self._host.answered()
        step = agent.answered(ask, status, body, at)
        tracing.polled(ask, step, sent, status)
        return step


async def _until(due: float) -> None:
    """uvloop counts a timer from when its turn of the loop began, in whole milliseconds: in a long turn it fires early,
    and without one millisecond more it would often wake up twice."""
    await asyncio.sleep(0)
    while (wait := due - time.monotonic()) > 0:  # noqa: ASYNC110 - a clock has no event
        await asyncio.sleep(wait + 0.001)


def _next_due(agent: Agent, due: float) -> float:
    """The next time of the agent's phase that is at least half an interval after ``due``: a whole interval from one to
    the next."""
    phase = agent.share * agent.interval
    return phase + (floor((due - phase) / agent.interval + 0.5) + 1) * agent.interval
