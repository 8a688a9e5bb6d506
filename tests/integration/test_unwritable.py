"""What was sent, and cannot be committed, is not sent again: promise 9."""

import asyncio
import json
import secrets
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import Lab, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


async def limit(the_lab: Lab, topic: str, size: int) -> None:
    """Let the topic take batches of at most ``size`` bytes."""
    admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
    await admin.start()
    try:
        name, configs = the_lab.prefix + topic, {"max.message.bytes": str(size), "cleanup.policy": "delete"}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, configs=configs)])
    finally:
        await admin.close()


async def sent(the_lab: Lab, marker: str) -> int:
    """How often the service took the event of this marker."""
    return json.dumps(await the_lab.sim.get("events")).count(f'"{marker}"')


async def test_an_event_whose_outcome_is_refused_is_sent_once(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """The topic of the outcomes takes nothing for a while: the partition says so, sends neither this event again nor
    the next one, and publishes what it knows as soon as that is possible; the log has one line for it."""
    options = ("--sessions", "3", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.sim.settle(agents, rounds=1)
        await limit(the_lab, "inject-outcomes", 200)
        await the_lab.inject(agents[0], "771")

        async def reason() -> bool:
            return "inject-outcomes refuses every record" in (await the_lab.ask("bridge", "readyz"))[1]

        await until(reason, "the reason is shown")
        assert await sent(the_lab, "771") == 1
        await the_lab.inject(agents[0], "772")
        await asyncio.sleep(15)
        assert await sent(the_lab, "771") == 1
        assert await sent(the_lab, "772") == 0
        await limit(the_lab, "inject-outcomes", 2**21)
        await the_lab.completed()
        await the_lab.sim.settle(agents, rounds=1)
        assert [await sent(the_lab, marker) for marker in ("771", "772")] == [1, 1]
        facts = await the_lab.facts()
        assert_kept(facts)
        first = next(one.record for one in facts.told if one.record["type"] == "InjectionCompleted")
        assert (first["outcome"], first["attempts"], first["possibly_repeated"]) == ("delivered", 1, False)
        log = (tmp_path / "bridge.log").read_text()
        assert log.count('"partition.lost"') == 1


async def test_a_record_that_a_topic_does_not_take_any_more_is_shortened(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """Its limit was lowered while the bridge ran: the record is refused once, and shortened then, so that the event is
    sent once, and it and its neighbours are finished."""
    options = ("--sessions", "3", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.sim.settle(agents, rounds=1)
        await limit(the_lab, "conversations", 100_000)
        await the_lab.inject(agents[0], "771", conversation={"customer_name": secrets.token_hex(200_000)})
        for number, agent in enumerate(agents):
            await the_lab.inject(agent, f"88{number}")
        await the_lab.completed()
        assert [await sent(the_lab, marker) for marker in ("771", "880", "881", "882")] == [1, 1, 1, 1]
        facts = await the_lab.facts()
        outcomes = [one.record["outcome"] for one in facts.told if one.record["type"] == "InjectionCompleted"]
        assert outcomes == ["delivered"] * 4
        log = (tmp_path / "bridge.log").read_text()
        assert (log.count('"record.shortened"'), log.count('"partition.lost"')) == (1, 0)
