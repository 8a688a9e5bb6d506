"""A poller with a fake clock: hours pass in an instant, and the time of each request is known."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx

from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentState, InjectionCompleted
from bridge.agents.agent import Agent
from bridge.agents.step import Step
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient
from bridge.asm.http.request import PreparedRequest
from bridge.asm.http.response import Failure, OnResponse, Response
from bridge.backoff import Backoff
from bridge.clock import Clock, Instant
from bridge.polling.poller import Poller
from bridge.settings.model import InjectionSettings
from tests.support.strategies import EPOCH, injection, status_body

Answer = Callable[["PollerHarness", str], Awaitable[httpx.Response]]

_RUNNING: list[asyncio.Task[None]] = []


async def stop_pollers() -> None:
    """Stops the pollers that still run at a test's end."""
    for task in _RUNNING:
        task.cancel()
    await asyncio.gather(*_RUNNING, return_exceptions=True)
    _RUNNING.clear()


async def ready(_: "PollerHarness", __: str) -> httpx.Response:
    return httpx.Response(200, content=status_body())


async def no_conversations(_: "PollerHarness", __: str) -> httpx.Response:
    return httpx.Response(200, content=b"{}")


def after(seconds: float, answer: Answer = ready) -> Answer:
    async def late(harness: "PollerHarness", agent_id: str) -> httpx.Response:
        await harness.clock.passes(harness.clock.time + seconds)
        return await answer(harness, agent_id)

    return late


async def settle() -> None:
    """Runs everything that can run without the passage of time, for 30 turns of the loop at most."""
    loop: Any = asyncio.get_running_loop()
    for _ in range(30):
        await asyncio.sleep(0)
        if not loop._ready:
            return


class FakeClock(Clock):
    """A clock that moves only when a task sleeps, up to ``end``, which ``advance`` moves."""

    def __init__(self) -> None:
        self.time = self.end = 1000.0
        self.stopped, self.going = asyncio.Event(), asyncio.Event()
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:  # type: ignore[override]
        return self.time

    def now(self) -> Instant:
        return Instant(self.time, EPOCH + self.time)

    async def passes(self, time: float) -> None:
        """Waits until the clock has passed the time."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((time, waiter))
        await waiter

    async def sleep(self, seconds: float) -> None:
        await settle()
        self.time += seconds
        due, self._waiting = self._waiting, []
        for time, waiter in due:
            if self.time < time:
                self._waiting.append((time, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        if self.time >= self.end:
            await settle()
            self.stopped.set()
            self.going.clear()
            await self.going.wait()


class FakePartition:
    """Implements what a poller needs of a partition."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.accepting = True
        self.removed: set[Agent] = set()

    def watches(self, agent: Agent) -> bool:
        return agent not in self.removed

    def append(self, step: Step | None) -> None:
        if step is not None:
            self.records += step.records

    def poll_finished(self, _: Agent, step: Step | None) -> None:
        self.append(step)


class PollerHarness:
    """A poller with the test's own service. ``requests`` are (time, agent_id), and so are ``lists``: those for
    conversations."""

    def __init__(self, answer: Answer = ready, **options: Any) -> None:
        self.clock = FakeClock()
        self.partition: Any = FakePartition()
        self.requests: list[tuple[float, str]] = []
        self.lists: list[tuple[float, str]] = []
        self.bodies: list[bytes] = []
        self.in_flight: Counter[str] = Counter()
        self.answer = answer
        self.list_answer: Answer = no_conversations
        self.agents: dict[str, Agent] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.client = AsmClient(self, "https://asm.test")
        self.circuit_breaker = CircuitBreaker(Backoff())
        self.tokens: dict[str, str] = {}
        tokens: Any = SimpleNamespace(get=lambda reference: self.tokens.get(reference, reference))
        options = {"clock": self.clock, "sleep": self.clock.sleep, **options}
        self.poller = Poller(self.client, tokens, self.circuit_breaker, **options)
        self._running: asyncio.Task[None] | None = None

    async def advance(self, seconds: float) -> None:
        """Runs the poller for so many seconds."""
        self.clock.end = self.clock.time + seconds
        self.clock.stopped.clear()
        self.clock.going.set()
        if self._running is None:
            self._running = asyncio.create_task(self.poller.run())
            _RUNNING.append(self._running)
        stopped = asyncio.create_task(self.clock.stopped.wait())
        await asyncio.wait({self._running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        assert stopped.done(), self._running

    def send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        """The transport of its client: each request is a task."""
        task = asyncio.create_task(self._send(request, on_response))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """There are no connections to close."""

    async def _send(self, request: PreparedRequest, on_response: OnResponse) -> None:
        try:
            response = await self._handle(request)
        except httpx.TransportError as error:
            on_response(Failure(type(error).__name__, sent=not isinstance(error, httpx.ConnectError)))
        else:
            head = response.headers
            on_response(Response(response.status_code, response.content, head.get("Retry-After"), head.get("Date")))

    async def _handle(self, request: PreparedRequest) -> httpx.Response:
        agent_id = request.headers["authorization"].removeprefix("Bearer ")
        lists = request.target.path.endswith("listconversations")
        (self.lists if lists else self.requests).append((self.clock.time, agent_id))
        self.bodies.append(request.body)
        self.in_flight[agent_id] += 1
        assert self.in_flight[agent_id] == 1, f"two requests of {agent_id} are in flight"
        try:
            return await (self.list_answer if lists else self.answer)(self, agent_id)
        finally:
            self.in_flight[agent_id] -= 1

    def watch(self, agent_id: str, interval: float = 1.0, **fields: Any) -> Agent:
        agent, at = self.agents.get(agent_id), self.clock.now()
        if agent is None:
            agent = Agent(AgentState(agent_id=agent_id), InjectionSettings(), Backoff(), at)
            self.agents[agent_id] = agent
        entry = SessionEntry(asm_session_sid="7", token=agent_id, interval=interval, **fields)
        self.partition.append(agent.watch(entry, 1.0, at))
        self.partition.removed.discard(agent)
        self.poller.update(agent, self.partition)
        return agent

    def remove(self, agent: Agent) -> None:
        self.partition.removed.add(agent)
        self.poller.update(agent, self.partition)

    def inject(self, agent: Agent, *offsets: int) -> None:
        for offset in offsets:
            at = self.clock.now()
            self.partition.append(agent.take(injection(offset, at.wall), at))
            self.poller.poll_now(agent)

    def times(self, agent_id: str = "a") -> list[float]:
        return [time for time, name in self.requests if name == agent_id]

    @property
    def records(self) -> list[Any]:
        return list(self.partition.records)

    @property
    def completed(self) -> list[InjectionCompleted]:
        return [record for record in self.records if isinstance(record, InjectionCompleted)]

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome for record in self.completed]
