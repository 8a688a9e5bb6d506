"""``run --workers N``: a parent that keeps N processes of the bridge running, and one ops endpoint for them all.

A worker stops when its standard input ends: the parent closes it to let the worker drain, and the kernel does so if the
parent is killed. So a worker hears of the end exactly once, and outlives its parent only to drain. It is in a session
of its own, where a terminal's Ctrl-C does not reach it.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import httpx
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bridge.ops.http import answering, free_port, listen
from bridge.signals import stop_on_signals

log = structlog.get_logger()

_ANSWER_WITHIN = 2.0
_LOOK_EVERY = 0.2
_SLOWEST_RESTART = 5.0
_SOUND_AFTER = 30.0
"""Seconds after which the end of a worker is a first failure again."""
_TRIES = 3
"""So many times a worker may fail that has never been ready."""
_GRACE = 10.0
"""Seconds beyond the drain time-out until a worker is killed."""
_WRONG_SETTINGS = 2


@dataclass(slots=True)
class WorkerProcess:
    """A worker: its process (None while it does not run) and the port of its own ops endpoint. ``answered`` counts from
    its last start, ``was_ready`` and ``restarts`` from ours."""

    number: int
    process: Process | None = None
    port: int = 0
    answered: bool = False
    was_ready: bool = False
    restarts: int = 0


def run(count: int, arguments: Sequence[str], *, ops: tuple[str, int], instance: str | None, drain: float) -> int:
    """Keep ``count`` workers running until SIGINT or SIGTERM; returns the exit code.

    ``arguments`` are those of our own ``run``, ``ops`` is where to listen, ``instance`` the workers' common part of
    kafka.group_instance_id, ``drain`` the seconds that a worker may take to stop.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell each look at a worker
    return asyncio.run(_run(Supervisor(count, arguments, instance, drain + _GRACE), ops))


async def _run(workers: "Supervisor", ops: tuple[str, int]) -> int:
    host, port = ops
    try:
        listener = listen(host, port)
    except OSError as error:
        log.error("run.failed", error=f"cannot listen on ops.listen {host}:{port}: {error.strerror}. Set another one")  # noqa: TRY400 - the text says it all
        return 1
    stop = stop_on_signals(workers.kill)
    async with workers.client, answering(listener, application(workers)):
        log.info("ops.listening", address=f"{host}:{port}", workers=len(workers.children))
        code = await workers.run(stop)
    log.info("run.stopped")
    return code


class Supervisor:
    """The children, kept running."""

    def __init__(self, count: int, arguments: Sequence[str], instance: str | None, patience: float) -> None:
        self.children = [WorkerProcess(number) for number in range(count)]
        self.client = httpx.AsyncClient(timeout=_ANSWER_WITHIN, trust_env=False)
        self._arguments = arguments
        self._instance = instance
        self._patience = patience

    @property
    def alive(self) -> int:
        """How many run."""
        return sum(child.process is not None for child in self.children)

    async def run(self, stop: asyncio.Event) -> int:
        """Until ``stop``, which is also set here when a worker cannot work at all. Returns the exit code."""
        async with asyncio.TaskGroup() as tasks:
            kept = [tasks.create_task(self._keep(child, stop)) for child in self.children]
            await stop.wait()
            log.info("run.draining", workers=self.alive)
        return max(task.result() for task in kept)

    def kill(self) -> None:
        for child in self.children:
            if child.process is not None:
                child.process.kill()

    async def _keep(self, child: WorkerProcess, stop: asyncio.Event) -> int:
        """Have the worker run, again whenever it ends. Returns 0, or the exit code of one that cannot work."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while not stop.is_set():
            began = clock()
            code = await self._live(child, stop)
            if stop.is_set():
                return 0 if code in (0, -signal.SIGTERM, -signal.SIGUSR1) else 1
            failures = (failures if clock() - began < _SOUND_AFTER else 0) + (code != 0)
            if is_permanent(code, child.was_ready, failures):
                log.error("worker.failed", worker=child.number, exit_code=code, note="see what it said; all end")
                stop.set()
                return code
            delay = restart_delay(failures)
            log.warning("worker.ended", worker=child.number, exit_code=code, again_in=delay)
            child.restarts += 1
            await _fires(stop, delay)
        return 0

    async def _live(self, child: WorkerProcess, stop: asyncio.Event) -> int:
        """One life of a worker. Returns its exit code (a signal's as a negative number)."""
        child.port, child.answered = free_port(), False
        command = worker_command(self._arguments, child.number, child.port, self._instance)
        process = child.process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, start_new_session=True)
        log.info("worker.started", worker=child.number, pid=process.pid)
        ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
        watch = asyncio.create_task(self._until_ready(child))
        try:
            await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._drain(child.number, process, ended)
            return await ended
        finally:
            child.process = None
            stopped.cancel()
            watch.cancel()

    async def _drain(self, number: int, process: Process, ended: "asyncio.Task[int]") -> None:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait([ended], timeout=self._patience)
        if not ended.done():
            log.error("worker.killed", worker=number, note=f"it has not stopped within {self._patience:g} s")
            process.kill()

    async def _until_ready(self, child: WorkerProcess) -> None:
        while True:
            status, _ = await self.ask(child, "readyz")
            if status == httpx.codes.OK:
                child.was_ready = True
                log.info("worker.ready", worker=child.number)
                return
            await asyncio.sleep(_LOOK_EVERY)

    # -- what the endpoints tell

    async def ask(self, child: WorkerProcess, path: str) -> tuple[int, str]:
        """Status and text of a worker's own endpoint; 0 and the reason if it does not answer."""
        if child.process is None:
            return 0, "does not run; it is started again"
        try:
            answer = await self.client.get(f"http://127.0.0.1:{child.port}/{path}")
        except httpx.HTTPError:
            return 0, "does not answer" if child.answered else "is starting"
        child.answered = True
        return answer.status_code, answer.text.strip()

    async def ask_all(self, path: str) -> dict[int, tuple[int, str]]:
        """The same of all workers, by number."""
        answers = await asyncio.gather(*(self.ask(child, path) for child in self.children))
        return dict(enumerate(answers))

    async def sick(self) -> dict[int, str]:
        """Which workers are not alive, and why. One that has just been started may take its time to answer."""
        answers = await self.ask_all("healthz")
        return {
            child.number: text
            for child, (status, text) in zip(self.children, answers.values(), strict=True)
            if status != httpx.codes.OK and (child.process is None or child.answered)
        }

    async def unready(self) -> dict[int, str]:
        """Which workers do not do their work, and why."""
        answers = await self.ask_all("readyz")
        return {number: text for number, (status, text) in answers.items() if status != httpx.codes.OK}

    async def metrics(self) -> bytes:
        answers = await self.ask_all("metrics")
        texts = {number: text for number, (status, text) in answers.items() if status == httpx.codes.OK}
        alive = GaugeMetricFamily("asm_bridge_workers_alive", "Worker processes that run and answer", len(texts))
        restarts = CounterMetricFamily(
            "asm_bridge_worker_restarts", "Times a worker was started again", labels=["worker"]
        )
        for child in self.children:
            restarts.add_metric([str(child.number)], child.restarts)
        return generate_latest(_Families([*merged(texts), alive, restarts]))


def application(workers: Supervisor) -> Starlette:
    """The merged endpoint: all must be alive, all must be ready, the metrics of all."""

    def told(reasons: Mapping[int, str], good: str) -> Response:
        lines = [f"worker {number}: {reason}" for number, reason in reasons.items()] or [good]
        return PlainTextResponse("\n".join(lines) + "\n", status_code=503 if reasons else 200)

    async def healthz(request: Request) -> Response:
        return told(await workers.sick(), "ok")

    async def readyz(request: Request) -> Response:
        return told(await workers.unready(), "ready")

    async def metrics(request: Request) -> Response:
        return Response(await workers.metrics(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


def worker_command(arguments: Sequence[str], number: int, port: int, instance: str | None) -> list[str]:
    """The command line of a worker: our own, with what differs at its end, where it counts. No setting is added that
    could be a secret: environment and files are the same for all."""
    own = ["--workers", "1", "--worker", str(number), "--ops.listen", f"127.0.0.1:{port}"]
    own += ["--kafka.group_instance_id", f"{instance}-{number}"] if instance else []
    return [sys.executable, "-m", "bridge", *arguments, *own]


def is_permanent(code: int, was_ready: bool, failures: int) -> bool:
    """Whether all end with a worker that ended: its settings are wrong, or it fails again and again before it works."""
    return code == _WRONG_SETTINGS or (code == 1 and not was_ready and failures >= _TRIES)


def restart_delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(_SLOWEST_RESTART, 0.25 * 2 ** min(failures - 1, 16)) if failures else 0.0


def merged(texts: Mapping[int, str]) -> list[Metric]:
    """The families of all workers' metrics, one of a name, each sample with the label ``worker``."""
    families: dict[str, Metric] = {}
    for number, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [
                sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples
            ]
    return list(families.values())


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def become_worker(number: int) -> None:
    """Make this process worker ``number``: its log says so in each line, and it drains when its standard input ends."""
    structlog.contextvars.bind_contextvars(worker=number)
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()


def _follow_parent() -> None:
    """SIGUSR1, not SIGTERM: that may have come already, from a supervisor that signals every process, and a second one
    would cut the draining off."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGUSR1)


async def _fires(event: asyncio.Event, within: float) -> None:
    try:
        async with asyncio.timeout(within):
            await event.wait()
    except TimeoutError:
        return
