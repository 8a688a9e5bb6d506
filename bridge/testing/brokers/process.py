"""A broker that is a child process of the test run."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bridge.ops.http import free_port
from bridge.testing.brokers.base import START_DEADLINE, Broker, BrokerUnavailableError


class ProcessBroker(Broker):
    """Runs ``command()`` in a directory of its own, ``home``; its output goes to ``home/log``."""

    def __init__(self) -> None:
        self.home = Path()
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0
        self._guard = ExitStack()

    @abstractmethod
    def prepare(self) -> None:
        """Done once, before the first start."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ready(self, said: bytes) -> bool:
        """Whether the broker serves requests; ``said`` is its output since it was started."""

    def start(self) -> str:
        self.home = Path(tempfile.mkdtemp(prefix="asm-bridge-broker-"))
        self.port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        try:
            self.prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self.bootstrap_servers

    def stop(self) -> None:
        self.kill()
        if self.home.name:
            shutil.rmtree(self.home, ignore_errors=True)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._guard.close()

    def restart(self) -> None:
        self.kill()
        self._launch()

    def pause(self) -> None:
        """Returns when the broker has stopped: on a busy machine, it still answers for a while after the signal."""
        process = self._signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # not on macOS before Python 3.13
            os.waitid(os.P_PID, process, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> int:
        if self._process is None:
            raise RuntimeError("the broker does not run")
        self._process.send_signal(number)
        return self._process.pid

    def _launch(self) -> None:
        with (self.home / "log").open("ab") as log:
            begin = self._begin = log.tell()
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home, start_new_session=True
            )
        self._guard.enter_context(ends_with_us(self._process.pid, then=f"rm -rf '{self.home}'"))
        self._wait(self._process, begin)

    def await_ready(self) -> None:
        """Waits until the broker serves requests, if ``ready`` was true too early when it was started."""
        assert self._process is not None, "it was not started"
        self._wait(self._process, self._begin)

    def _wait(self, process: subprocess.Popen[bytes], begin: int) -> None:
        deadline = time.monotonic() + START_DEADLINE
        while time.monotonic() < deadline and process.poll() is None:
            said = (self.home / "log").read_bytes()[begin:]
            if self.ready(said):
                return
            time.sleep(0.05)
        said = (self.home / "log").read_bytes()[begin:]
        state = "not ready in time" if process.poll() is None else f"ended with {process.returncode}"
        raise BrokerUnavailableError(f"{self.name}: {state}; its log ends:\n{tail(said)}")


@contextmanager
def ends_with_us(pid: int, then: str = "") -> Iterator[None]:
    """Kills process ``pid``, and runs the shell command ``then``, if our own process dies within the block."""
    script = f'read -r _ || {{ kill -9 "$0" 2>/dev/null; {then or ":"}; }}'
    guard = subprocess.Popen(["/bin/sh", "-c", script, str(pid)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def tail(said: bytes, lines: int = 20) -> str:
    return "\n".join(said.decode(errors="replace").splitlines()[-lines:])
