"""The schedule, in a time of its own: hours pass in a moment, and each request's time is known."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from asm_bridge_schemas import protojson
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import AgentObservationLost, AgentState, InjectionCompleted
from bridge.agents.agent import Agent, Instant, Unpollable
from bridge.settings.model import InjectionSettings
from bridge.agents.step import Step
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient
from bridge.asm.transport import HttpxAdapter
from bridge.backoff import Backoff
from bridge.polling import poller as module
from bridge.polling.poller import _TOGETHER, SLOT, Poller
from bridge.telemetry.metrics import METRICS
from tests.support.strategies import EPOCH, entry, status_body

Answer = Callable[["Stage", str], Awaitable[httpx.Response]]
_real_sleep = asyncio.sleep


STAGES: list[asyncio.Task[None]] = []


@pytest.fixture(autouse=True)
async def curtain() -> AsyncIterator[None]:
    """What still runs at a test's end is stopped."""
    yield
    for task in STAGES:
        task.cancel()
    await asyncio.gather(*STAGES, return_exceptions=True)
    STAGES.clear()


async def ready(_: "Stage", __: str) -> httpx.Response:
    return httpx.Response(200, content=status_body())


def after(seconds: float) -> Answer:
    async def answer(stage: "Stage", _: str) -> httpx.Response:
        until = stage.now + seconds
        while stage.now < until:
            await _real_sleep(0)
        return httpx.Response(200, content=status_body())

    return answer


class Stage:
    """A poller, and a clock that moves only when it sleeps. ``requests`` are (time, agent_id)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Answer = ready, **options: Any) -> None:
        self.now, self.end = 1000.0, 0.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        self.requests: list[tuple[float, str]] = []
        self.flying: Counter[str] = Counter()
        self.told: list[Any] = []
        self.accepting = True
        self.over, self.go = asyncio.Event(), asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self.answer = answer
        self.agents: dict[str, Agent] = {}
        self.client = AsmClient(HttpxAdapter(httpx.MockTransport(self._handle)), "https://asm.test")
        tokens: Any = SimpleNamespace(get=lambda reference: reference)
        self.poller = Poller(self.client, tokens, CircuitBreaker(Backoff()), **options)
        loop = SimpleNamespace(call_later=lambda wait, call, *args: self.timers.append((self.now + wait, call, args)))
        shim = SimpleNamespace(sleep=self.sleep, create_task=asyncio.create_task, get_running_loop=lambda: loop)
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: EPOCH + self.now)
        monkeypatch.setattr(module, "asyncio", shim)
        monkeypatch.setattr(module, "time", clock)

    # -- what the poller needs of a partition

    def append(self, step: Step | None) -> None:
        if step is not None:
            self.told += step.records

    def flying_task(self, _: Any) -> None:
        return None

    def settled(self, _: Agent) -> None:
        return None

    @property
    def home(self) -> Any:
        stage = self

        class Home:
            append, flying, settled = stage.append, stage.flying_task, stage.settled
            accepting = property(lambda _: stage.accepting)

        return Home()

    # -- the play

    async def sleep(self, seconds: float) -> None:
        await self.settle()
        self.now += seconds
        for timer in [timer for timer in self.timers if timer[0] <= self.now]:
            self.timers.remove(timer)
            timer[1](*timer[2])
        if self.now >= self.end:
            await self.settle()
            self.over.set()
            self.go.clear()
            await self.go.wait()

    async def settle(self) -> None:
        for _ in range(30):
            await _real_sleep(0)

    async def play(self, seconds: float) -> None:
        self.end = self.now + seconds
        self.over.clear()
        self.go.set()
        if self.running is None:
            self.running = asyncio.create_task(self.poller.run())
            STAGES.append(self.running)
        over = asyncio.create_task(self.over.wait())
        await asyncio.wait({self.running, over}, return_when=asyncio.FIRST_COMPLETED)
        assert over.done(), self.running

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        agent_id = request.headers["authorization"].removeprefix("Bearer ")
        self.requests.append((self.now, agent_id))
        self.flying[agent_id] += 1
        assert self.flying[agent_id] == 1, f"two requests of {agent_id} are under way"
        try:
            return await self.answer(self, agent_id)
        finally:
            self.flying[agent_id] -= 1

    @property
    def at(self) -> Instant:
        return Instant(self.now, EPOCH + self.now)

    def watch(self, agent_id: str, interval: float = 1.0) -> Agent:
        agent = self.agents.get(agent_id)
        if agent is None:
            agent = Agent(AgentState(agent_id=agent_id), InjectionSettings(), Backoff(), self.at)
            self.agents[agent_id] = agent
        self.append(agent.watch(SessionEntry(asm_session_sid="7", token=agent_id, interval=interval), 1.0, self.at))
        self.poller.add(agent, self.home)
        return agent

    def inject(self, agent: Agent, offset: int) -> None:
        self.append(agent.take(entry(offset, EPOCH + self.now), self.at))
        self.poller.poke(agent)

    def times(self, agent_id: str = "a") -> list[float]:
        return [time for time, name in self.requests if name == agent_id]

    @property
    def outcomes(self) -> list[str]:
        return [record.outcome for record in self.told if isinstance(record, InjectionCompleted)]


def skipped(reason: str) -> float:
    return float(METRICS.skipped_ticks.labels(reason)._value.get())


async def test_polls_keep_their_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    """One poll an interval, each in the agent's own phase: nothing drifts in twenty minutes."""
    stage = Stage(monkeypatch, after(0.3))
    stage.watch("a")
    await stage.play(1200)
    times = stage.times()
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert 1199 <= len(times) <= 1201
    assert max(abs(gap - 1) for gap in gaps) < 1.5 * SLOT
    assert abs((times[-1] - times[0]) - len(gaps)) < 1.5 * SLOT


async def test_the_first_poll_comes_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the interval is. The second one falls in the agent's phase, and not at once."""
    stage = Stage(monkeypatch)
    for number in range(40):
        stage.watch(f"agent-{number}", interval=10)
    await stage.play(60)
    for number in range(40):
        first, *more = stage.times(f"agent-{number}")
        assert first <= 1001 + SLOT
        assert 5 - 1.5 * SLOT < more[0] - first < 15 + 1.5 * SLOT
        assert max(abs(later - sooner - 10) for sooner, later in pairwise(more)) < 1.5 * SLOT


async def test_a_crowd_lets_others_have_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands that are due at one time only some are asked before commits and events can go on; an event does not
    wait for the rest."""
    stage = Stage(monkeypatch)
    crowd = [stage.watch(f"agent-{number}") for number in range(300)]
    urgent = stage.watch("urgent", interval=3600)
    await stage.play(2)
    for agent in crowd:
        stage.poller.remove(agent)
        agent.share = 0.5
        stage.poller.add(agent, stage.home)
    asked: list[int] = []

    async def turn(seconds: float) -> None:
        if seconds == 0 and not asked and stage.poller._ready:
            asked.append(len(stage.requests))
            stage.inject(urgent, 1)
        await stage.sleep(seconds)
        if asked:
            asked.append(len(stage.requests))

    monkeypatch.setattr(vars(module)["asyncio"], "sleep", turn)
    before = len(stage.requests)
    await stage.play(1)
    assert len(stage.requests) == before + 301
    assert asked[1] - before <= 2 * _TOGETHER
    assert "urgent" in [name for _, name in stage.requests[before : asked[1]]]


async def test_a_fleet_that_starts_together_does_not_poll_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases are spread over the interval by a hash of the agent_id."""
    stage = Stage(monkeypatch)
    for number in range(400):
        stage.watch(f"agent-{number}")
    await stage.play(5)
    slots = Counter(round(time / SLOT) for time, _ in stage.requests if time > 1002)
    assert max(slots.values()) < 3 * 400 * SLOT
    assert len(slots) > 0.9 * 3 / SLOT * 0.9


async def test_no_two_requests_of_one_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that finds the last request unanswered is skipped and counted; pokes do not break in either."""
    before = skipped("unanswered")
    stage = Stage(monkeypatch, after(2.5))
    agent = stage.watch("a")
    stage.inject(agent, 1)
    await stage.play(30.2)
    stage.inject(agent, 2)
    await stage.play(30)
    assert 18 <= len(stage.times()) <= 24
    assert skipped("unanswered") - before == pytest.approx(60 - len(stage.times()), abs=4)
    assert stage.outcomes == ["delivered", "delivered"]


async def test_a_partition_that_cannot_commit_asks_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-pressure: ticks are skipped and counted, and go on afterwards."""
    before = skipped("partition")
    stage = Stage(monkeypatch)
    stage.watch("a")
    stage.accepting = False
    await stage.play(10)
    assert stage.requests == []
    assert skipped("partition") - before == pytest.approx(10, abs=1)
    stage.accepting = True
    await stage.play(10)
    assert len(stage.requests) == pytest.approx(10, abs=1)


async def test_a_process_that_may_be_no_owner_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was paused must not send what somebody else sends by now: pokes neither."""
    stage = Stage(monkeypatch, holds=lambda: False)
    agent = stage.watch("a")
    stage.inject(agent, 1)
    await stage.play(5)
    assert stage.requests == []
    assert agent.pending.injections[0].attempts == 0


async def test_a_pause_is_not_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten minutes of sleep there is one poll, not six hundred; what was missed is counted."""
    before = skipped("late")
    stage = Stage(monkeypatch)
    stage.watch("a")
    await stage.play(3)
    stage.now += 600
    begun = len(stage.requests)
    await stage.play(3)
    assert len(stage.requests) - begun <= 5
    assert skipped("late") - before == pytest.approx(600, abs=2)


async def test_the_rate_limit_holds_for_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """asm.rate_limit polls per second over all sessions of a process, shared evenly."""
    stage = Stage(monkeypatch, rate_limit=10)
    for number in range(40):
        stage.watch(f"agent-{number}")
    await stage.play(60)
    assert 570 <= len(stage.requests) <= 601
    by_second = Counter(int(time) for time, _ in stage.requests)
    assert max(by_second.values()) <= 12
    shares = Counter(name for _, name in stage.requests)
    assert len(shares) == 40
    assert max(shares.values()) - min(shares.values()) <= 3


async def test_the_rate_limit_builds_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: an agent waits once; its further ticks are skipped and counted."""
    before = sum(skipped(reason) for reason in ("unanswered", "partition", "late", "rate_limit"))
    stage = Stage(monkeypatch, rate_limit=10)
    for number in range(40):
        stage.watch(f"agent-{number}")
    await stage.play(60)
    assert len(stage.poller._ready) <= 40
    total = sum(
        sample.value for sample in next(iter(METRICS.skipped_ticks.collect())).samples if "total" in sample.name
    )
    assert total - before >= 1500


async def test_an_event_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next tick; and after a request under way without waiting for one either."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a", interval=3600)
    await stage.play(2)
    asked = len(stage.requests)
    stage.inject(agent, 1)
    await stage.settle()
    assert stage.outcomes == ["delivered"]
    stage.answer = after(1)
    stage.inject(agent, 2)
    stage.inject(agent, 3)
    await stage.play(3)
    assert stage.outcomes == ["delivered"] * 3
    assert len(stage.requests) == asked + 3


async def test_an_event_is_tried_again_after_its_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next tick, which may come long after its time to live."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a", interval=3600)
    await stage.play(2)

    async def once(_: Stage, __: str) -> httpx.Response:
        stage.answer = ready
        return httpx.Response(500)

    stage.answer = once
    stage.inject(agent, 1)
    await stage.play(60)
    assert stage.outcomes == ["delivered"]


async def test_an_event_that_comes_during_a_back_off_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    agent = stage.watch("a", interval=3600)

    async def throttled(_: Stage, __: str) -> httpx.Response:
        stage.answer = ready
        return httpx.Response(429, headers={"Retry-After": "5"})

    stage.answer = throttled
    await stage.play(2)
    stage.inject(agent, 1)
    await stage.play(60)
    assert stage.outcomes == ["delivered"]


async def test_retry_after_is_obeyed_by_all_that_may_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ticks and events wait it out."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a")

    async def throttled(_: Stage, __: str) -> httpx.Response:
        stage.answer = ready
        return httpx.Response(429, headers={"Retry-After": "20"})

    stage.answer = throttled
    await stage.play(5)
    stage.inject(agent, 1)
    await stage.play(40)
    first, second, *_ = stage.times()
    assert 20 <= second - first <= 21.1
    assert stage.outcomes == ["delivered"]


async def test_the_common_poll_reads_and_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged answer is not decoded, an unchanged request is not built again."""
    stage = Stage(monkeypatch)
    stage.watch("a")
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            counts[name] += 1
            return call(*args)

        return counting

    for name in ("read", "decode", "_partly_decoded"):
        monkeypatch.setattr(protojson, name, counted(name, getattr(protojson, name)))
    monkeypatch.setattr(stage.client, "request", counted("request", stage.client.request))
    await stage.play(60)
    assert len(stage.requests) >= 59
    assert counts == {"read": 1, "_partly_decoded": 1, "request": 1}


async def test_a_new_interval_takes_effect_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes of the registry need no restart; and an agent has one rhythm, not the old one beside the new."""
    stage = Stage(monkeypatch)
    stage.watch("a", interval=3600)
    await stage.play(10)
    begun = len(stage.requests)
    stage.watch("a", interval=0.5)
    await stage.play(10)
    assert len(stage.requests) - begun == pytest.approx(20, abs=2)
    stage.watch("a", interval=5)
    begun = len(stage.requests)
    await stage.play(50)
    assert len(stage.requests) - begun == pytest.approx(10, abs=2)


async def test_an_agent_that_is_removed_and_added_again_has_one_rhythm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the same object, as when its entries wait."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a")
    for _ in range(5):
        await stage.play(0.3)
        stage.poller.remove(agent)
        stage.watch("a")
    begun = len(stage.requests)
    await stage.play(20)
    assert len(stage.requests) - begun == pytest.approx(20, abs=1)


async def test_a_removed_agent_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    agent = stage.watch("a")
    stage.poller.remove(agent)
    stage.poller.poke(agent)
    await stage.play(5)
    assert stage.requests == []


async def test_a_host_that_is_down_is_probed_and_all_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is down gets a probe, not the herd; the agents are lost meanwhile, and polled again afterwards."""

    async def unreachable(_: Stage, __: str) -> httpx.Response:
        raise httpx.ConnectError("refused")

    stage = Stage(monkeypatch)
    for number in range(100):
        stage.watch(f"agent-{number}")
    await stage.play(3)
    stage.answer = unreachable
    await stage.play(60)
    begun = len(stage.requests)
    await stage.play(300)
    assert 5 <= len(stage.requests) - begun <= 60
    assert len([record for record in stage.told if isinstance(record, AgentObservationLost)]) == 100
    stage.answer = ready
    await stage.play(62)
    begun = len(stage.requests)
    await stage.play(10)
    assert len(stage.requests) - begun == pytest.approx(1000, abs=100)


async def test_a_sick_agent_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """session_shared: reported as lost, and not polled."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a")
    agent.sick = Unpollable("session_shared", "agent 'b' has the same token")
    await stage.play(10)
    assert stage.requests == []
    assert [record.reason for record in stage.told if isinstance(record, AgentObservationLost)] == ["session_shared"]


async def test_one_agents_fault_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad answers, and faults of ours in reading them, stay with one agent, and pass."""

    async def bad(_: Stage, agent_id: str) -> httpx.Response:
        return httpx.Response(200, content=b"{" if agent_id == "a" else status_body())

    stage = Stage(monkeypatch, bad)
    stage.watch("a")
    stage.watch("b")

    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.observe", fault)
        await stage.play(5)
    await stage.play(60)
    assert len(stage.times("a")) >= 3
    assert len(stage.times("b")) >= 30
    assert stage.agents["b"].state.asm_session_sid == "7"


async def test_a_fault_of_ours_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry gets exactly one outcome, whatever crashes."""
    stage = Stage(monkeypatch)
    agent = stage.watch("a")
    stage.inject(agent, 1)

    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.observe", fault)
        await stage.play(2)
    await stage.play(60)
    assert stage.outcomes == ["delivered"]


async def test_requests_are_counted_by_what_came_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """asm_bridge_polls by result."""

    def count() -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for sample in next(iter(METRICS.polls.collect())).samples:
            if sample.name.endswith("_total"):
                found[sample.labels["result"]] = sample.value
        return found

    before = count()
    stage = Stage(monkeypatch)
    stage.watch("a")
    await stage.play(5)
    assert count()["ok"] - before["ok"] == len(stage.requests)
