"""Connections that a firewall forgets: nothing that is sent arrives any more, and neither end hears of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.ops.http import free_port
from bridge.testing.brokers import maven
from bridge.testing.brokers.maven import MavenBroker
from tests.support.chaos.harness import lab, until

BLIND = 20.0
"""Seconds within which agents are polled again: a request is given up after 10 s, and its partition is recovered."""


class Firewall:
    """Lets connections through to a port, until it forgets those that are open."""

    def __init__(self) -> None:
        self.port = free_port()
        self._open: set[asyncio.Task[None]] = set()
        self._forgotten: list[asyncio.StreamWriter] = []
        """Kept, or they would be closed."""

    @contextlib.asynccontextmanager
    async def before(self, port: int) -> AsyncIterator["Firewall"]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner = await asyncio.open_connection("127.0.0.1", port)
            self._forgotten += [writer, inner[1]]
            for source, target in ((reader, inner[1]), (inner[0], writer)):
                copying = asyncio.create_task(self._copy(source, target))
                self._open.add(copying)
                copying.add_done_callback(self._open.discard)

        async with await asyncio.start_server(serve, "127.0.0.1", self.port):
            yield self
            self.forget()
            for writer in self._forgotten:
                writer.close()

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
            target.close()

    def forget(self) -> int:
        """Forwards nothing of the connections that are open. Returns their number."""
        for copying in self._open:
            copying.cancel()
        return len(self._open) // 2


class GuardedBroker(MavenBroker):
    """A broker with a second listener, which is behind a firewall."""

    name = "guarded"

    def __init__(self, firewall: Firewall) -> None:
        super().__init__()
        self.inner = free_port()
        self._firewall = firewall

    def properties(self, listener: str) -> dict[str, str]:
        plain = super().properties(listener)
        return plain | {
            "listeners": f"{plain['listeners']},GUARDED://127.0.0.1:{self.inner}",
            "advertised.listeners": f"{plain['advertised.listeners']},GUARDED://127.0.0.1:{self._firewall.port}",
            "listener.security.protocol.map": f"{plain['listener.security.protocol.map']},GUARDED:PLAINTEXT",
        }


async def test_agents_are_not_blind_for_long(topics_prefix: str, tmp_path: Path) -> None:
    """When every connection to Kafka is dropped without a word, all agents are polled again within 20 s."""
    if why := maven.why_not():
        pytest.skip(f"a broker with a second listener needs the maven one: {why}")
    firewall = Firewall()
    broker = GuardedBroker(firewall)
    await asyncio.to_thread(broker.start)
    try:
        async with (
            firewall.before(broker.inner),
            lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "12", "--change-rate", "1") as the_lab,
        ):
            await the_lab.bridge(KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{firewall.port}")
            agents = await the_lab.register_all(interval=0.5)
            await the_lab.sim.settle(agents, rounds=1)
            await the_lab.sim.post("thaw")
            assert firewall.forget() > 8
            began = time.monotonic()

            async def stopped() -> bool:
                return (await the_lab.ask("bridge", "readyz"))[0] != 200

            await until(stopped, "nothing is committed any more")
            await the_lab.sim.settle(agents, rounds=2)
            assert time.monotonic() - began < BLIND
            await the_lab.ready()
    finally:
        await asyncio.to_thread(broker.stop)
