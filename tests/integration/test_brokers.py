"""The chosen broker behaves as the bridge's tests require."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownError

from bridge.testing.brokers import Broker

pytestmark = pytest.mark.kafka
DEADLINE = 30.0


@asynccontextmanager
async def producer(broker: Broker, **options: Any) -> AsyncIterator[Any]:
    options.setdefault("acks", "all")
    client = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, **options)
    await asyncio.wait_for(client.start(), DEADLINE)
    try:
        yield client
    finally:
        await asyncio.wait_for(client.stop(), DEADLINE)


async def create(broker: Broker, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()
    assert [error[1] for error in answer.topic_errors] == [0], answer


async def values(broker: Broker, topic: str, until: bytes) -> list[bytes]:
    """The topic's values from its beginning up to ``until``, as a read_committed reader sees them."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap_servers,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await asyncio.wait_for(consumer.start(), DEADLINE)
    seen: list[bytes] = []
    try:
        async with asyncio.timeout(DEADLINE):
            while until not in seen:
                seen.append((await consumer.getone()).value)
    finally:
        await consumer.stop()
    return seen


async def test_records_come_back(broker: Broker, topics_prefix: str) -> None:
    """Records are consumed in the order in which they were produced."""
    topic = f"{topics_prefix}records"
    await create(broker, topic)
    async with producer(broker) as client:
        for value in (b"1", b"2", b"3"):
            await client.send_and_wait(topic, value)
    assert await values(broker, topic, until=b"3") == [b"1", b"2", b"3"]


@pytest.mark.transactions
async def test_only_committed_records_are_seen(broker: Broker, topics_prefix: str) -> None:
    """A read_committed reader sees a committed transaction, and nothing of an aborted one."""
    topic = f"{topics_prefix}transactions"
    await create(broker, topic)
    async with producer(broker, transactional_id=f"{topics_prefix}writer", acks="all") as client:
        await client.begin_transaction()
        await client.send_and_wait(topic, b"aborted")
        await client.abort_transaction()
        async with client.transaction():
            await client.send_and_wait(topic, b"committed")
    assert await values(broker, topic, until=b"committed") == [b"committed"]


async def test_a_broker_that_says_it_has_no_transactions_has_none(broker: Broker, topics_prefix: str) -> None:
    """A broker that is declared without transactions really refuses a transactional producer."""
    client = AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers, transactional_id=f"{topics_prefix}probe")
    try:
        if broker.transactions:
            await asyncio.wait_for(client.start(), DEADLINE)
        else:
            with pytest.raises(UnknownError):
                await asyncio.wait_for(client.start(), DEADLINE)
    finally:
        await asyncio.wait_for(client.stop(), DEADLINE)


async def test_a_killed_broker_keeps_its_records(broker: Broker, topics_prefix: str) -> None:
    """A broker keeps its acknowledged records over kill -9 and a restart at the same address."""
    if not broker.durable:
        pytest.skip(f"{broker.description} keeps nothing over a restart")
    topic, address = f"{topics_prefix}durable", broker.bootstrap_servers
    await create(broker, topic)
    async with producer(broker) as client:
        await client.send_and_wait(topic, b"before")
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.restart)
        await client.send_and_wait(topic, b"after")
    assert broker.bootstrap_servers == address
    assert await values(broker, topic, until=b"after") == [b"before", b"after"]


async def test_a_paused_broker_goes_on(broker: Broker, topics_prefix: str) -> None:
    """A paused broker acknowledges nothing, and everything after it is resumed."""
    topic = f"{topics_prefix}paused"
    await create(broker, topic)
    async with producer(broker) as client:
        await client.send_and_wait(topic, b"before")
        await asyncio.to_thread(broker.pause)
        try:
            sent = await client.send(topic, b"while paused")
            done, _ = await asyncio.wait([sent], timeout=1)
            assert not done
        finally:
            await asyncio.to_thread(broker.resume)
        await asyncio.wait_for(sent, DEADLINE)
    assert await values(broker, topic, until=b"while paused") == [b"before", b"while paused"]
