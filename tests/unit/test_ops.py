"""Health, metrics, status, sessions and the event stream, for a bridge that exists only as a snapshot."""

import asyncio
import socket
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import JSONResponse

from asm_bridge_schemas.records import TOPICS, AgentObservationLost, AgentState, InjectionCompleted
from bridge.agents.health import Unpollable
from bridge.agents.step import Step
from bridge.asm.errors import Unreachable
from bridge.ops.events import ProcessHealth, changes, observed
from bridge.ops.http import answering, free_port, listen
from bridge.ops.probe import is_alive
from bridge.ops.rates import Sample, per_second, quantile, sample
from bridge.telemetry.metrics import METRICS, Metrics
from tests.support.ops import TOKEN_REFERENCE, Pictured, fail, served

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictured() -> Pictured:
    return Pictured(20)


@pytest.fixture
async def client(pictured: Pictured) -> AsyncIterator[httpx.AsyncClient]:
    async with served(pictured) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def until_event(client: httpx.AsyncClient, text: str) -> dict[str, Any]:
    """Samples until a status has the event. Returns that status."""
    async with asyncio.timeout(5):
        while True:
            status: dict[str, Any] = (await client.get("/api/status")).json()
            if any(text in event["text"] for event in status["events"]):
                return status
            await asyncio.sleep(0.05)


async def until_next(client: httpx.AsyncClient) -> dict[str, Any]:
    """Returns the status after the next sample."""
    before = (await client.get("/api/status")).json()
    async with asyncio.timeout(5):
        while (status := (await client.get("/api/status")).json())["at"] == before["at"]:
            await asyncio.sleep(0.05)
    return dict(status)


async def test_ready(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """/readyz is 200 while the bridge is ready, else 503 with the reason; /healthz is 200 as long as the
    process lives.
    """
    assert (await client.get("/readyz")).status_code == 200
    pictured.reason = "owns no partition"
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "owns no partition\n")
    status = (await client.get("/api/status")).json()
    async with asyncio.timeout(5):
        while status["ready"]:
            status = (await client.get("/api/status")).json()
            await asyncio.sleep(0.05)
    assert status["reason"] == "owns no partition"
    assert (await client.get("/healthz")).status_code == 200
    assert "asm_bridge_ready 0.0" in (await client.get("/metrics")).text


async def test_status_counts(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """The status says how many agents there are in each condition, why some are sick, and what to do about it."""
    fail(pictured.homes[0][0])
    fail(pictured.homes[1][0], Unreachable("no route"))
    pictured.homes[2] = None
    status = (await client.get("/api/status")).json()
    assert status["agents"]["sick_by_reason"] == {"unauthorized": 1, "unreachable": 1}
    assert status["agents"]["by_condition"]["lost"] == 2
    assert status["partitions"][2] == {"number": 2, "state": "opening", "agents": 0}
    assert "2 of" in status["notices"][0]["text"]
    assert "replace the token" in status["notices"][0]["advice"]


async def test_a_process_that_stands_by_says_so(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """A process without a partition is ready, and says on the probe and in the status that it stands by."""
    pictured.standing_by = True
    answer = await client.get("/readyz")
    assert answer.status_code == 200
    assert answer.text.startswith("ready, standing by: owns no partition")
    status = (await client.get("/api/status")).json()
    assert status["ready"]
    assert status["notices"][0]["text"].startswith("standing by: owns no partition")


async def test_the_health_check_asks_where_the_bridge_listens(
    pictured: Pictured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image's health check finds the address in the settings, or on the command line of ``run``, which wins."""
    async with served(pictured) as url:
        listen_on = url.removeprefix("http://")
        monkeypatch.setenv("ASM_BRIDGE_OPS__LISTEN", listen_on)
        assert await asyncio.to_thread(is_alive, ["/sbin/init"])
        monkeypatch.setenv("ASM_BRIDGE_OPS__LISTEN", listen_on.replace("127.0.0.1", "0.0.0.0"))
        assert await asyncio.to_thread(is_alive, ["asm-bridge", "run", ""])
        monkeypatch.setenv("ASM_BRIDGE_OPS__LISTEN", f"127.0.0.1:{free_port()}")
        assert not await asyncio.to_thread(is_alive, ["asm-bridge", "run"])
        for option in (["--ops.listen", listen_on], [f"--ops.listen={listen_on}"]):
            assert await asyncio.to_thread(is_alive, ["asm-bridge", "run", *option, ""])


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_all_addresses_are_those_of_both_families() -> None:
    """``[::]`` listens to IPv4, too."""
    with listen("::", 0) as listener:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, listener.getsockname()[1]), 5).close()


async def test_a_wrong_clock_is_a_notice(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """The status says by how much this machine's clock differs from Kafka's, if it is more than 5 s."""
    pictured.clock_ahead = -601.2
    notices = (await client.get("/api/status")).json()["notices"]
    assert "this machine's clock is 601 s behind Kafka's" in [notice["text"] for notice in notices]


async def test_partition_states(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """The status says of each partition whether its agents are watched, and if not, why."""
    pictured.homes[1].accepting = False
    pictured.homes[3].accepting = pictured.homes[3].active = False
    states = [one["state"] for one in (await client.get("/api/status")).json()["partitions"]]
    assert states[:4] == ["watching", "cannot_commit", "watching", "handing_over"]


async def test_rates(client: httpx.AsyncClient) -> None:
    """The status has polls per second, from the counters, and records per topic."""
    await client.get("/api/status")
    METRICS.polls.labels("ok").inc(500)
    METRICS.records.labels("queued-calls").inc(70)
    async with asyncio.timeout(5):
        while True:
            status = (await client.get("/api/status")).json()
            if status["polls"]["per_second"] and status["records"]["queued-calls"]["per_second"]:
                break
            await asyncio.sleep(0.05)
    assert 10 < status["polls"]["per_second"] <= 550
    assert status["polls"]["per_second"] > status["records"]["queued-calls"]["per_second"]
    assert max(status["history"]["polls"]) > 0


async def test_sessions_paged(client: httpx.AsyncClient) -> None:
    """The server searches and pages the list of agents, and returns the number of matches."""
    everyone = (await client.get("/api/sessions")).json()
    assert everyone["total"] == 20
    names = [one["agent_id"] for one in everyone["sessions"]]
    page = (await client.get("/api/sessions", params={"limit": 3, "offset": 18})).json()
    assert [one["agent_id"] for one in page["sessions"]] == names[18:]
    found = (await client.get("/api/sessions", params={"search": "AGENT-001"})).json()
    assert [one["agent_id"] for one in found["sessions"]] == [name for name in names if "agent-001" in name]
    assert (await client.get("/api/sessions", params={"condition": "no_session"})).json()["total"] == 3


async def test_sessions_by_label_and_sid(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """An agent is found by a label and by the sid of its session."""
    pictured.add("odd-one", "777", site="manila")
    for search in ("manila", "site=man", "777"):
        found = (await client.get("/api/sessions", params={"search": search})).json()["sessions"]
        assert [one["agent_id"] for one in found] == ["odd-one"]


async def test_sick_says_why(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """A sick agent has the reason, the error and what to do; a healthy one has none of them."""
    fail(pictured.homes[0][0])
    pictured.homes[1][0].unpollable = Unpollable(
        "session_shared", "agent 'x' has the same token: give this one its own"
    )
    found = (await client.get("/api/sessions", params={"condition": "sick"})).json()["sessions"]
    assert {one["reason"]: one["why"] for one in found} == {
        "unauthorized": "HTTP 401",
        "session_shared": "agent 'x' has the same token: give this one its own",
    }
    healthy = (await client.get("/api/sessions", params={"condition": "in_session"})).json()["sessions"]
    assert {(one["reason"], one["why"], one["advice"]) for one in healthy} == {(None, None, None)}


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "offset=-1", "condition=ill", "serach=a"])
async def test_wrong_query(client: httpx.AsyncClient, query: str) -> None:
    """A wrong query parameter is reported by name."""
    answer = await client.get(f"/api/sessions?{query}")
    assert answer.status_code == 400
    assert query.partition("=")[0] in answer.json()["error"]


async def test_no_secret(client: httpx.AsyncClient) -> None:
    """No response contains a token or a token reference."""
    for path in ("/", "/api/status", "/api/sessions?limit=500", "/metrics", "/page.js"):
        assert TOKEN_REFERENCE not in (await client.get(path)).text


async def test_headers(client: httpx.AsyncClient) -> None:
    """The response headers forbid the page to load anything from elsewhere and to be framed."""
    for path in ("/", "/page.js", "/page.css", "/api/status", "/no-such-thing"):
        policy = (await client.get(path)).headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("path", ["/../metrics.py", "/%2e%2e/server.py", "/..%2fserver.py"])
async def test_only_the_page_is_served(client: httpx.AsyncClient, path: str) -> None:
    """No file other than the page's can be read."""
    assert (await client.get(path)).status_code == 404


async def test_nothing_can_be_changed(client: httpx.AsyncClient) -> None:
    """The endpoints accept no method that could change anything."""
    for path in ("/", "/api/status", "/api/sessions", "/api/events", "/metrics"):
        assert (await client.post(path)).status_code == 405


async def test_stream(client: httpx.AsyncClient) -> None:
    """The stream sends a status every second as a server-sent event."""
    began, seen = time.monotonic(), []
    async with client.stream("GET", "/api/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line:
                seen.append(msgspec.json.decode(line.removeprefix("data: "))["uptime_seconds"])
            if len(seen) == 3:
                break
    assert 1.0 < time.monotonic() - began < 4.0
    assert seen == sorted(seen)


async def test_stops_with_a_watcher() -> None:
    """A bridge stops without waiting for open event streams."""
    async with served(Pictured()) as url, httpx.AsyncClient(trust_env=False) as client:
        stream = client.stream("GET", f"{url}/api/events", timeout=10)
        answer = await stream.__aenter__()
        lines = answer.aiter_lines()
        await anext(lines)
        began = time.monotonic()
    assert time.monotonic() - began < 2.0


async def test_events(client: httpx.AsyncClient, pictured: Pictured) -> None:
    """Events report partitions that come and go, dead letters, the service, and readiness."""
    await client.get("/api/status")
    del pictured.homes[7], pictured.homes[5]
    pictured.service_down, pictured.reason = True, "no heartbeat"
    METRICS.dead_letters.labels("refused").inc(2)
    status = await until_event(client, "not ready: no heartbeat")
    texts = {event["kind"]: event["text"] for event in status["events"]}
    assert texts["partitions_gone"] == "gave up 2 partitions: 5, 7"
    assert texts["dead_letters"] == "2 dead letters: refused"
    assert "service_down" in texts
    pictured.service_down, pictured.reason = False, None
    kinds = [event["kind"] for event in (await until_event(client, "answers again"))["events"]]
    assert kinds[0] == "ready"


def lost(agent_id: str, reason: str) -> AgentObservationLost:
    step = Step(AgentState(agent_id=agent_id, stream_id="s"), 0.0)
    step.emit(AgentObservationLost, reason=reason, since="2026-01-01T00:00:00Z")
    (record,) = step.records
    assert isinstance(record, AgentObservationLost)
    return record


def test_fleet_lost_is_one_event() -> None:
    """The loss of a thousand agents at once is one event for each reason."""
    records = [lost(f"agent-{number}", "unreachable") for number in range(1000)]
    texts = [event.text for event in observed([*records, lost("other", "unauthorized")])]
    assert texts == [
        "1000 agents lost (unreachable): agent-0, agent-1, agent-2 and 997 more",
        "1 agent lost (unauthorized): other",
    ]


async def test_an_agent_that_is_lost_is_one_event(client: httpx.AsyncClient) -> None:
    """A record of a lost agent becomes one event."""
    step = Step(AgentState(agent_id="lost-once", stream_id="s"), 0.0)
    step.emit(AgentObservationLost, reason="unreachable", since="2026-01-01T00:00:00Z")
    METRICS.record_step(step)
    await until_event(client, "lost-once")
    await until_next(client)
    status = await until_next(client)
    assert sum("lost-once" in event["text"] for event in status["events"]) == 1


def test_reason_with_other_numbers_is_no_event() -> None:
    """A reason that differs only in its numbers, as while partitions are opened, is not a new event."""
    nothing = Sample(0.0, {})
    old = ProcessHealth("partitions are being opened: [0, 1]", frozenset(), False, nothing)
    new = ProcessHealth("partitions are being opened: [1]", frozenset(), False, nothing)
    assert list(changes(old, new)) == []


@given(st.lists(st.floats(0.0, 8.0), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantile_is_in_its_bucket(observed: list[float], q: float) -> None:
    """An estimated quantile lies in the same bucket as the true one, and earlier observations do not count."""
    registry, bounds = CollectorRegistry(), [0.01, 0.1, 1.0, 10.0]
    histogram = Histogram("asm_bridge_x", "", buckets=bounds, registry=registry)
    histogram.observe(9.0)
    old = sample(0.0, [histogram])
    for value in observed:
        histogram.observe(value)
    found = quantile(old, sample(1.0, [histogram]), "x", q)
    true = sorted(observed)[max(0, -(-len(observed) * int(q * 100) // 100) - 1)]
    upper = next(bound for bound in bounds if true <= bound)
    assert found is not None
    assert (bounds[bounds.index(upper) - 1] if upper > 0.01 else 0.0) <= found <= upper + 1e-9


def test_no_observation_no_quantile() -> None:
    """Without an observation a quantile is null."""
    registry = CollectorRegistry()
    histogram = Histogram("asm_bridge_x", "", registry=registry)
    first = sample(0.0, [histogram])
    assert quantile(first, first, "x", 0.99) is None
    assert per_second(first, first, "x_count") == 0.0


def test_beyond_the_highest_bound() -> None:
    """A quantile above the highest bound is reported as at least that bound."""
    registry = CollectorRegistry()
    histogram = Histogram("asm_bridge_x", "", buckets=[1.0, 2.0], registry=registry)
    old = sample(0.0, [histogram])
    histogram.observe(60.0)
    assert quantile(old, sample(1.0, [histogram]), "x", 0.5) == 2.0


async def test_counters_begin_at_zero(client: httpx.AsyncClient) -> None:
    """Counters of dead letters, failed commits and outcomes start at zero, so that Prometheus' increase() sees the
    first one.
    """
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    labels = {one.name: [next(iter(s.labels.values()), "") for s in one.samples] for one in families}
    assert {"delivered", "expired"} <= set(labels["asm_bridge_injection_outcomes"])
    assert {"ok", "failed"} <= set(labels["asm_bridge_commits"])
    assert {"refused", "malformed_event"} <= set(labels["asm_bridge_dead_letters"])
    assert all(name.startswith("asm_bridge_") for name in labels)


def test_told_counts_outcomes() -> None:
    """An injection's outcome is counted when it is emitted."""
    before = METRICS.outcomes.labels("expired")._value.get()
    step = Step(AgentState(agent_id="a", stream_id="s"), 0.0)
    step.emit(
        InjectionCompleted,
        injection_id="i", source=None, entry="0/1", outcome="expired", received_at=step.at, completed_at=step.at,
    )  # fmt: skip
    METRICS.record_step(step)
    assert METRICS.outcomes.labels("expired")._value.get() == before + 1


async def status_command(*arguments: str) -> tuple[int | None, str, str]:
    """Exit code, standard output and error of ``asm-bridge status``."""
    command = (sys.executable, "-m", "bridge", "status", *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, cwd=ROOT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, out.decode(), err.decode()


async def test_status_command(pictured: Pictured) -> None:
    """`asm-bridge status` shows a running bridge, its problems and what to do; --json is for programs."""
    fail(pictured.homes[0][0])
    async with served(pictured) as url:
        code, out, _ = await status_command("--url", url)
        assert code == 0
        assert out.startswith("ready")
        assert "1 of 20 agents are sick (1 unauthorized): replace the token" in out
        code, out, _ = await status_command("--url", url, "--json")
    assert (code, msgspec.json.decode(out)["agents"]["total"]) == (0, 20)


async def test_status_command_where_not_ready(pictured: Pictured) -> None:
    """`asm-bridge status` exits with 1 and the reason if the bridge is not ready."""
    pictured.reason = "owns no partition: there are more processes than partitions"
    async with served(pictured) as url:
        code, out, _ = await status_command("--url", url)
    assert code == 1
    assert "NOT READY: owns no partition: there are more processes than partitions" in out


async def test_status_command_without_a_bridge() -> None:
    """`asm-bridge status` exits with 1 and what to do if nothing, or another program, answers."""
    code, _, err = await status_command("--ops.listen", f"127.0.0.1:{free_port()}")
    assert code == 1
    assert "check that `asm-bridge run` is running" in err
    async with served(Pictured()) as url:
        code, _, err = await status_command("--url", f"{url}/elsewhere")
    assert code == 1
    assert "is not a bridge of this release" in err


@pytest.mark.parametrize("answer", [{"ready": True}, {"ready": True, "process": "p", "notices": [1]}, [], "ready"])
async def test_status_command_with_another_release(answer: Any) -> None:
    """`asm-bridge status` prints one text, not half a status or a traceback, if what answers has other fields."""

    listener = listen("127.0.0.1", 0)
    async with answering(listener, JSONResponse(answer)):
        code, out, err = await status_command("--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert (code, out) == (1, "")
    assert "is not a bridge of this release" in err
    assert len(err.splitlines()) == 1


def test_records_are_counted_by_the_topics_that_have_them() -> None:
    """The states' topic has no records of a stream, and so no series that stays at zero for good."""
    (family,) = Metrics().records.collect()
    topics = {sample.labels["topic"] for sample in family.samples}
    assert topics == set(TOPICS.values()) - {"agent-state"}
