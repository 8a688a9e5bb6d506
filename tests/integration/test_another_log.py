"""Topics that are deleted and recreated, or get more partitions, while the bridge runs or while it does not."""

import asyncio
import json
import shutil
import signal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition

from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker, maven
from bridge.testing.brokers.maven import MavenBroker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import PARTITIONS, Lab, lab, until
from tests.support.chaos.streams import numbered
from tests.support.chaos.topics import delete, recreate
from tests.support.repetitions import without_repetitions

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

FEW = ("--sessions", "3", "--change-rate", "0")


async def completed_events(the_lab: Lab) -> list[str]:
    """Watches all agents, which it returns, and gives them nine events, which get their outcomes."""
    agents = await the_lab.register_all()
    for number in range(9):
        await the_lab.inject(agents[number % 3], f"10{number}")
    await the_lab.completed()
    return agents


async def all_sent(the_lab: Lab, markers: list[str]) -> None:
    """Waits until the service has taken the event of each marker."""

    async def taken() -> bool:
        events = json.dumps(await the_lab.sim.get("events"))
        return all(f'"{marker}"' in events for marker in markers)

    await until(taken, f"the events {markers} are sent")


async def not_ready(the_lab: Lab, text: str) -> None:
    """Waits until the reason for which the bridge is not ready contains a text."""

    async def said() -> bool:
        return text in (await the_lab.ask("bridge", "readyz"))[1]

    await until(said, f"the reason is {text!r}")


@pytest.mark.parametrize("events", [3, 30])
async def test_events_of_an_inbox_made_anew_are_delivered(
    broker: Broker, topics_prefix: str, tmp_path: Path, events: int
) -> None:
    """Events of an inbox that was recreated while no bridge ran are delivered, although their offsets are those that
    the states remember; whether the new inbox is shorter than the old one or longer.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        bridge = await the_lab.bridge()
        agents = await completed_events(the_lab)
        assert await bridge.stop() == 0
        await recreate(the_lab, "inject", PARTITIONS)
        markers = [f"20{number}" for number in range(events)]
        for number, marker in enumerate(markers):
            await the_lab.inject(agents[number % 3], marker)
        await the_lab.bridge("second")
        await all_sent(the_lab, markers)
        assert "inbox.is_another_log" in (tmp_path / "second.log").read_text()


async def test_work_goes_on_with_recreated_topics(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """While the bridge runs, the registry, the outcomes' topic and the inbox are deleted and recreated: each is named
    while it is missing, and within a minute of its return entries of the registry count and events have outcomes.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await the_lab.bridge()
        agents = await completed_events(the_lab)
        for topic, partitions in (("sessions", 1), ("inject-outcomes", PARTITIONS), ("inject", PARTITIONS)):
            await delete(the_lab, topic)
            await not_ready(the_lab, f"{topics_prefix}{topic} does not exist")
            await recreate(the_lab, topic, partitions, exists=False)
            if topic == "sessions":
                await the_lab.register_all(labels={"site": "new"})
        markers = [f"20{number}" for number in range(12)]
        the_lab.produced.clear()
        for number, marker in enumerate(markers):
            await the_lab.inject(agents[number % 3], marker)
        await all_sent(the_lab, markers)
        await the_lab.completed()
        await the_lab.ready()
        told = (one.record for one in (await the_lab.facts()).told)
        assert {one["agent_id"] for one in told if one["type"] == "AgentProfileChanged"} == set(agents)


async def test_the_first_events_of_a_recreated_inbox_have_one_outcome(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """An event that is written to a recreated inbox before a bridge has noticed has one outcome: it is not taken as one
    of the former inbox, and once more when the new one is read from its beginning.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.ready()
        await recreate(the_lab, "inject", PARTITIONS)
        for number in range(30):
            await the_lab.inject(agents[number % 3], f"20{number}")
        await the_lab.completed()
        await the_lab.sim.settle(agents, rounds=1)
        assert "topic.recreated" in (tmp_path / "bridge.log").read_text()
        assert_kept(await the_lab.facts())


async def test_a_registry_recreated_empty_ends_no_watch(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A registry that is deleted and recreated without entries while the bridge runs: its agents stay watched, and the
    reason says what to do, until the entries are there again. An invalid entry of the new registry is a dead letter,
    though the former one had such an entry at that offset.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await the_lab.bridge()
        await the_lab.produce("sessions", b"?", b"spoilt")
        agents = await the_lab.register_all()
        await recreate(the_lab, "sessions", 1)
        await not_ready(the_lab, "has no entries; the 3 agents that it had stay watched")
        await the_lab.sim.settle(agents, rounds=5)
        await the_lab.produce("sessions", b"?", b"spoilt")
        await the_lab.register_all()
        await the_lab.ready()

        async def letters() -> bool:
            found = await the_lab.facts()
            return len([one for one in found.dead_letters if one.key == b"spoilt"]) == 2

        await until(letters, "each registry's invalid entry is a dead letter")
        facts = await the_lab.facts()
        assert not [told for told in facts.told if told.record["type"] == "AgentWatchEnded"]


async def test_nothing_is_sent_again_when_the_groups_offset_is_set_back(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """An administrator sets the group's offsets back to the beginning of the inbox: no event is sent a second time,
    whether it was in its agent's partition or was moved there; the log says that the offsets are not the bridge's."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        bridge = await the_lab.bridge(KAFKA__GROUP_INSTANCE_ID="")
        agents = await the_lab.register_all()
        markers = []
        for number, agent in enumerate(agents):
            home = partition_for(agent.encode(), PARTITIONS)
            for partition in (home, (home + 1) % PARTITIONS):
                markers.append(f"1{number}0{partition}")
                await the_lab.inject(agent, markers[-1], partition=partition)
        await the_lab.completed()
        assert await bridge.stop() == 0
        partitions = [TopicPartition(f"{topics_prefix}inject", number) for number in range(PARTITIONS)]
        group = AIOKafkaConsumer(bootstrap_servers=the_lab.bootstrap_servers, group_id=f"{topics_prefix}bridge")
        async with group:
            group.assign(partitions)
            await group.commit(dict.fromkeys(partitions, 0))
        await the_lab.bridge()
        await the_lab.inject(agents[0], "900")
        await the_lab.completed()
        await the_lab.sim.settle(agents, rounds=3)
        events = json.dumps(await the_lab.sim.get("events"))
        assert {marker: events.count(f'"{marker}"') for marker in markers} == dict.fromkeys(markers, 1)
    assert "inbox.offset_set" in (tmp_path / "bridge.log").read_text()


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize("missing", [False, True])
async def test_streams_go_on_when_the_states_are_recreated(
    broker: Broker, topics_prefix: str, tmp_path: Path, delivery: str, *, missing: bool
) -> None:
    """`asm.agent-state` is deleted while statuses change, and recreated at once or after so long that no commit
    succeeded: each stream goes on, because the owner remembers what it committed; and as the states are written again,
    the next owner goes on, too, with agents whose statuses have not changed since."""
    busy = ("--sessions", "6", "--change-rate", "1")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *busy) as the_lab:
        await the_lab.bridge(KAFKA__DELIVERY=delivery)
        agents = await the_lab.register_all()
        for number, agent in enumerate(agents):
            await the_lab.inject(agent, f"10{number}")
        await the_lab.completed()
        if not missing:
            await the_lab.sim.settle(agents)
        await delete(the_lab, "agent-state")
        if missing:
            for number, agent in enumerate(agents):
                await the_lab.inject(agent, f"20{number}")
            await not_ready(the_lab, f"{topics_prefix}agent-state does not exist")
            await asyncio.sleep(12)  # a commit that was in progress is given up; without one, polls wait for the topic
        await recreate(the_lab, "agent-state", PARTITIONS, exists=False)
        await logged(
            tmp_path / "bridge.log", "states.rewritten", len({partition_for(one, PARTITIONS) for one in agents})
        )
        await the_lab.ready()
        await the_lab.completed()
        the_lab.kill()
        await the_lab.bridge()
        await the_lab.sim.settle(agents)
        assert await the_lab.bridges["bridge"].stop() == 0
        facts = await the_lab.facts()
    log = (tmp_path / "bridge.log").read_text()
    assert len(facts.streams) == len(agents)
    assert_kept(without_repetitions(facts) if delivery == "at_least_once" else facts)
    assert (log.count('"topic.recreated"'), log.count('"states.lost"')) == (1, 0)


async def logged(log: Path, event: str, times: int) -> None:
    """Waits until an event was logged so often."""

    async def said() -> bool:
        return log.read_text().count(f'"event": "{event}"') >= times

    await until(said, f"{event} is logged {times} times", 60)  # a commit is given up after 30 s


async def test_streams_end_with_states_that_nobody_remembers(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """The owner dies before it can write the states again: each agent begins a new stream, which each partition's next
    owner says once, and the one after that goes on with it."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.sim.settle(agents, rounds=1)
        the_lab.bridges["bridge"].signal(signal.SIGSTOP)
        await recreate(the_lab, "agent-state", PARTITIONS)
        the_lab.kill()
        for _ in range(2):
            await the_lab.bridge()
            await the_lab.sim.settle(agents, rounds=1)
            assert await the_lab.bridges["bridge"].stop() == 0
        facts = await the_lab.facts()
    lines = [json.loads(line) for line in (tmp_path / "bridge.log").read_text().splitlines()]
    lost = [line["messaging.destination.partition.id"] for line in lines if line["event"] == "states.lost"]
    assert sorted(lost, key=int) == [str(number) for number in range(PARTITIONS)]
    assert len(facts.streams) == 2 * len(agents)
    assert not [problem for stream in facts.streams.values() for problem in numbered(stream)]


async def test_events_in_added_partitions_are_moved(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """An inbox that gets more partitions while the bridge runs: events that producers write into the new ones have
    their outcomes, streams stay where they are, and neither a restart nor `check` asks for another number of them.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        bridge = await the_lab.bridge()
        agents = await the_lab.register_all()
        admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
        await admin.start()
        await admin.create_partitions({f"{topics_prefix}inject": NewPartitions(PARTITIONS + 4)})
        await admin.close()
        await the_lab.reconnect()
        for number in range(12):
            await the_lab.inject(agents[number % 3], f"10{number}", partition=number)
        await the_lab.inject_raw(None, b"{}", partition=PARTITIONS + 1)
        await the_lab.inject_raw(b"\xff\xfe", b"{}", partition=PARTITIONS + 2)
        await the_lab.completed()
        assert await bridge.stop() == 0
        await the_lab.bridge()
        code, out, _ = await the_lab.command("check")
        assert f"leave topics.partitions at {PARTITIONS}" in out
        assert code == 0
        await the_lab.sim.settle(agents, rounds=1)
        assert_kept(await the_lab.facts())


async def test_events_of_an_inbox_that_lost_its_disk_are_delivered(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """The inbox's id is the same, and its log begins again: its end shows that it is another one, while a bridge runs
    and when the next one starts.
    """
    if not isinstance(broker, MavenBroker):
        pytest.skip("takes the files of the maven broker away")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        bridge = await the_lab.bridge()
        agents = await completed_events(the_lab)
        for name, markers in (("bridge", [f"30{number}" for number in range(6)]), ("second", ["400", "401"])):
            if name == "second":
                assert await bridge.stop() == 0
            await asyncio.to_thread(_lose, broker, f"{topics_prefix}inject-")
            await the_lab.reconnect()
            for number, marker in enumerate(markers):
                await the_lab.inject(agents[number % 3], marker)
            if name == "second":
                await the_lab.bridge(name)
            await all_sent(the_lab, markers)
            assert (tmp_path / f"{name}.log").read_text().count('"inbox.is_another_log"') >= 1


def _lose(broker: MavenBroker, topic: str) -> None:
    """Ends the broker, takes away the logs whose names begin in this way, and starts it again."""
    broker.kill()
    for folder in (broker.home / "data").glob(f"{topic}[0-9]*"):
        shutil.rmtree(folder)
    broker.restart()


async def test_entries_that_were_deleted_unread_are_said(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """What an administrator, or retention, deletes from the inbox before it was read is counted and logged with its
    offsets, and the events behind it are delivered.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        bridge = await the_lab.bridge()
        agent = (await the_lab.register_all())[0]
        await the_lab.inject(agent, "100")
        await the_lab.completed()
        assert await bridge.stop() == 0
        for number in range(4):
            await the_lab.inject(agent, f"20{number}")
        inbox = TopicPartition(f"{topics_prefix}inject", partition_for(agent, PARTITIONS))
        admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
        await admin.start()
        await admin.delete_records({inbox: RecordsToDelete(before_offset=4)})
        await admin.close()
        the_lab.produced = [produced for produced in the_lab.produced if produced.offset >= 4]
        await the_lab.bridge("second")
        await the_lab.completed()
        await all_sent(the_lab, ["203"])
        lines = [json.loads(line) for line in (tmp_path / "second.log").read_text().splitlines() if "deleted_" in line]
        assert [(line["event"], line["first"], line["end"]) for line in lines] == [("inbox.deleted_unread", 1, 4)]
        assert "asm_bridge_inbox_deleted_total 3.0" in (await the_lab.ask("second", "metrics"))[1]


class AutoCreatingBroker(MavenBroker):
    """A broker that creates a topic, with one partition, when somebody asks for it."""

    name = "auto-creating"

    def properties(self, listener: str) -> dict[str, str]:
        return super().properties(listener) | {"auto.create.topics.enable": "true", "num.partitions": "1"}


async def test_a_deleted_topic_does_not_come_back_by_itself(topics_prefix: str, tmp_path: Path) -> None:
    """On a broker that creates topics automatically the bridge does not bring a deleted one back with one partition;
    one that another program brings back is named by readiness and `check`, and work goes on once it is right.
    """
    if why := maven.why_not():
        pytest.skip(f"a broker that creates topics needs the maven one: {why}")
    broker = AutoCreatingBroker()
    await asyncio.to_thread(broker.start)
    try:
        async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
            await the_lab.bridge()
            agents = await the_lab.register_all()
            await the_lab.sim.settle(agents, rounds=1)
            await delete(the_lab, "inject")
            await not_ready(the_lab, f"{topics_prefix}inject does not exist")
            await asyncio.sleep(5)  # metadata are asked for each 2 s meanwhile
            await not_ready(the_lab, f"{topics_prefix}inject does not exist")
            await recreate(the_lab, "inject", 1, exists=False)
            has_one = "has 1 partitions, and must have 8: add the others with kafka-topics.sh"
            await not_ready(the_lab, f"{topics_prefix}inject {has_one}")
            code, out, _ = await the_lab.command("check")
            assert (code, f"{topics_prefix}inject has 1 partitions" in out) == (1, True)
            await recreate(the_lab, "inject", PARTITIONS)
            await the_lab.inject(agents[0], "772")
            await the_lab.completed()
            await the_lab.ready()
    finally:
        await asyncio.to_thread(broker.stop)
