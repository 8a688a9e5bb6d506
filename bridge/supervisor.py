"""``run --workers N``: a supervisor that restarts any worker that dies or is unhealthy.

A worker stops when its standard input ends: the supervisor closes it to let the worker drain, and the kernel does so if
the supervisor is killed. So a worker is stopped exactly once, and outlives its supervisor only to drain. It has its own
session, where a terminal's Ctrl-C does not reach it.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import httpx
import structlog

from bridge.ops.http import answering, cannot_listen, free_port, listen
from bridge.ops.workers import STARTING, application
from bridge.settings import OpsSettings
from bridge.signals import fires, stop_on_signals

log = structlog.get_logger()

_REQUEST_TIMEOUT = 2.0
_READINESS_INTERVAL = 0.2
_PROBE_INTERVAL = 5.0
_MISSED_PROBES = 6
_MISSED_PROBES_AT_START = 24
"""Probes in a row without an answer, after which a worker is replaced. They are counted, not timed: where the machine
stood still, the supervisor did, too."""
_LONGEST_RESTART_DELAY = 5.0
_STABLE_AFTER = 30.0
"""Seconds after which earlier failures of a worker no longer count."""
_MAX_START_FAILURES = 3
"""Failures in a row after which a worker that has never been ready is given up."""
_KILL_AFTER = 10.0
"""Seconds beyond the drain time-out after which a worker is killed."""
_WRONG_SETTINGS = 2


@dataclass(slots=True)
class WorkerProcess:
    """A worker: its process (None while it does not run) and the port of its own ops endpoint. ``answered``: since its
    last start; ``was_ready`` and ``restarts``: since the supervisor started.
    """

    number: int
    process: Process | None = None
    port: int = 0
    answered: bool = False
    was_ready: bool = False
    restarts: int = 0


def run(count: int, arguments: Sequence[str], *, ops: OpsSettings, instance: str | None, drain: float) -> int:
    """Keep ``count`` workers running until SIGINT or SIGTERM; returns the exit code.

    ``arguments`` are those of our own ``run``, ``ops`` is where to listen and for whom, ``instance`` the workers'
    common part of kafka.group_instance_id, ``drain`` the seconds that a worker may take to stop.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log each request to a worker
    return asyncio.run(_run(Supervisor(count, arguments, instance, drain + _KILL_AFTER, ops.authorization()), ops))


async def _run(supervisor: "Supervisor", ops: OpsSettings) -> int:
    try:
        listener = listen(ops.host, ops.port)
    except OSError as error:
        log.error("run.failed", error=cannot_listen(ops, error))  # noqa: TRY400 - the text says it all
        return 1
    stop = stop_on_signals(supervisor.kill)
    async with supervisor.client, answering(listener, application(supervisor.get_all, supervisor.restarts, ops)):
        log.info("ops.listening", address=ops.listen, workers=len(supervisor.workers))
        code = await supervisor.run(stop)
    log.info("run.stopped")
    return code


class Supervisor:
    """Keeps its workers running."""

    def __init__(
        self,
        count: int,
        arguments: Sequence[str],
        instance: str | None,
        stop_timeout: float,
        authorization: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.workers = [WorkerProcess(number) for number in range(count)]
        self.client = httpx.AsyncClient(timeout=_REQUEST_TIMEOUT, trust_env=False, headers=dict(authorization))
        self._arguments = arguments
        self._instance = instance
        self._stop_timeout = stop_timeout

    async def run(self, stop: asyncio.Event) -> int:
        """Runs until ``stop``, which is also set here when a worker cannot work at all. Returns the exit code."""
        async with asyncio.TaskGroup() as tasks:
            kept = [tasks.create_task(self._keep_running(worker, stop)) for worker in self.workers]
            await stop.wait()
            log.info("run.draining", workers=sum(worker.process is not None for worker in self.workers))
        return max(task.result() for task in kept)

    def kill(self) -> None:
        for worker in self.workers:
            if worker.process is not None:
                worker.process.kill()

    async def _keep_running(self, worker: WorkerProcess, stop: asyncio.Event) -> int:
        """Restarts the worker whenever it ends. Returns 0, or the exit code of one that cannot work."""
        clock = asyncio.get_running_loop().time
        failures = 0
        while not stop.is_set():
            began = clock()
            code, unhealthy = await self._run_once(worker, stop)
            if stop.is_set():
                return 0 if code in (0, -signal.SIGTERM, -signal.SIGUSR1) else 1
            failures = (failures if clock() - began < _STABLE_AFTER else 0) + (code != 0 or unhealthy)
            if is_permanent(code, worker.was_ready, failures):
                log.error("worker.failed", worker=worker.number, exit_code=code, note="see its log; all workers stop")
                stop.set()
                return code
            delay = restart_delay(failures)
            log.warning("worker.ended", worker=worker.number, exit_code=code, again_in=delay)
            worker.restarts += 1
            await fires(stop, delay)
        return 0

    async def _run_once(self, worker: WorkerProcess, stop: asyncio.Event) -> tuple[int, bool]:
        """Starts a worker, and waits until it ends, or ends it if it is unhealthy. Returns its exit code (a signal's as
        a negative number), and whether it was unhealthy."""
        worker.port, worker.answered = free_port(), False
        command = worker_command(self._arguments, worker.number, worker.port, self._instance)
        process = worker.process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, start_new_session=True)
        log.info("worker.started", worker=worker.number, pid=process.pid)
        ended, stopped = asyncio.create_task(process.wait()), asyncio.create_task(stop.wait())
        unhealthy = asyncio.create_task(self._until_unhealthy(worker))
        watch = asyncio.create_task(self._until_ready(worker))
        try:
            await asyncio.wait([ended, stopped, unhealthy], return_when=asyncio.FIRST_COMPLETED)
            is_unhealthy = unhealthy.done() and not ended.done() and not stopped.done()
            unhealthy.cancel()
            if not ended.done():
                hangs = is_unhealthy and not unhealthy.result()
                await self._drain(worker.number, process, ended, 0.0 if hangs else self._stop_timeout)
            return await ended, is_unhealthy
        finally:
            worker.process = None
            for task in (stopped, unhealthy, watch):
                task.cancel()

    async def _drain(self, number: int, process: Process, ended: "asyncio.Task[int]", timeout: float) -> None:
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait([ended], timeout=timeout)
        if not ended.done():
            if timeout:
                log.error("worker.killed", worker=number, note=f"it did not stop within {timeout:g} s")
            process.kill()

    async def _until_unhealthy(self, worker: WorkerProcess) -> bool:
        """Waits until the worker says that it should be restarted, or has not answered for long, and logs which.
        Returns whether it answers."""
        missed = 0
        while True:
            await asyncio.sleep(_PROBE_INTERVAL)
            status, reason = await self.get(worker, "healthz")
            missed = 0 if status else missed + 1
            if missed == (_MISSED_PROBES if worker.answered else _MISSED_PROBES_AT_START):
                reason = f"no answer to {missed} requests in a row"
            elif status in (0, httpx.codes.OK):
                continue
            log.error("worker.unhealthy", worker=worker.number, reason=reason)
            return status != 0

    async def _until_ready(self, worker: WorkerProcess) -> None:
        while True:
            status, _ = await self.get(worker, "readyz")
            if status == httpx.codes.OK:
                worker.was_ready = True
                log.info("worker.ready", worker=worker.number)
                return
            await asyncio.sleep(_READINESS_INTERVAL)

    # -- for the ops endpoint

    async def get(self, worker: WorkerProcess, path: str) -> tuple[int, str]:
        """Status and text of a worker's own endpoint; 0 and the reason if it does not answer."""
        if worker.process is None:
            return 0, "not running; it will be restarted"
        try:
            answer = await self.client.get(f"http://127.0.0.1:{worker.port}/{path}")
        except httpx.HTTPError:
            return 0, "does not answer" if worker.answered else STARTING
        worker.answered = True
        return answer.status_code, answer.text.strip()

    async def get_all(self, path: str) -> dict[int, tuple[int, str]]:
        """The same for all workers, by number."""
        answers = await asyncio.gather(*(self.get(worker, path) for worker in self.workers))
        return dict(enumerate(answers))

    def restarts(self) -> list[int]:
        """How often each worker was restarted."""
        return [worker.restarts for worker in self.workers]


def worker_command(arguments: Sequence[str], number: int, port: int, instance: str | None) -> list[str]:
    """The command line of a worker: the supervisor's, followed by what differs, as the last of two equal options holds.
    No setting that could be a secret is added: environment and files are the same for all."""
    own = ["--workers", "1", "--worker", str(number), "--ops.listen", f"127.0.0.1:{port}"]
    own += ["--kafka.group_instance_id", f"{instance}-{number}"] if instance else []
    return [sys.executable, "-m", "bridge", *arguments, *own]


def is_permanent(code: int, was_ready: bool, failures: int) -> bool:
    """Whether all workers stop with one that ended: its settings are wrong, or it keeps failing before it is ready."""
    return code == _WRONG_SETTINGS or (code == 1 and not was_ready and failures >= _MAX_START_FAILURES)


def restart_delay(failures: int) -> float:
    """Seconds to wait after this many failures in a row."""
    return min(_LONGEST_RESTART_DELAY, 0.25 * 2 ** min(failures - 1, 16)) if failures else 0.0


def become_worker(number: int) -> None:
    """Makes this process worker ``number``: each line of its log has the number, and it drains when its standard input
    ends.
    """
    structlog.contextvars.bind_contextvars(worker=number)
    threading.Thread(target=_wait_for_supervisor, name="supervisor", daemon=True).start()


def _wait_for_supervisor() -> None:
    """Uses SIGUSR1 instead of SIGTERM: systemd, for example, may have sent SIGTERM to every process already, and a
    second one ends a process at once.
    """
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGUSR1)
