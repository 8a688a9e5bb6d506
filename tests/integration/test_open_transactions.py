"""Somebody's open transaction: what stands behind it was written, and is waited for."""

import asyncio
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import read_to_end
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import PARTITIONS, lab

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


async def test_a_read_waits_for_what_an_open_transaction_holds_back(bootstrap_servers: str, topics_prefix: str) -> None:
    """The end is the high watermark: an owner that ended at the last stable offset would go on from an old state."""
    connection, topic = {"bootstrap_servers": bootstrap_servers}, f"{topics_prefix}agent-state"
    admin = AIOKafkaAdminClient(**connection)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()

    async def read() -> list[bytes | None]:
        return [record.value async for record in read_to_end(connection, [(topic, 0)])]

    foreign = AIOKafkaProducer(**connection, transactional_id=f"{topics_prefix}foreign")
    ours = AIOKafkaProducer(**connection, transactional_id=f"{topics_prefix}ours")
    async with foreign, ours:
        await foreign.begin_transaction()
        await foreign.send_and_wait(topic, b"foreign", partition=0)
        async with ours.transaction():
            await ours.send_and_wait(topic, b"new", partition=0)
        reading = asyncio.create_task(read())
        await asyncio.sleep(3)
        assert not reading.done()
        await foreign.abort_transaction()
        assert await asyncio.wait_for(reading, 20) == [b"new"]
        assert await asyncio.wait_for(read(), 20) == [b"new"]


async def test_an_event_behind_an_open_transaction_does_not_expire(
    bootstrap_servers: str, topics_prefix: str, tmp_path: Path
) -> None:
    """Held back for longer than its time to live, it is sent once the transaction has ended."""
    async with lab(bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1", "--change-rate", "0") as the_lab:
        await the_lab.bridge(INJECTION__TTL="3s")
        (agent,) = await the_lab.register_all()
        await the_lab.sim.settle([agent], rounds=1)
        async with AIOKafkaProducer(
            bootstrap_servers=bootstrap_servers, transactional_id=f"{topics_prefix}foreign"
        ) as foreign:
            await foreign.begin_transaction()
            partition = partition_for(agent.encode(), PARTITIONS)
            await foreign.send_and_wait(f"{topics_prefix}inject", b"{}", key=agent.encode(), partition=partition)
            await the_lab.inject(agent, "771")
            await asyncio.sleep(6)
            await foreign.abort_transaction()
        await the_lab.completed()
        facts = await the_lab.facts()
        assert_kept(facts)
        (outcome,) = (one.record["outcome"] for one in facts.told if one.record["type"] == "InjectionCompleted")
        assert outcome == "delivered"
