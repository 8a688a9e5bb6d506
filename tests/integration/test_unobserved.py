"""The time in which no bridge observed the agents is published, and never counts as time in a status."""

import asyncio
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Facts, Record
from tests.support.chaos.harness import Lab, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


async def beats(the_lab: Lab, count: int) -> None:
    """Waits until there are so many heartbeats of each partition."""

    async def there_are() -> bool:
        facts = await the_lab.facts()
        return all(sum(beat.message.partition == p for beat in facts.heartbeats) >= count for p in range(8))

    await until(there_are, f"{count} heartbeats of each partition are there")


def losses(facts: Facts) -> dict[str, list[Record]]:
    """The losses of each watched agent, in order."""
    agents = {told.record["agent_id"]: list[Record]() for told in facts.told}
    for told in facts.told:
        if told.record["type"] == "AgentObservationLost":
            agents[told.record["agent_id"]].append(told.record)
    return agents


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("killed", [True, False], ids=["kill -9", "SIGTERM"])
async def test_an_outage_of_the_bridge_is_published(
    broker: Broker, topics_prefix: str, tmp_path: Path, killed: bool
) -> None:
    """After a bridge was away for longer than three intervals and 5 s, each agent has an AgentObservationLost
    (bridge_down) from the time of its last observation, and an AgentObservationResumed with its status; a shorter
    restart publishes neither.
    """
    simulator = ["--sessions", "12", "--change-rate", "0.5", "--no-logouts", "--seed", "5"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *simulator) as the_lab:
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        agents = await the_lab.register_all(interval=0.5)
        await the_lab.sim.settle(agents)
        assert await the_lab.bridges["bridge"].stop() == 0
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        await the_lab.sim.settle(agents)
        await beats(the_lab, 2)
        assert not any(losses(await the_lab.facts()).values())

        if killed:
            the_lab.kill()
        else:
            assert await the_lab.bridges["bridge"].stop() == 0
        await asyncio.sleep(12)
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        await the_lab.sim.settle(agents)
        assert await the_lab.bridges["bridge"].stop() == 0
        facts = await the_lab.facts()
    assert_kept(facts)
    found = losses(facts)
    assert set(found) == set(agents)
    for agent_id, lost in found.items():
        stream = sorted((t.record for t in facts.told if t.record["agent_id"] == agent_id), key=lambda r: r["sequence"])
        assert [record["reason"] for record in lost] == ["bridge_down"], agent_id
        (resumed,) = [record for record in stream if record["type"] == "AgentObservationResumed"]
        assert resumed["status_desc"] is not None
        before = [record for record in stream if record["sequence"] < lost[0]["sequence"]]
        assert before[-1]["observed_at"] <= lost[0]["since"]
        assert 9 < at(lost[0]["observed_at"]) - at(lost[0]["since"]) < 25
        changes = [record for record in stream if record["type"] == "AgentStatusChanged"]
        across = [
            later
            for earlier, later in pairwise(changes)
            if earlier["sequence"] < lost[0]["sequence"] < later["sequence"]
            and earlier["status_desc"] != later["status_desc"]
        ]
        assert all(record["previous_duration_ms"] is None for record in across)
