"""Polls all agents of a process, by one schedule."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bridge.agents.agent import Agent
from bridge.agents.conversations import LIST_CONVERSATIONS
from bridge.agents.request import PollRequest
from bridge.agents.step import Step
from bridge.asm.answer import Answer
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient
from bridge.asm.errors import AsmError, Malformed, Unreachable
from bridge.asm.tokens import Tokens
from bridge.clock import Clock, Instant
from bridge.partitions.watcher import PartitionAgents
from bridge.polling.schedule import RateLimit, Schedule, Scheduled, skip
from bridge.telemetry import tracing
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_OK = METRICS.polls.labels("ok")

_STANDSTILL = 2.0
"""Seconds between two slots after which the process counts as having been paused."""
_LOOK_AGAIN = 1.0
"""Seconds, at most, until an agent with an urgent request that could not be polled is tried again."""

_BATCH = 64
"""Polls after which everything else gets a turn: commits, injections, partitions in recovery."""


class Poller:
    """Polls each agent at its own interval.

    An agent has at most one request in flight. ``may_send``: whether this process still owns its partitions (after a
    pause, another process may have taken them over).
    """

    def __init__(
        self,
        client: AsmClient,
        tokens: Tokens,
        breaker: CircuitBreaker,
        rate_limit: float | None = None,
        may_send: Callable[[], bool] = lambda: True,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._tokens = tokens
        self._breaker = breaker
        self._rate = RateLimit(rate_limit)
        self._may_send = may_send
        self._clock = clock or Clock()
        self._sleep = sleep
        self._schedule = Schedule(self._on_answer)
        self._ready = self._schedule.ready
        self._ok = 0
        """Polls not yet counted in ``METRICS``, whose lock is taken once a slot."""

    async def run(self) -> None:
        """Polls the agents that are due, slot by slot, until cancelled."""
        at = self._clock.monotonic()
        self._schedule.start(at)
        could_send = True
        while True:
            await self._until(self._schedule.next_slot)
            _OK.inc(self._ok)
            self._ok = 0
            self._rate.refill()
            due, lists, woken = self._schedule.advance()
            stood_still, at = self._clock.monotonic() - at > _STANDSTILL, self._clock.monotonic()
            may_send = self._may_send()
            if stood_still or (may_send and not could_send):
                self._check_unobserved()
            could_send = may_send
            for scheduled in due:
                self._schedule.tick(scheduled, at)
            for scheduled in lists:
                self._list_tick(scheduled)
            for scheduled in woken:
                self.poll_now(scheduled.agent)
            while self._poll_batch():
                await self._sleep(0)

    def _check_unobserved(self) -> None:
        """Reports the agents that a pause left unobserved for too long, before any poll."""
        at = self._clock.now()
        for scheduled in self._schedule:
            scheduled.partition.append(scheduled.agent.check_unobserved(at))

    def update(self, agent: Agent, partition: PartitionAgents) -> None:
        """Polls the agent by its registry entry from now on; not at all if its partition does not watch it."""
        if not partition.watches(agent):
            self._schedule.remove(agent)
            return
        self._schedule.add(agent, partition, self._clock.monotonic())
        self.poll_now(agent)

    def poll_now(self, agent: Agent) -> None:
        """Polls the agent now, not at its next tick, if it has an urgent request."""
        if agent.in_flight is not None or not agent.urgent:
            return
        scheduled = self._schedule.get(agent)
        if scheduled is None:
            return
        at = self._clock.now()
        urgent_at = agent.urgent_at(self._breaker.closed_at)
        if urgent_at > at.monotonic:
            self._schedule.wake(scheduled, min(urgent_at, at.monotonic + _LOOK_AGAIN))
            return
        self._ready.setdefault(scheduled, False)
        if self._rate.allowance >= 1:
            self._poll_ready(scheduled, self._may_send(), at)  # before the many whose turn has come

    # -- whose turn it is

    def _list_tick(self, scheduled: Scheduled) -> None:
        at = self._clock.now()
        self._schedule.list_tick(scheduled, at.monotonic)
        scheduled.agent.conversations.tick(at)
        if scheduled not in self._ready:  # else its status goes first
            self.poll_now(scheduled.agent)

    def _poll_batch(self) -> bool:
        """Polls those whose turn it is, as far as the rate allows. Returns whether more of them wait until everything
        else has had a turn."""
        if not self._ready:
            return False
        may_send, at, rate = self._may_send(), self._clock.now(), self._rate
        for _ in range(_BATCH):
            if not (self._ready and rate.allowance >= 1):
                return False
            self._poll_ready(next(iter(self._ready)), may_send, at)
        return True

    def _poll_ready(self, scheduled: Scheduled, may_send: bool, at: Instant) -> None:
        status = self._ready.pop(scheduled)
        if scheduled.agent.in_flight is not None or not scheduled.current:
            return
        if not (may_send and scheduled.partition.accepting):
            skip("partition")
        elif self._poll(scheduled, at, status):
            self._rate.allowance -= 1

    # -- one poll

    def _poll(self, scheduled: Scheduled, at: Instant, status: bool) -> bool:
        """Sends the agent's next request, if it may be polled; ``_on_answer`` gets the result."""
        agent = scheduled.agent
        request = self._next_request(agent, at, status)
        if not isinstance(request, PollRequest):
            scheduled.partition.append(agent.poll_skipped(request, at))
            if agent.urgent:
                self._schedule.wake(scheduled, at.monotonic + _LOOK_AGAIN)
            return False
        if request.prepared is None:
            request.prepared = self._client.request(
                request.call, request.token, request.body, repeatable=not request.injections
            )
        request.sent_at = self._clock.monotonic()
        agent.in_flight = request
        self._client.send(request.prepared, scheduled.on_answer, request.known)
        return True

    def _next_request(self, agent: Agent, at: Instant, status: bool) -> PollRequest | AsmError | None:
        """The request to send, or the reason why there is none; None if it is not time yet."""
        assert agent.entry is not None
        if agent.unpollable is not None:
            return None
        try:
            token = self._tokens.get(agent.entry.token)
        except AsmError as error:
            return error
        breaker, health = self._breaker, agent.health
        if breaker.outage is None:
            if not (health.may_poll(token, at, breaker.closed_at) and breaker.may_poll(at.monotonic, agent.share)):
                return None
        elif not (health.has_another(token) or breaker.may_poll(at.monotonic)):
            return breaker.outage
        return agent.next_request(token, at, status=status or breaker.outage is not None)

    def _on_answer(self, scheduled: Scheduled, answer: Answer | AsmError) -> None:
        """Appends the step that follows from the answer to the agent's partition, and sends an urgent next request at
        once."""
        agent = scheduled.agent
        request = agent.in_flight
        assert request is not None
        try:
            step = self._take(agent, request, answer)
        except Exception as error:  # a bug of ours must stop neither this agent nor another
            log.exception("poll.failed", agent_id=agent.state.agent_id, error=error)
            fault = Malformed(type(error).__name__, possibly_processed=True)
            step = agent.failed(request, fault, self._clock.now())
        agent.in_flight = None
        scheduled.partition.poll_finished(agent, step)
        self.poll_now(agent)

    def _take(self, agent: Agent, request: PollRequest, answer: Answer | AsmError) -> Step | None:
        """A service that refuses or throttles requests for conversations, or is shielded from them, is not down: its
        status polls show that."""
        at, is_list = self._clock.now(), request.call == LIST_CONVERSATIONS
        if not is_list:
            METRICS.poll_seconds.observe(at.monotonic - request.sent_at)
        if isinstance(answer, Answer):
            if is_list:
                METRICS.conversation_lists.labels("ok").inc()
            else:
                self._ok += 1
                self._breaker.record_success(at.monotonic)
            step = agent.answered(request, answer, at)
            if step is not None or request.injections:  # of thousands of polls a second, most are not
                tracing.polled(request, step, answer.status)
            return step
        (METRICS.conversation_lists if is_list else METRICS.polls).labels(answer.reason).inc()
        unreachable = isinstance(answer, Unreachable)
        if answer.counts_as_outage and (unreachable or not is_list):
            self._breaker.record_failure(at.monotonic, answer, agent, len(self._schedule))
        elif not (unreachable or is_list):
            self._breaker.record_success(at.monotonic)
        step = agent.failed(request, answer, at)
        tracing.polled(request, step, answer.http_status, answer.reason)
        return step

    async def _until(self, due: float) -> None:
        """Sleeps until ``due`` (monotonic seconds). uvloop counts a timer from the start of the loop's turn, in whole
        milliseconds: in a long turn it fires early, and without one more millisecond it would often wake up twice."""
        await self._sleep(0)
        while (wait := due - self._clock.monotonic()) > 0:
            await self._sleep(wait + 0.001)
