"""Outages of Kafka and of the service, of several kinds, and the recovery from each."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from confluent_kafka import Message, Producer

from bridge.agents.health import QUICK_TRIES
from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Produced
from tests.support.chaos.faults import Trial, new_tokens
from tests.support.chaos.harness import PARTITIONS, TOKENS, Lab, lab, until
from tests.support.patience import patient

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

OUTAGE = float(os.environ.get("OUTAGE_SECONDS", "20"))
"""The acceptance run: 60."""
AGENTS = 30
INTERVAL = 0.5
MARKERS = count(9_007_199_254_740_993)


@pytest.mark.timeout(180 + OUTAGE)
async def test_a_dead_broker_is_waited_for(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """While Kafka is down nothing is polled, readyz says why, and memory does not grow; afterwards the bridge resumes
    and emits the service's latest state.
    """
    simulator = ["--sessions", "60", "--change-rate", "1", "--no-logouts"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *simulator) as the_lab:
        bridge = await the_lab.bridge()
        agents = await the_lab.register_all(interval=INTERVAL)
        await asyncio.gather(*(the_lab.inject(agent_id, str(next(MARKERS))) for agent_id in agents))
        await the_lab.completed()
        the_lab.killed = True  # what came and went during the outage
        before = _rss(bridge.process.pid)
        await asyncio.to_thread(broker.kill)
        try:
            await asyncio.sleep(OUTAGE / 2)
            asked = (await the_lab.sim.get("stats"))["requests"]
            assert (await the_lab.ask("bridge", "readyz"))[0] == 503
            assert (await the_lab.ask("bridge", "healthz"))[0] == 200
            await asyncio.sleep(OUTAGE / 2)
            assert (await the_lab.sim.get("stats"))["requests"] == asked
        finally:
            await asyncio.to_thread(broker.restart)
        await the_lab.ready()
        await asyncio.gather(*(the_lab.inject(agent_id, str(next(MARKERS))) for agent_id in agents))
        await the_lab.completed()
        await the_lab.sim.settle(agents)
        assert _rss(bridge.process.pid) - before < 50 * 1024
        assert await bridge.stop() == 0
        assert_kept(await the_lab.facts())


def _rss(pid: int) -> int:
    """The resident memory of a process in KiB."""
    return int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)]))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def trial(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trial]:
    """A bridge whose service can be made to fail."""
    prefix, directory = f"t{os.urandom(4).hex()}.", tmp_path_factory.mktemp("outages")
    simulator = ["--sessions", str(AGENTS), "--change-rate", "0.2", "--no-logouts"]
    async with lab(broker.bootstrap_servers, prefix, directory, *simulator) as the_lab:
        await the_lab.bridge(ASM__REQUEST_TIMEOUT="1s")
        await the_lab.register_all(interval=INTERVAL)
        tokens = json.loads((directory / "secrets" / TOKENS).read_text())
        skills = {agent["agent_id"]: agent["skills"] for agent in await the_lab.sim.get("agents")}
        yield Trial(the_lab, [], [], skills, tokens, 0)


async def requests(the_lab: Lab) -> dict[str, int]:
    return {name: agent["requests"] for name, agent in (await the_lab.sim.agents()).items()}


async def all_asked(the_lab: Lab, agents: list[str], within: float) -> float:
    """Waits until each agent is polled twice more. Returns the seconds."""
    before, begun = await requests(the_lab), time.monotonic()

    async def done() -> bool:
        after = await requests(the_lab)
        return all(after[name] >= before[name] + 2 for name in agents)

    await until(done, "all are asked again", within)
    return time.monotonic() - begun


async def tries(the_lab: Lab) -> float:
    """The number of requests that the bridge has made."""
    text = (await the_lab.ask("bridge", "metrics"))[1]
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("asm_bridge_polls_total{"))


async def test_a_silent_host_is_tried_by_one(trial: Trial) -> None:
    """A host that accepts connections without answering is probed by one agent at a time; its return is soon noticed,
    and polling resumes without a rush.
    """
    the_lab = trial.lab
    await all_asked(the_lab, trial.agents, 10)
    the_lab.sim.child.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(3)
        before = await tries(the_lab)
        await asyncio.sleep(4)
        assert await tries(the_lab) - before <= 6
    finally:
        the_lab.sim.child.signal(signal.SIGCONT)
    stats, begun = (await the_lab.sim.get("stats"))["requests"], time.monotonic()
    await all_asked(the_lab, trial.agents, 40)
    after = (await the_lab.sim.get("stats"))["requests"]
    assert after - stats < 2 * AGENTS * ((time.monotonic() - begun) / INTERVAL + 2)


async def test_a_refused_token_stops_its_agent_alone(trial: Trial) -> None:
    """After a few quick tries of a refused token its agent is not polled until the token changes, and then at once,
    while the others continue.
    """
    the_lab, (sick, *others) = trial.lab, trial.agents
    await all_asked(the_lab, trial.agents, 10)
    await the_lab.sim.post("faults", status_401={"agents": [sick]})
    await asyncio.sleep(1.25 * sum(QUICK_TRIES) + 1)
    refused = (await requests(the_lab))[sick]
    assert await all_asked(the_lab, others, 10) < patient(3)
    assert (await requests(the_lab))[sick] == refused
    await the_lab.sim.post("faults")
    await asyncio.sleep(1)
    assert (await requests(the_lab))[sick] == refused
    await new_tokens(trial, [sick])
    assert await all_asked(the_lab, [sick], 10) < patient(4)


async def test_all_tokens_refused_stop_all(trial: Trial) -> None:
    """If every token is refused one agent at a time probes, and new tokens are used as soon as they exist."""
    the_lab = trial.lab
    await all_asked(the_lab, trial.agents, 10)
    before = await requests(the_lab)
    await the_lab.sim.post("faults", status_401={})
    await asyncio.sleep(3)
    after = await requests(the_lab)
    assert sum(after.values()) - sum(before.values()) <= 2 * AGENTS
    await asyncio.sleep(1)
    assert sum((await requests(the_lab)).values()) - sum(after.values()) <= 3
    await the_lab.sim.post("faults")
    await new_tokens(trial, trial.agents)
    assert await all_asked(the_lab, trial.agents, 10) < patient(5)


async def test_events_by_librdkafkas_own_partitioner_are_moved(trial: Trial) -> None:
    """Events that a producer with another default partitioner puts into wrong partitions are each moved once, in order,
    and delivered once.
    """
    the_lab = trial.lab
    producer = Producer({"bootstrap.servers": the_lab.bootstrap_servers, "enable.idempotence": True})
    for number in range(60):
        _produce(producer, the_lab, trial.agents[number % 10], str(next(MARKERS)))
    assert producer.flush(20) == 0
    assert len(the_lab.produced) == 60
    foreign = [p for p in the_lab.produced if p.partition != partition_for(p.key or b"", PARTITIONS)]
    assert len(foreign) > 20
    await the_lab.completed()
    await the_lab.sim.settle(trial.agents)
    the_lab.killed = True  # outages went before
    facts = await the_lab.facts()
    assert_kept(facts)
    assert len(facts.taken) == 60


def _produce(producer: Producer, the_lab: Lab, agent_id: str, marker: str) -> None:
    value = json.dumps({"activated_conversation_event": {"conversation": {"conversation_sid": marker}}}).encode()

    def delivered(error: object, message: Message) -> None:
        assert error is None, error
        place = message.partition(), message.offset()
        entry = f"{place[0]}/{place[1]}"
        the_lab.produced.append(Produced(agent_id, *place, entry, agent_id.encode(), value, marker))

    producer.produce(f"{the_lab.prefix}inject", value, agent_id.encode(), on_delivery=delivered)


async def test_topics_of_another_size_are_refused(trial: Trial) -> None:
    """A process whose number of partitions differs from that of the topics ends at once, and says what to set."""
    other = trial.lab.launch("other", TOPICS__PARTITIONS="4")
    assert await other.ended() == 1
    assert f"has {PARTITIONS} partitions, not 4: set topics.partitions to {PARTITIONS}" in other.said()
    assert (await trial.lab.ask("bridge", "readyz"))[0] == 200
