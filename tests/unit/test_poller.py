"""The polling schedule with a fake clock: hours pass in an instant, and the time of each request is known."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

import httpx
import pytest

from asm_bridge_schemas import protojson
from asm_bridge_schemas.records import AgentObservationLost
from bridge.agents.health import Unpollable
from bridge.polling.poller import _BATCH
from bridge.polling.schedule import SLOT
from bridge.telemetry.metrics import METRICS
from tests.support.poller_harness import Answer, PollerHarness, after, ready, settle, stop_pollers
from tests.support.strategies import injection, status_body


@pytest.fixture(autouse=True)
async def _stop_pollers() -> AsyncIterator[None]:
    yield
    await stop_pollers()


def skipped(reason: str) -> float:
    return float(METRICS.skipped_ticks.labels(reason)._value.get())


async def test_polls_keep_their_rhythm() -> None:
    """Each agent is polled once per interval, in its own phase, without drift over twenty minutes."""
    harness = PollerHarness(after(0.3))
    harness.watch("a")
    await harness.advance(1200)
    times = harness.times()
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert 1199 <= len(times) <= 1201
    assert max(abs(gap - 1) for gap in gaps) < 1.5 * SLOT
    assert abs((times[-1] - times[0]) - len(gaps)) < 1.5 * SLOT


async def test_the_first_poll_comes_within_a_second() -> None:
    """An agent's first poll comes within a second, however long the interval is, and the second one in its phase."""
    harness = PollerHarness()
    for number in range(40):
        harness.watch(f"agent-{number}", interval=10)
    await harness.advance(60)
    for number in range(40):
        first, *more = harness.times(f"agent-{number}")
        assert first <= 1001 + SLOT
        assert 5 - 1.5 * SLOT < more[0] - first < 15 + 1.5 * SLOT
        assert max(abs(later - sooner - 10) for sooner, later in pairwise(more)) < 1.5 * SLOT


async def test_a_crowd_lets_others_have_a_turn() -> None:
    """Thousands of polls that are due together go out in batches, between which commits and events are not starved."""
    harness = PollerHarness()
    crowd = [harness.watch(f"agent-{number}") for number in range(300)]
    urgent = harness.watch("urgent", interval=3600)
    await harness.advance(2)
    for agent in crowd:
        harness.remove(agent)
        agent.share = 0.5
        harness.watch(agent.state.agent_id)
    asked: list[int] = []

    async def turn(seconds: float) -> None:
        if seconds == 0 and not asked and harness.poller._ready:
            asked.append(len(harness.requests))
            harness.inject(urgent, 1)
        await harness.clock.sleep(seconds)
        if asked:
            asked.append(len(harness.requests))

    harness.poller._sleep = turn
    before = len(harness.requests)
    await harness.advance(1)
    assert len(harness.requests) == before + 301
    assert asked[1] - before <= 2 * _BATCH
    assert "urgent" in [name for _, name in harness.requests[before : asked[1]]]


async def test_a_fleet_that_starts_together_does_not_poll_together() -> None:
    """A hash of the agent_id spreads the agents' phases over the interval."""
    harness = PollerHarness()
    for number in range(400):
        harness.watch(f"agent-{number}")
    await harness.advance(5)
    slots = Counter(round(time / SLOT) for time, _ in harness.requests if time > 1002)
    assert max(slots.values()) < 3 * 400 * SLOT
    assert len(slots) > 0.9 * 3 / SLOT * 0.9


async def test_no_two_requests_of_one_agent() -> None:
    """A tick during a request in flight is skipped and counted, and poll_now does not start a second request either."""
    before = skipped("unanswered")
    harness = PollerHarness(after(2.5))
    agent = harness.watch("a")
    harness.inject(agent, 1)
    await harness.advance(30.2)
    harness.inject(agent, 2)
    await harness.advance(30)
    assert 18 <= len(harness.times()) <= 24
    assert skipped("unanswered") - before == pytest.approx(60 - len(harness.times()), abs=4)
    assert harness.outcomes == ["delivered", "delivered"]


async def test_a_partition_that_cannot_commit_asks_for_no_more() -> None:
    """While a partition cannot commit, its ticks are skipped and counted; afterwards polling continues."""
    before = skipped("partition")
    harness = PollerHarness()
    harness.watch("a")
    harness.partition.accepting = False
    await harness.advance(10)
    assert harness.requests == []
    assert skipped("partition") - before == pytest.approx(10, abs=1)
    harness.partition.accepting = True
    await harness.advance(10)
    assert len(harness.requests) == pytest.approx(10, abs=1)


async def test_a_process_that_may_be_no_owner_sends_nothing() -> None:
    """A process that may no longer own a partition sends nothing for it, not even at once for an event."""
    harness = PollerHarness(may_send=lambda: False)
    agent = harness.watch("a")
    harness.inject(agent, 1)
    await harness.advance(5)
    assert harness.requests == []
    assert agent.pending.injections[0].attempts == 0


async def test_agents_that_could_not_be_asked_are_lost() -> None:
    """While nothing may be sent no agent is polled; if that lasts, the record of the loss says so before the next
    status.
    """
    may_send = True
    harness = PollerHarness(may_send=lambda: may_send)
    harness.watch("a")
    await harness.advance(3)
    may_send, asked = False, len(harness.requests)
    await harness.advance(30)
    assert len(harness.requests) == asked
    may_send = True
    await harness.advance(3)
    names = [type(record).__name__ for record in harness.records]
    assert names[-2:] == ["AgentObservationLost", "AgentObservationResumed"]
    assert harness.records[-1].reason == "bridge_down"


async def test_a_pause_is_not_caught_up() -> None:
    """After a pause of ten minutes an agent is polled once, and the missed ticks are counted."""
    before = skipped("late")
    harness = PollerHarness()
    harness.watch("a")
    await harness.advance(3)
    harness.clock.time += 600
    begun = len(harness.requests)
    await harness.advance(3)
    assert len(harness.requests) - begun <= 5
    assert skipped("late") - before == pytest.approx(600, abs=2)


async def test_the_rate_limit_holds_for_all_together() -> None:
    """asm.rate_limit limits the polls per second of all sessions of a process, and is shared evenly."""
    harness = PollerHarness(rate_limit=10)
    for number in range(40):
        harness.watch(f"agent-{number}")
    await harness.advance(60)
    assert 570 <= len(harness.requests) <= 601
    by_second = Counter(int(time) for time, _ in harness.requests)
    assert max(by_second.values()) <= 12
    shares = Counter(name for _, name in harness.requests)
    assert len(shares) == 40
    assert max(shares.values()) - min(shares.values()) <= 3


async def test_the_rate_limit_builds_no_queue() -> None:
    """An agent waits at most once for the rate limit; its further ticks are skipped and counted."""
    before = sum(skipped(reason) for reason in ("unanswered", "partition", "late", "rate_limit"))
    harness = PollerHarness(rate_limit=10)
    for number in range(40):
        harness.watch(f"agent-{number}")
    await harness.advance(60)
    assert len(harness.poller._ready) <= 40
    total = sum(
        sample.value for sample in next(iter(METRICS.skipped_ticks.collect())).samples if "total" in sample.name
    )
    assert total - before >= 1500


async def test_an_event_goes_out_at_once() -> None:
    """An event goes out before the next tick, and right after a request in flight."""
    harness = PollerHarness()
    agent = harness.watch("a", interval=3600)
    await harness.advance(2)
    asked = len(harness.requests)
    harness.inject(agent, 1)
    await settle()
    assert harness.outcomes == ["delivered"]
    harness.answer = after(1)
    harness.inject(agent, 2)
    harness.inject(agent, 3)
    await harness.advance(3)
    assert harness.outcomes == ["delivered"] * 3
    assert len(harness.requests) == asked + 3


async def test_an_event_is_tried_again_after_its_back_off() -> None:
    """An event is retried after its back-off, even if the next tick is far away."""
    harness = PollerHarness()
    agent = harness.watch("a", interval=3600)
    await harness.advance(2)

    async def once(_: PollerHarness, __: str) -> httpx.Response:
        harness.answer = ready
        return httpx.Response(500)

    harness.answer = once
    harness.inject(agent, 1)
    await harness.advance(60)
    assert harness.outcomes == ["delivered"]


async def test_an_event_that_comes_during_a_back_off_follows_it() -> None:
    """An event that arrives during a back-off goes out after it."""
    harness = PollerHarness()
    agent = harness.watch("a", interval=3600)

    async def throttled(_: PollerHarness, __: str) -> httpx.Response:
        harness.answer = ready
        return httpx.Response(429, headers={"Retry-After": "5"})

    harness.answer = throttled
    await harness.advance(2)
    harness.inject(agent, 1)
    await harness.advance(60)
    assert harness.outcomes == ["delivered"]


async def test_retry_after_is_obeyed_by_all_that_may_be_asked() -> None:
    """Ticks and events wait until Retry-After has passed."""
    harness = PollerHarness()
    agent = harness.watch("a")

    async def throttled(_: PollerHarness, __: str) -> httpx.Response:
        harness.answer = ready
        return httpx.Response(429, headers={"Retry-After": "20"})

    harness.answer = throttled
    await harness.advance(5)
    harness.inject(agent, 1)
    await harness.advance(40)
    first, second, *_ = harness.times()
    assert 20 <= second - first <= 21.1
    assert harness.outcomes == ["delivered"]


async def test_the_common_poll_reads_and_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unchanged answer is not decoded, and an unchanged request is not built again."""
    harness = PollerHarness()
    harness.watch("a")
    counts: Counter[str] = Counter()

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **options: Any) -> Any:
            counts[name] += 1
            return call(*args, **options)

        return counting

    for name in ("read", "decode", "_partly_decoded"):
        monkeypatch.setattr(protojson, name, counted(name, getattr(protojson, name)))
    monkeypatch.setattr(harness.client, "request", counted("request", harness.client.request))
    await harness.advance(60)
    assert len(harness.requests) >= 59
    assert counts == {"read": 1, "_partly_decoded": 1, "request": 1}


async def test_a_new_interval_takes_effect_within_a_second() -> None:
    """A new interval in the registry takes effect within a second and replaces the old one."""
    harness = PollerHarness()
    harness.watch("a", interval=3600)
    await harness.advance(10)
    begun = len(harness.requests)
    harness.watch("a", interval=0.5)
    await harness.advance(10)
    assert len(harness.requests) - begun == pytest.approx(20, abs=2)
    harness.watch("a", interval=5)
    begun = len(harness.requests)
    await harness.advance(50)
    assert len(harness.requests) - begun == pytest.approx(10, abs=2)


async def test_an_agent_that_is_removed_and_added_again_has_one_rhythm() -> None:
    """An agent that is removed and added again has one schedule, even if it is the same object."""
    harness = PollerHarness()
    agent = harness.watch("a")
    for _ in range(5):
        await harness.advance(0.3)
        harness.remove(agent)
        harness.watch("a")
    begun = len(harness.requests)
    await harness.advance(20)
    assert len(harness.requests) - begun == pytest.approx(20, abs=1)


async def test_a_removed_agent_is_not_asked() -> None:
    """A removed agent is not polled."""
    harness = PollerHarness()
    agent = harness.watch("a")
    harness.remove(agent)
    harness.poller.poll_now(agent)
    await harness.advance(5)
    assert harness.requests == []


async def test_a_host_that_is_down_is_probed_and_all_come_back() -> None:
    """While the host is down it is probed by one agent and the others are lost; afterwards all are polled again."""

    async def unreachable(_: PollerHarness, __: str) -> httpx.Response:
        raise httpx.ConnectError("refused")

    harness = PollerHarness()
    for number in range(100):
        harness.watch(f"agent-{number}")
    await harness.advance(3)
    harness.answer = unreachable
    await harness.advance(60)
    begun = len(harness.requests)
    await harness.advance(300)
    assert 5 <= len(harness.requests) - begun <= 60
    assert len([record for record in harness.records if isinstance(record, AgentObservationLost)]) == 100
    harness.answer = ready
    await harness.advance(62)
    begun = len(harness.requests)
    await harness.advance(10)
    assert len(harness.requests) - begun == pytest.approx(1000, abs=100)


async def test_a_sick_agent_is_not_asked() -> None:
    """A sick agent (session_shared) is reported as lost, and is not polled."""
    harness = PollerHarness()
    agent = harness.watch("a")
    agent.unpollable = Unpollable("session_shared", "agent 'b' has the same token")
    await harness.advance(10)
    assert harness.requests == []
    assert [record.reason for record in harness.records if isinstance(record, AgentObservationLost)] == [
        "session_shared"
    ]


async def test_one_agents_fault_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad answer, or an internal error in reading it, affects only its own agent, and only until the next poll."""

    async def bad(_: PollerHarness, agent_id: str) -> httpx.Response:
        return httpx.Response(200, content=b"{" if agent_id == "a" else status_body())

    harness = PollerHarness(bad)
    harness.watch("a")
    harness.watch("b")

    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.observe", fault)
        await harness.advance(5)
    await harness.advance(60)
    assert len(harness.times("a")) >= 3
    assert len(harness.times("b")) >= 30
    assert harness.agents["b"].state.asm_session_sid == "7"


async def test_a_fault_of_ours_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry gets exactly one outcome, whichever internal error occurs."""
    harness = PollerHarness()
    agent = harness.watch("a")
    harness.inject(agent, 1)

    def fault(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("bridge.agents.agent.observe", fault)
        await harness.advance(2)
    await harness.advance(60)
    assert harness.outcomes == ["delivered"]


async def test_requests_are_counted_by_what_came_of_them() -> None:
    """asm_bridge_polls counts requests by their result."""

    def count() -> dict[str, float]:
        found: defaultdict[str, float] = defaultdict(float)
        for sample in next(iter(METRICS.polls.collect())).samples:
            if sample.name.endswith("_total"):
                found[sample.labels["result"]] = sample.value
        return found

    before = count()
    harness = PollerHarness()
    harness.watch("a")
    await harness.advance(5.5)  # the last answer is counted a slot later
    assert count()["ok"] - before["ok"] == len(harness.requests)


# -- a service that is disturbed for a while, and a fleet


def fleet(harness: PollerHarness, size: int) -> None:
    for number in range(size):
        harness.watch(f"agent-{number}")


def answering(status: int, code: int | None = None, **headers: str) -> Answer:
    """The service's own refusal, or a foreign page if ``code`` is None."""

    async def answer(_: PollerHarness, __: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if code is None:
            return httpx.Response(status, html="<h1>Not here</h1>", headers=named)
        return httpx.Response(status, json={"code": code, "message": "no"}, headers=named)

    return answer


async def disturb(harness: PollerHarness, answer: Answer, seconds: float) -> int:
    """Runs the fleet and disturbs it for some time. Returns the number of requests in that time."""
    await harness.advance(5)
    harness.answer, begun = answer, len(harness.requests)
    await harness.advance(seconds)
    harness.answer = ready
    return len(harness.requests) - begun


def longest_gap(harness: PollerHarness) -> float:
    """The longest time for which an agent was not polled."""
    return max(
        later - sooner
        for agent_id in harness.agents
        for sooner, later in pairwise([*harness.times(agent_id), harness.clock.time])
    )


def kinds(harness: PollerHarness) -> set[str]:
    return {type(record).__name__ for record in harness.records}


@pytest.mark.parametrize(
    "answer", [answering(404), answering(400), answering(200), answering(302), answering(401), answering(403)]
)
async def test_a_page_in_the_services_place_leaves_no_trace(answer: Answer) -> None:
    """Three seconds of foreign answers to eight agents end no session and lose no event; if they last, the agents are
    lost meanwhile.
    """
    harness = PollerHarness()
    fleet(harness, 8)
    await harness.advance(3)
    before = len(harness.records)
    harness.answer = answer
    harness.inject(harness.agents["agent-0"], 1)
    await harness.advance(3)
    assert len(harness.records) == before
    harness.answer = ready
    await harness.advance(30)
    assert kinds(harness) - {"AgentObservationLost", "AgentObservationResumed"} == {
        "AgentWatchStarted", "AgentSessionStarted", "AgentStatusChanged",
        "ConversationEventDelivered", "InjectionCompleted",
    }  # fmt: skip
    assert harness.outcomes == ["delivered"]
    assert harness.completed[0].possibly_repeated


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_zero_makes_no_busy_loop(status: int) -> None:
    """Retry-After 0 does not replace the back-off, and the event is not given up."""
    harness = PollerHarness()
    agent = harness.watch("a")
    await harness.advance(2)
    begun = len(harness.requests)
    harness.answer = answering(status, {429: 8, 503: 14}[status], Retry_After="0")
    harness.inject(agent, 1)
    await harness.advance(5)
    assert len(harness.requests) - begun <= 10
    harness.answer = ready
    await harness.advance(60)
    assert harness.outcomes == ["delivered"]


@pytest.mark.parametrize("size", [8, 200])
async def test_a_long_retry_after_does_not_silence_the_fleet(size: int) -> None:
    """After five seconds of throttling with a Retry-After of an hour, one agent probes, and the fleet follows within
    seconds.
    """
    harness = PollerHarness()
    fleet(harness, size)
    asked = await disturb(harness, answering(429, 8, Retry_After="3600"), 5)
    assert asked <= 20
    await harness.advance(45)
    assert longest_gap(harness) < 42
    begun = len(harness.requests)
    await harness.advance(10)
    assert len(harness.requests) - begun == pytest.approx(10 * size, rel=0.1)


@pytest.mark.parametrize(("status", "code"), [(401, 16), (403, 7)])
async def test_a_short_refusal_of_good_tokens_loses_no_agent(status: int, code: int) -> None:
    """After 1.5 s of 401 or 403 all agents are polled again within seconds, instead of after a minute."""
    harness = PollerHarness()
    fleet(harness, 8)
    await disturb(harness, answering(status, code), 1.5)
    await harness.advance(30)
    assert longest_gap(harness) < 9
    assert "AgentObservationLost" not in kinds(harness)


@pytest.mark.parametrize("answer", [answering(401, 16), answering(503, 14), answering(503), answering(429, 8)])
async def test_a_fleet_that_is_refused_at_one_time_is_probed_by_one(answer: Answer) -> None:
    """A fleet that is refused is probed by one agent at a time, and returns in a ramp."""
    harness = PollerHarness()
    fleet(harness, 300)
    assert await disturb(harness, answer, 120) <= 40
    await harness.advance(65)
    back = [time for time, _ in harness.requests if time > 1125]
    begun = next(time for time, following in pairwise(back) if following - time < 0.5)
    by_half_second = Counter(int((time - begun) / 0.5) for time in back if begun <= time < begun + 3)
    assert sum(by_half_second[number] for number in range(6)) > 200
    assert max(by_half_second.values()) <= 2 * 150
    assert {agent.health.problem for agent in harness.agents.values()} == {None}


async def test_a_new_token_is_used_at_once_while_the_fleet_is_refused() -> None:
    """An agent whose token is replaced polls at once, without waiting for another agent's probe."""
    harness = PollerHarness()
    fleet(harness, 20)
    await disturb(harness, answering(401, 16), 60)
    harness.tokens["agent-0"] = "new"
    await harness.advance(2)
    assert harness.times("new")


async def test_an_event_that_is_blocked_does_not_blind_its_agent() -> None:
    """While a firewall blocks an event, polls without it continue and the other events are delivered."""

    async def firewall(harness: PollerHarness, _: str) -> httpx.Response:
        events = harness.bodies[-1].count(b"pause_event")
        if events > 1 or (events == 1 and harness.outcomes == ["delivered"]):
            return httpx.Response(403, html="<h1>Forbidden</h1>")
        return httpx.Response(200, content=status_body())

    harness = PollerHarness(firewall)
    agent = harness.watch("a")
    await harness.advance(2)
    at = harness.clock.now()
    for offset in (1, 2, 3):
        harness.partition.append(agent.take(injection(offset, at.wall), at))
    harness.poller.poll_now(agent)
    await harness.advance(60)
    assert harness.outcomes == ["delivered", "rejected", "delivered"]
    assert "AgentObservationLost" not in kinds(harness)
