"""The inbox is deleted and recreated: the states' memory of the old one must not swallow the events of the new one."""

import json
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.testing.brokers import Broker
from tests.support.chaos.harness import PARTITIONS, Lab, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


async def make_anew(the_lab: Lab) -> None:
    """Deletes the inbox and creates it again."""
    admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
    await admin.start()
    try:
        name = f"{the_lab.prefix}inject"
        await admin.delete_topics([name])

        async def created() -> bool:
            configs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(2**21)}
            made = await admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=configs)])
            return bool(made.topic_errors[0][1] == 0)

        await until(created, "the inbox is created again")
    finally:
        await admin.close()


async def test_events_of_an_inbox_made_anew_are_delivered(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Events of an inbox that was recreated while no bridge ran are delivered, although their offsets are below those
    in the states.
    """
    options = ("--sessions", "3", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        bridge = await the_lab.bridge()
        agents = await the_lab.register_all()
        for number in range(9):
            await the_lab.inject(agents[number % 3], f"10{number}")
        await the_lab.completed()
        assert await bridge.stop() == 0
        await make_anew(the_lab)
        for number in range(3):
            await the_lab.inject(agents[number % 3], f"20{number}")
        await the_lab.bridge("second")

        async def all_sent() -> bool:
            taken = json.dumps(await the_lab.sim.get("events"))
            return all(f'"20{number}"' in taken for number in range(3))

        await until(all_sent, "the events of the new inbox are sent")
        assert "inbox.is_another_log" in (tmp_path / "second.log").read_text()
