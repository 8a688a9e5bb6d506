"""The whole bridge, with Kafka behind it, polling through real gateways that limit, reload and restart; judged by its
records."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.testing.brokers import Broker
from bridge.testing.simulator.middle import MARK
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import Lab, simulated
from tests.support.gateways import GATEWAYS, Envoy, Gateway, HAProxy, Limits, Nginx, placed

AGENTS = 24
LARGE = 6000
LIMITS: dict[type[Gateway], Limits] = {
    Nginx: Limits(requests=10, idle=1, body=LARGE, gzip=True),
    HAProxy: Limits(idle=1, streams=1),
    Envoy: Limits(requests=10, idle=1, streams=1),
}
"""What each is set to, but for those that have none of it."""

pytestmark = [pytest.mark.kafka, pytest.mark.transactions, pytest.mark.timeout(180)]


@asynccontextmanager
async def behind(
    kind: type[Gateway], broker: Broker, prefix: str, directory: Path, authority: Path
) -> AsyncIterator[tuple[Lab, Gateway]]:
    """A bridge that polls all agents through a gateway of this kind."""
    if kind.path() is None:
        pytest.skip(f"{kind.program} is not on this machine: {kind.install}")
    arguments = ("--sessions", str(AGENTS), "--change-rate", "0.5", "--latency", "10", "--no-logouts")
    async with simulated(directory, *arguments) as sim:
        with placed(kind, directory, authority, sim.base_url, LIMITS.get(kind, Limits(idle=1))) as gateway:
            await gateway.start()
            lab = Lab(broker.bootstrap_servers, prefix, directory, gateway.url, sim)
            await lab.open()
            try:
                await lab.bridge(
                    ASM__CA_FILE=str(authority / "ca.pem"), ASM__REQUEST_TIMEOUT="3s", POLL__INTERVAL="0.3s"
                )
                await lab.register_all()
                yield lab, gateway
            finally:
                await lab.close()


async def polls(lab: Lab) -> Counter[str]:
    """The number of polls so far, by result."""
    _, text = await lab.ask("bridge", "metrics")
    found = re.findall(r'^asm_bridge_polls_total\{result="(\w+)"\} ([\d.e+]+)$', text, re.MULTILINE)
    return Counter({result: int(float(number)) for result, number in found})


async def inject_for(lab: Lab, seconds: float, first: int) -> None:
    """Sends ten events per second, for every agent in turn."""
    for number in range(int(seconds * 10)):
        await lab.inject(f"agent-{number % AGENTS}", str(first + number))
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", GATEWAYS, ids=lambda kind: kind.program)
async def test_a_gateways_limits_reload_and_restart_leave_no_trace(
    broker: Broker, topics_prefix: str, tmp_path: Path, authority: Path, kind: type[Gateway]
) -> None:
    """A gateway's limits and reloads fail no poll, its restart loses no event, and an event too large for it costs only
    itself.
    """
    async with behind(kind, broker, topics_prefix, tmp_path, authority) as (lab, gateway):
        injecting = asyncio.create_task(inject_for(lab, 12, 1000))
        await asyncio.sleep(4)
        if kind is not Envoy:
            for _ in range(3):
                await gateway.reload()
                await asyncio.sleep(1)
        failed = {result: number for result, number in (await polls(lab)).items() if result != "ok" and number}
        assert failed == {}

        lab.killed = True  # an answer that was on its way when the gateway ended need not be told
        await gateway.restart()
        await injecting
        large = []
        if gateway.limits.body:
            large = [
                await lab.inject("agent-3", str(90 + number), conversation={"customer_name": "x" * size, **disliked})
                for number, (size, disliked) in enumerate(((10, {}), (LARGE, {"reference_id": MARK}), (10, {})))
            ]
        await lab.completed()
        await lab.sim.settle([f"agent-{number}" for number in range(AGENTS)])
        assert await lab.bridges["bridge"].stop() == 0
        facts = await lab.facts()
        assert_kept(facts)
        outcomes = {record["entry"]: record for _, record in facts.told if record["type"] == "InjectionCompleted"}
        culprit = large[1].entry if large else None
        other = {entry: one["outcome"] for entry, one in outcomes.items() if one["outcome"] != "delivered"}
        assert other.keys() == ({culprit} if culprit else set()), other
        if culprit:
            assert (other[culprit] in ("rejected", "undeliverable"), outcomes[culprit]["http_status"]) == (True, 413)
