"""Every long-running command handles signals in the same way."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, signal
from bridge.signals import stop_on_signals

async def main():
    stop = stop_on_signals(lambda: print("ending", flush=True))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, stop.set)
    print("running", flush=True)
    await stop.wait()
    print("draining", flush=True)
    await asyncio.sleep({drain})

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    """The first SIGINT or SIGTERM lets the program finish, with exit code 0."""
    assert run(number, drain=0) == (["draining"], 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    """The second signal ends a program that is still draining, after its final step."""
    assert run(number, number, drain=60) == (["draining", "ending"], -number)


def test_a_signal_to_a_program_that_stops_anyway_is_its_first() -> None:
    """A worker whose supervisor has ended drains on, although systemd then sends SIGTERM to it, too."""
    assert run(signal.SIGUSR1, drain=1, then=signal.SIGTERM) == (["draining"], 0)


def run(*numbers: signal.Signals, drain: float, then: signal.Signals | None = None) -> tuple[list[str], int]:
    """Returns the program's output after the signals, each sent after the next line, and its exit code. ``then``: a
    signal after the last line."""
    lines = []
    command = [sys.executable, "-c", PROGRAM.format(drain=drain)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "running\n"
            for number in numbers:
                process.send_signal(number)
                lines.append(process.stdout.readline().strip())
            if then:
                process.send_signal(then)
            return lines, process.wait(10)
        finally:
            process.kill()
