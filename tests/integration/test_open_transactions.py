"""Somebody's open transaction: what stands behind it was written, and is waited for."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.kafka import stable_offsets
from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import read_to_end
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import read_topics
from tests.support.chaos.harness import PARTITIONS, lab, until
from tests.support.ops import running

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


async def test_an_open_transaction_is_named_while_it_lasts(
    broker: Broker, topics_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds inbox or registry back for long is the reason of readiness, with topic, partition, offset and
    since when, and a metric; both are gone with it.
    """
    monkeypatch.setattr(stable_offsets, "PATIENCE", 2.0)
    async with (
        running(broker, topics_prefix, tmp_path, 2) as (url, _),
        httpx.AsyncClient(base_url=url, trust_env=False) as ops,
    ):

        def says(path: str, *texts: str) -> Callable[[], Awaitable[bool]]:
            async def said() -> bool:
                found = (await ops.get(path)).text
                return all(text in found for text in texts)

            return said

        partitions = [(f"{topics_prefix}inject", 3), (f"{topics_prefix}sessions", 0)]
        foreign = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap_servers, transactional_id=f"{topics_prefix}foreign"
        )
        async with foreign:
            await foreign.begin_transaction()
            sent = {place[0]: await foreign.send_and_wait(place[0], b"?", b"x", place[1]) for place in partitions}
            reasons = [
                f"{topic}/{partition} cannot be read beyond offset {sent[topic].offset} since 20"
                for topic, partition in partitions
            ]
            await until(says("/readyz", *reasons), f"the reason is {reasons}")
            metrics = [
                f'stable_offset_behind_seconds{{partition="{partition}",topic="{topic}"}}'
                for topic, partition in partitions
            ]
            await until(says("/metrics", *metrics), "the metric is there")
            await foreign.abort_transaction()
        await until(says("/readyz", "ready"), "it is ready again")
        left = (await ops.get("/metrics")).text
        assert not [metric for metric in metrics if metric in left]


async def test_a_takeover_waits_for_what_an_open_transaction_holds_back(
    bootstrap_servers: str, topics_prefix: str, tmp_path: Path
) -> None:
    """Another program's transaction among the states is open when a process is killed: the next one waits for its end,
    and gives no sequence out twice.
    """
    stranger, options = b"another-program", ("--sessions", "8", "--change-rate", "4", "--no-logouts")
    async with lab(bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all(interval=0.3)
        await the_lab.sim.settle(agents, rounds=1)
        the_lab.foreign.add(stranger)
        foreign = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, transactional_id=f"{topics_prefix}foreign")
        async with foreign:
            await foreign.begin_transaction()
            for partition in range(PARTITIONS):
                await foreign.send_and_wait(f"{topics_prefix}agent-state", b"?", stranger, partition)
            await the_lab.sim.post("thaw")

            async def told() -> int:
                return len(await read_topics(bootstrap_servers, topics_prefix, ["agent-status"]))

            before = await told()

            async def told_more() -> bool:
                return await told() > before + 20

            await until(told_more, "records are published")
            the_lab.kill()
            the_lab.launch()
            await asyncio.sleep(8)
            assert (await the_lab.ask("bridge", "readyz"))[0] != 200
            await foreign.abort_transaction()
        await the_lab.ready()
        await the_lab.sim.settle(agents)
        assert_kept(await the_lab.facts())
