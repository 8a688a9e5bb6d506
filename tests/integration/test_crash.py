"""The bridge is killed and restarted during its work, and its promises are checked record by record."""

import asyncio
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import OUTPUT, read_topics
from tests.support.chaos.harness import Lab, lab
from tests.support.chaos.traffic import end, inject_for

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

# The acceptance run: CRASH_AGENTS=200 CRASH_KILLS=4 CRASH_EVENTS=600 CRASH_SECONDS=120.
AGENTS = int(os.environ.get("CRASH_AGENTS", "40"))
KILLS = int(os.environ.get("CRASH_KILLS", "3"))
EVENTS = int(os.environ.get("CRASH_EVENTS", "120"))
SECONDS = float(os.environ.get("CRASH_SECONDS", "15"))
INTERVAL = 1.0


async def kill_now_and_then(the_lab: Lab, kills: int, seconds: float, rng: random.Random) -> None:
    """Kills the bridge with ``kill -9`` at random times, and restarts it at once."""
    for _ in range(kills):
        await asyncio.sleep(seconds / kills * (0.5 + rng.random() / 2))
        the_lab.kill()
        await the_lab.bridge()


@pytest.mark.timeout(240 + SECONDS * 3)
async def test_nothing_is_lost_or_contradicted_by_kill_9(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Whenever ``run`` is killed, sequences are complete, statuses chain, and every event has exactly one outcome."""
    rng = random.Random(7)
    simulator = ["--sessions", str(AGENTS), "--change-rate", "0.5", "--seed", "7"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *simulator) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all(interval=INTERVAL, get_conversations=True, conversations_interval=0.5)
        await asyncio.gather(
            inject_for(the_lab, agents, EVENTS, SECONDS, rng), kill_now_and_then(the_lab, KILLS, SECONDS, rng)
        )
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(facts)
    outcomes = Counter(t.record["outcome"] for t in facts.told if t.record["type"] == "InjectionCompleted")
    assert outcomes["delivered"] >= EVENTS
    assert outcomes.keys() <= {"delivered", "duplicate"}
    assert sum(len(view) for view in facts.streams.values()) > 5 * AGENTS


async def test_a_takeover_writes_only_what_is_new(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A takeover does not write the states of unchanged agents again, so thousands of agents are polled soon."""
    simulator = ["--sessions", "20", "--change-rate", "0", "--no-logouts"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *simulator) as one:
        await one.bridge()
        agents = await one.register_all(interval=4)  # lost only after 12 s
        await one.sim.settle(agents)
        await asyncio.sleep(1)
        one.kill()
        topics = [topic for topic in OUTPUT if topic != "heartbeats"]
        before = set(await read_topics(broker.bootstrap_servers, topics_prefix, topics))
        await one.bridge()
        await one.sim.settle(agents)
        assert set(await read_topics(broker.bootstrap_servers, topics_prefix, topics)) == before


async def test_a_clean_restart_sends_nothing_twice(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Three restarts by SIGTERM during injections exit with 0, send no event again, and lose nothing that was shown."""
    rng = random.Random(8)
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "20", "--seed", "8") as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all(interval=0.5)
        injecting = asyncio.create_task(inject_for(the_lab, agents, 60, 9, rng))
        for _ in range(3):
            await asyncio.sleep(0.5 + rng.random())
            assert await the_lab.bridges["bridge"].stop() == 0
            await the_lab.bridge()
        await injecting
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(facts)
    assert len(facts.taken) == len({str(event["event"]) for event in facts.taken})
    repeated = [t.record for t in facts.told if t.record.get("possibly_repeated")]
    assert repeated == []
