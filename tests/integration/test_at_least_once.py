"""``kafka.delivery=at_least_once``: its promises, and their limits."""

import asyncio
import random
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import ProducerClosed

from bridge.kafka.clients import Clients
from bridge.kafka.lifecycle import connected
from bridge.kafka.reading import read_to_end
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import lab
from tests.support.chaos.traffic import end, inject_for
from tests.support.repetitions import without_repetitions

# Real Kafka: Tansu forgets a commit's metadata, and takes 17 s to miss a dead member.
pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

AT_LEAST_ONCE = {"KAFKA__DELIVERY": "at_least_once"}
SIMULATOR = ("--sessions", "20", "--change-rate", "0.5", "--seed", "9")


async def test_a_clean_stop_repeats_nothing(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A bridge that SIGTERM stops keeps every promise of exactly_once."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *SIMULATOR) as the_lab:
        await the_lab.bridge(**AT_LEAST_ONCE)
        agents = await the_lab.register_all(interval=0.5)
        injecting = asyncio.create_task(inject_for(the_lab, agents, 30, 5, random.Random(9)))
        await asyncio.sleep(2)
        assert await the_lab.bridges["bridge"].stop() == 0
        await the_lab.bridge()
        await injecting
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(facts)
    assert not [told for told in facts.told if told.record.get("possibly_repeated")]


async def test_a_crash_repeats_at_most_the_last_step(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """After ``kill -9`` a step may appear again; with only the last observed record of each sequence number every
    promise is kept.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *SIMULATOR) as the_lab:
        await the_lab.bridge(**AT_LEAST_ONCE)
        agents = await the_lab.register_all(interval=0.5)
        injecting = asyncio.create_task(inject_for(the_lab, agents, 40, 8, random.Random(10)))
        for _ in range(2):
            await asyncio.sleep(1.5)
            the_lab.kill()
            await the_lab.bridge()
        await injecting
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(without_repetitions(facts))


@pytest.fixture
async def topic(broker: Broker, topics_prefix: str) -> str:
    name = f"{topics_prefix}any"
    async with connected(AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)) as admin:
        await admin.create_topics([NewTopic(name, 1, 1)])
    return name


async def test_all_partitions_write_with_one_producer(broker: Broker, topic: str) -> None:
    """A partition that stops the shared producer stops it for all, and the others open a new one, so that no message of
    a partition that is read again is left in it.
    """
    clients = Clients({"bootstrap_servers": broker.bootstrap_servers}, "group", str, exactly_once=False)
    first, again = await asyncio.gather(clients.start_producer(0), clients.start_producer(1))
    assert first is again
    await first.send_and_wait(topic, b"before")
    await asyncio.gather(clients.close(first), clients.close(again))
    with pytest.raises(ProducerClosed):
        await first.send_and_wait(topic, b"late")
    other = await clients.start_producer(0)
    assert other is not first
    await other.send_and_wait(topic, b"in time")
    await clients.close(first)
    await other.send_and_wait(topic, b"still")
    await clients.close(other)


async def test_nothing_is_written_after_a_producer_was_let_go(broker: Broker, topic: str) -> None:
    """A producer that was let go writes nothing more and fails its waiters, even if the broker hangs and the client's
    stop() does not end.
    """
    clients = Clients({"bootstrap_servers": broker.bootstrap_servers}, "group", str, exactly_once=False)
    producer = await clients.start_producer(0)
    await producer.send_and_wait(topic, b"before")
    broker.pause()
    try:
        sent = [await producer.send(topic, b"late", partition=0)]
        await asyncio.sleep(0.2)
        sent.append(await producer.send(topic, b"later", partition=0))
        await clients.close(producer)
        assert all(one.done() and one.exception() for one in sent)
    finally:
        broker.resume()
    told = [message.value async for message in read_to_end(clients.connection, [(topic, 0)])]
    assert b"later" not in told
