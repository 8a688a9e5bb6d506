"""`run --workers N`: decisions about the workers, and what is reported of them."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import SecretStr
from structlog.testing import capture_logs

from bridge import supervisor as module
from bridge.cli import main
from bridge.ops.workers import STARTING, application, merged, metrics_of, not_alive, not_ready
from bridge.settings import OpsSettings
from bridge.supervisor import Supervisor, is_permanent, restart_delay, worker_command
from bridge.telemetry.metrics import METRICS
from tests.support.ops import Pictured, served


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("ASM_BRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def exposed(polls: int) -> str:
    """The metrics of a worker, in Prometheus' text form."""
    registry = CollectorRegistry()
    Counter("asm_bridge_polls", "Requests", ["result"], registry=registry).labels('o"k\n').inc(polls)
    Gauge("asm_bridge_agents", "Agents", registry=registry).set(2)
    Histogram("asm_bridge_poll_seconds", "Time", registry=registry, buckets=(1, 2)).observe(1.5)
    return generate_latest(registry).decode()


def shown(texts: dict[int, str]) -> list[str]:
    class Families:
        def collect(self) -> list[object]:
            return list(merged(texts))

    return generate_latest(Families()).decode().splitlines()  # type: ignore[arg-type]


def test_the_metrics_of_all_workers_are_shown_once_a_family() -> None:
    """Each metric family has one HELP and TYPE, and each sample has its worker, its own labels and its value."""
    lines = shown({0: exposed(3), 1: exposed(4)})
    heads = [line for line in exposed(1).splitlines() if line.startswith("#")]
    assert [line for line in lines if line.startswith("#")] == heads
    assert 'asm_bridge_polls_total{result="o\\"k\\n",worker="0"} 3.0' in lines
    assert 'asm_bridge_polls_total{result="o\\"k\\n",worker="1"} 4.0' in lines
    assert 'asm_bridge_poll_seconds_bucket{le="2.0",worker="1"} 1.0' in lines
    assert 'asm_bridge_agents{worker="0"} 2.0' in lines


def test_nothing_of_the_bridges_own_metrics_is_lost() -> None:
    """The merged endpoint has every line of a worker, with the worker's label."""
    METRICS.polls.labels("ok").inc()
    text = generate_latest(METRICS.registry).decode()
    lines = shown({0: text})
    assert len(lines) == len(text.splitlines())
    assert {line.replace(',worker="0"', "").replace('{worker="0"}', "") for line in lines} == set(text.splitlines())


def test_a_worker_inherits_all_but_what_must_differ() -> None:
    """A worker is started like its parent, except for its number, ops endpoint and instance id."""
    given = ["run", "--config", "x.toml", "--workers", "3", "--ops.listen=0.0.0.0:80"]
    command = worker_command(given, 2, 4711, "node-a")
    assert command[1 : 3 + len(given)] == ["-m", "bridge", *given]
    assert command[3 + len(given) :] == [
        *("--workers", "1", "--worker", "2", "--ops.listen", "127.0.0.1:4711"),
        *("--kafka.group_instance_id", "node-a-2"),
    ]
    assert "--kafka.group_instance_id" not in worker_command(given, 2, 4711, None)


@pytest.mark.parametrize(
    ("code", "was_ready", "failures", "expected"),
    [
        (2, True, 1, True),
        (2, False, 1, True),
        (1, False, 1, False),
        (1, False, 3, True),
        (1, True, 9, False),
        (-9, False, 9, False),
        (0, False, 0, False),
    ],
)
def test_when_all_end_with_a_worker(code: int, was_ready: bool, failures: int, expected: bool) -> None:
    """A worker with wrong settings, or one that fails repeatedly and was never ready, ends all; any other
    is restarted.
    """
    assert is_permanent(code, was_ready, failures) is expected


def test_a_worker_is_started_again_soon_and_never_in_a_rush() -> None:
    """A worker is restarted at once after a clean end, soon after a failure, and at most every 5 s after many."""
    delays = [restart_delay(failures) for failures in range(100)]
    assert delays[0] == 0
    assert delays[1] <= 0.5
    assert delays == sorted(delays)
    assert delays[-1] == 5


async def test_workers_that_do_not_run_are_told() -> None:
    """A worker without a process is reported by number as neither alive nor ready."""
    supervisor = Supervisor(2, ["run"], None, 1)
    async with supervisor.client:
        answers = await supervisor.get_all("healthz")
    assert list(not_alive(answers)) == [0, 1]
    assert set(not_ready(answers).values()) == {"not running; it will be restarted"}
    assert b"asm_bridge_workers_alive 0.0" in metrics_of(answers, supervisor.restarts())


def test_a_worker_that_starts_is_alive() -> None:
    """A worker without an answer since its start is not ready, but alive, so that the others are not restarted."""
    answers = {0: (200, "ok"), 1: (0, STARTING), 2: (0, "does not answer"), 3: (503, "no success for 301 s")}
    assert list(not_ready(answers)) == [1, 2, 3]
    assert list(not_alive(answers)) == [2, 3]


WORKER = """
import http.server, os, sys, threading

class Healthz(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(503 if os.path.exists("failing") else 200)
        self.end_headers()
        self.wfile.write(b"no success for 301 s: Kafka cannot be reached")
    log_message = print

server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthz)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
"""A worker with the verdict of the file ``failing``, which ends when its supervisor closes its standard input."""


@asynccontextmanager
async def supervised(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Supervisor, list[Any]]]:
    """A supervisor of one ``WORKER`` that has answered, and its log. It looks often."""
    monkeypatch.setattr(module, "_PROBE_INTERVAL", 0.05)
    monkeypatch.setattr(module, "_REQUEST_TIMEOUT", 0.5)
    monkeypatch.setattr(module, "worker_command", lambda _a, _n, port, _i: [sys.executable, "-c", WORKER, str(port)])
    supervisor, stop = Supervisor(1, ["run"], None, 20), asyncio.Event()
    with capture_logs() as logged:
        async with supervisor.client:
            running = asyncio.create_task(supervisor.run(stop))
            await until(lambda: supervisor.workers[0].answered)
            yield supervisor, logged
            stop.set()
            assert await running == 0


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def said(logged: list[Any], event: str) -> list[dict[str, Any]]:
    return [line for line in logged if line["event"] == event]


async def test_a_worker_that_hangs_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that answers none of several requests is killed and restarted with back-off, and the log says why
    once."""
    async with supervised(monkeypatch) as (supervisor, logged):
        (worker,) = supervisor.workers
        assert worker.process is not None
        os.kill(worker.process.pid, signal.SIGSTOP)
        await until(lambda: worker.restarts == 1 and worker.answered)
        (why,) = said(logged, "worker.unhealthy")
        assert why["reason"] == "no answer to 6 requests in a row"
        (ended,) = said(logged, "worker.ended")
        assert ended["exit_code"] == -signal.SIGKILL
        assert ended["again_in"] > 0
        assert not said(logged, "worker.killed")


async def test_a_worker_that_says_it_should_be_restarted_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker whose /healthz fails drains, and is restarted with back-off; the log has its reason once."""
    async with supervised(monkeypatch) as (supervisor, logged):
        (worker,) = supervisor.workers
        (tmp_path / "failing").touch()
        await until(lambda: said(logged, "worker.ended"))
        (tmp_path / "failing").unlink()
        await until(lambda: worker.restarts == 1 and worker.answered)
        (why,) = said(logged, "worker.unhealthy")
        assert why["reason"] == "no success for 301 s: Kafka cannot be reached"
        (ended,) = said(logged, "worker.ended")
        assert ended["exit_code"] == 0
        assert ended["again_in"] > 0


async def test_a_worker_that_is_late_now_and_then_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only requests in a row without an answer count, and a worker that is starting has four times as many."""
    monkeypatch.setattr(module, "_PROBE_INTERVAL", 0)
    supervisor = Supervisor(1, ["run"], None, 1)
    (worker,) = supervisor.workers
    silent, good, failing = (0, "does not answer"), (200, "ok"), (503, "no success for 301 s")
    for answered, answers in (
        (False, [silent] * 23 + [good] + [failing]),
        (True, ([silent] * 5 + [good]) * 3 + [failing]),
        (True, [silent] * 6),
        (False, [silent] * 24),
    ):
        worker.answered, left = answered, list(answers)
        monkeypatch.setattr(supervisor, "get", AsyncMock(side_effect=lambda *_, left=left: left.pop(0)))
        assert await supervisor._until_unhealthy(worker) is (answers[-1] == failing)
        assert left == []
    await supervisor.client.aclose()


async def test_the_merged_endpoint_requires_the_token_and_has_it() -> None:
    """With ops.token the supervisor reads its workers' endpoints with it, and its own endpoint requires it, too."""
    ops = OpsSettings(token=SecretStr("ops-t0ken"))
    supervisor = Supervisor(1, ["run"], None, 1, ops.authorization())
    async with served(Pictured(3), ops) as url, supervisor.client:
        worker, running = supervisor.workers[0], Mock()
        worker.process, worker.port = running, int(url.rpartition(":")[2])
        transport = httpx.ASGITransport(application(supervisor.get_all, supervisor.restarts, ops))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.get("/metrics")).status_code == 401
            assert (await client.get("/readyz")).status_code == 200
            metrics = await client.get("/metrics", headers=ops.authorization())
            assert 'asm_bridge_registered_agents{worker="0"} 3.0' in metrics.text
            strange = {"host": "evil.example"}
            assert (await client.get("/metrics", headers=strange)).status_code == 401


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--workers", "9"), "--workers 9: topics.partitions is 8"),
        (("--workers", "3", "--topics.partitions", "2"), "--workers 3: topics.partitions is 2"),
        (("--workers", "2", "--kafka.delivery", "at_least_once"), "at_least_once works with one process only"),
    ],
)
def test_workers_that_could_not_work_are_refused(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """More workers than partitions, or several where one process must be alone, are refused as wrong usage before any
    starts.
    """
    with pytest.raises(SystemExit) as exit_:
        main(["run", *arguments])
    assert exit_.value.code == 2
    assert told in capsys.readouterr().err


def test_a_wrong_sessions_file_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong entry of sessions_file is reported before any worker starts; the exit code is 2."""
    Path("s.toml").write_text('[[sessions]]\nagent_id = "a"\ntoken = "eyJsecret"\n')
    with pytest.raises(SystemExit) as exit_:
        main(["run", "--workers", "2", "--sessions_file", "s.toml"])
    assert exit_.value.code == 2
    assert "literal token is refused" in capsys.readouterr().err
