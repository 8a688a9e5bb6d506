"""`run --workers N`: a parent and its workers, killed and stopped."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bridge.ops.http import free_port
from bridge.testing.brokers import Broker
from tests.support.chaos.harness import inherited, until

pytestmark = pytest.mark.transactions


class Parent:
    """`asm-bridge run --workers 2` with fresh topics, in a session of its own."""

    def __init__(self, bootstrap_servers: str, prefix: str, directory: Path) -> None:
        self.log = directory / "run.log"
        self.config = directory / "asm-bridge.toml"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._directory = directory
        self.config.write_text(
            f'drain_timeout = 10\n[kafka]\nbootstrap_servers = "{bootstrap_servers}"\ngroup_id = "{prefix}bridge"\n'
            f'group_instance_id = "{prefix}i"\n[topics]\nprefix = "{prefix}"\npartitions = 4\n'
            "[records]\nheartbeat_interval = 3600\n"  # heartbeats tell the next start how many partitions are used
            f'[ops]\nlisten = "{self.url.removeprefix("http://")}"\n[asm]\nbase_url = "http://127.0.0.1:1"\n'
        )
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bridge", "run", "--workers", "2"],
                env=inherited(),
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log lines with this event; every line must be JSON."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def pid(self, worker: int) -> int:
        """The pid of the worker's latest process."""
        return int(next(s["pid"] for s in reversed(self.said("worker.started")) if s["worker"] == worker))

    async def ask(self, path: str) -> tuple[int, str]:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            try:
                answer = await client.get(f"{self.url}/{path}")
            except httpx.TransportError:
                return 0, ""
        return answer.status_code, answer.text

    async def ready(self) -> None:
        async def is_ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            return (await self.ask("readyz"))[0] == 200

        await until(is_ready, "all workers are ready")

    async def ended(self) -> int:
        """The exit code, once the parent and all its workers have ended."""

        async def gone() -> bool:
            return self.process.poll() is not None and not any(map(runs, self.pids()))

        await until(gone, "the parent and its workers have ended")
        return self.process.wait()

    def pids(self) -> list[int]:
        return [int(line["pid"]) for line in self.said("worker.started")]

    def close(self) -> None:
        for pid in [self.process.pid, *(self.pids() if self.log.exists() else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that has ended stays a zombie where nobody reaps.
    return not subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, check=False
    ).stdout.startswith(b"Z")


@pytest.fixture
async def parent(broker: Broker, topics_prefix: str, tmp_path: Path) -> AsyncIterator[Parent]:
    parent = Parent(broker.bootstrap_servers, topics_prefix, tmp_path)
    try:
        yield parent
    finally:
        parent.close()


@pytest.mark.timeout(240)
async def test_one_endpoint_tells_of_all_workers_and_a_dead_one_comes_back(parent: Parent) -> None:
    """One endpoint reports all workers, a worker that is killed or hangs is restarted under its instance id, and a
    Ctrl-C to the parent or a signal to every process, as from systemd, drains all and exits with 0.
    """
    await parent.ready()
    assert (await parent.ask("healthz")) == (200, "ok\n")
    lines = (await parent.ask("metrics"))[1].splitlines()
    owned = [line for line in lines if line.startswith("asm_bridge_partitions_owned{")]
    assert owned == [f'asm_bridge_partitions_owned{{worker="{n}"}} 2.0' for n in (0, 1)]
    assert lines.count("# TYPE asm_bridge_polls_total counter") == 1
    assert "asm_bridge_workers_alive 2.0" in lines

    os.kill(parent.pid(0), signal.SIGSTOP)
    answers = await asyncio.gather(*map(parent.ask, ("healthz", "readyz", "metrics")))
    assert answers[0] == (503, "worker 0: does not answer\n")
    assert answers[1][0] == 503
    assert "worker 0: does not answer" in answers[1][1]
    assert "asm_bridge_workers_alive 1.0" in answers[2][1].splitlines()
    os.kill(parent.pid(1), signal.SIGKILL)

    async def restarted() -> bool:
        return len(parent.said("worker.started")) == 4 and (await parent.ask("readyz"))[0] == 200

    await until(restarted, "the killed worker and the one that hangs work again", 90)
    assert sorted((line["worker"], line["exit_code"]) for line in parent.said("worker.ended")) == [(0, -9), (1, -9)]
    assert [line["worker"] for line in parent.said("worker.unhealthy")] == [0]
    lines = (await parent.ask("metrics"))[1].splitlines()
    assert {f'asm_bridge_worker_restarts_total{{worker="{n}"}} 1.0' for n in (0, 1)} <= set(lines)

    running = [parent.pid(0), parent.pid(1)]
    assert [os.getpgid(pid) for pid in running] == running
    for pid in (*running, parent.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert await parent.ended() == 0
    assert {line.get("worker") for line in parent.said("run.stopped")} == {None, 0, 1}
    assert {line["worker"] for line in parent.said("registry.read")} == {0, 1}


async def test_workers_drain_when_their_parent_is_killed(parent: Parent) -> None:
    """`kill -9` of the parent makes each worker drain and exit."""
    await parent.ready()
    parent.process.kill()
    assert await parent.ended() == -signal.SIGKILL
    assert {line["worker"] for line in parent.said("run.stopped")} == {0, 1}


async def test_a_second_signal_ends_all_at_once(parent: Parent) -> None:
    """A second signal ends the parent and a worker that hangs while draining."""
    await parent.ready()
    os.kill(parent.pid(1), signal.SIGSTOP)
    parent.process.send_signal(signal.SIGTERM)

    async def draining() -> bool:
        return bool(parent.said("run.draining"))

    await until(draining, "the first signal is taken")
    parent.process.send_signal(signal.SIGTERM)
    assert await parent.ended() == -signal.SIGTERM
    assert 1 not in {line.get("worker") for line in parent.said("run.stopped")}


async def test_workers_that_cannot_work_end_the_parent(parent: Parent) -> None:
    """A worker with wrong settings ends all with exit code 2; one that never becomes ready, because the topics do not
    fit, with 1 and what to do in the log.
    """

    async def prepared() -> bool:
        return {line["worker"] for line in parent.said("registry.read")} == {0, 1}

    await until(prepared, "the workers have created the topics")
    sound = parent.config.read_text()
    parent.config.write_text(sound.replace("drain_timeout = 10", 'drain_timeout = "soon"'))
    os.kill(parent.pid(0), signal.SIGKILL)
    with contextlib.suppress(json.JSONDecodeError):  # what is said of wrong settings is no log line
        await parent.ended()
    assert parent.process.wait(timeout=20) == 2
    parent.log.rename(parent.log.with_name("first.log"))
    assert "drain_timeout in asm-bridge.toml: must be a duration" in parent.log.with_name("first.log").read_text()

    parent.config.write_text(sound.replace("partitions = 4", "partitions = 3"))
    parent.process = parent.start()
    assert await parent.ended() == 1
    assert {"set topics.partitions to 4" in line["error.message"] for line in parent.said("run.failed")} == {True}
