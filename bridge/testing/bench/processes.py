"""The processes of a measurement: the target and the client, each on its cores, which end with the block."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import httpx

from bridge.ops.http import free_port
from bridge.testing.bench.machine import pinned
from bridge.testing.bench.scenarios import Scenario
from bridge.testing.brokers.process import ends_with_us

_START = 10.0
_STOP = 30.0


class MeasurementError(Exception):
    """A client or the target failed; the text has its last output."""


@asynccontextmanager
async def running(
    command: Sequence[str], log: Path, cores: set[int] | None = None, environment: Mapping[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process, ended by SIGTERM, or by SIGKILL if that takes longer than 30 s."""
    with log.open("ab") as output, pinned(cores):
        process = _popen(command, output, environment)
    with ends_with_us(process.pid):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, _STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _popen(command: Sequence[str], output: IO[bytes], environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)


class Target:
    """The running service: ``base_url`` for clients, and its statistics."""

    def __init__(self, listen: str, base_url: str, ca_file: Path | None) -> None:
        self.base_url = base_url
        self.ca_file = ca_file
        self._http = httpx.AsyncClient(base_url=f"http://{listen}", timeout=10, trust_env=False)

    async def stats(self, reset: bool = False) -> dict[str, Any]:
        """See ``bridge.testing.bench.target.Service.stats``; ``reset``: and start again. Raises
        ``MeasurementError``.
        """
        try:
            answer = await self._http.get("/stats", params={"reset": "1"} if reset else None)
        except httpx.TransportError as error:
            raise MeasurementError(f"the target does not answer: {error!r}") from error
        seen: dict[str, Any] = answer.json()
        return seen

    async def seen(self, sessions: int, client: subprocess.Popen[bytes], deadline: float) -> bool:
        """Waits until all sessions were polled since the last reset; False if they were not in time.

        Raises ``MeasurementError`` if the client ends, or polls nothing.
        """
        end = time.monotonic() + deadline
        while True:
            count = (await self.stats())["sessions_seen"]
            if count >= sessions:
                return True
            if client.poll() is not None or (count == 0 and time.monotonic() > end):
                raise MeasurementError("it has ended" if client.poll() is not None else "it polled nothing in time")
            if time.monotonic() > end:
                return False
            await asyncio.sleep(0.02)

    async def answering(self) -> None:
        end = time.monotonic() + _START
        while True:
            with contextlib.suppress(MeasurementError):
                await self.stats()
                return
            if time.monotonic() > end:
                raise MeasurementError("the target did not start")
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def target(scenario: Scenario, directory: Path, go: Path | None = None) -> AsyncIterator[Target]:
    """The service in Python over plain HTTP/1.1; with the program ``go`` the one in Go, over TLS and HTTP/2."""
    listen, secure = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    given = ["--listen", listen, "--change", str(scenario.change), "--latency", str(scenario.latency)]
    command = [sys.executable, "-m", "bridge.testing.bench.target", *given, "--queue", str(scenario.queue)]
    service = Target(listen, f"http://{listen}", None)
    if go is not None:
        service = Target(listen, f"https://{secure}", directory / "ca.pem")
        command = [str(go), *given, "--tls", secure, "--ca", str(directory / "ca.pem")]
    async with running(command, directory / "target.log"):
        try:
            await service.answering()
            yield service
        finally:
            await service.close()


def said(log: Path, characters: int = 400) -> str:
    """The end of a log, in one line."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return " | ".join(text[-characters:].splitlines())
