"""The Kafka to measure with: the given one, or the best that this machine can run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bridge.kafka.lifecycle import connected
from bridge.kafka.topics import ensure_topics
from bridge.settings.model import TopicsSettings
from bridge.testing.brokers import BrokerUnavailableError, start_broker

PARTITIONS = 8
_DEADLINE = 15.0


@dataclass(frozen=True)
class Kafka:
    """``transactions``: whether exactly_once can be measured."""

    servers: str
    description: str
    transactions: bool


@asynccontextmanager
async def kafka(address: str | None, notes: list[str]) -> AsyncIterator[Kafka]:
    """Starts Kafka. Raises ``KafkaUnavailableError`` or ``BrokerUnavailableError`` if there is none."""
    if address is not None:
        notes.append(f"the broker at {address} is not ours to pin: it may take time from the client's core")
        yield Kafka(address, f"{address} (given)", await _transactions(address))
        return
    try:
        try:  # a child process is pinned with this one, but a container is not
            broker, _ = await asyncio.to_thread(start_broker, "maven")
        except BrokerUnavailableError:
            broker, _ = await asyncio.to_thread(start_broker, None)
    except BrokerUnavailableError as error:
        raise BrokerUnavailableError(f"{error}; give a broker by --broker HOST:PORT") from error
    try:
        yield Kafka(broker.bootstrap_servers, broker.description, broker.transactions)
    finally:
        await asyncio.to_thread(broker.stop)


async def _transactions(servers: str) -> bool:
    await _probe(servers, None)
    try:
        await _probe(servers, "asm-bridge-bench-probe")
    except (KafkaError, TimeoutError):
        return False
    return True


async def _probe(servers: str, transactional_id: str | None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=transactional_id)
    if transactional_id is None:
        async with connected(producer):
            return
    try:
        await asyncio.wait_for(producer.start(), _DEADLINE)
    finally:
        await asyncio.wait_for(producer.stop(), _DEADLINE)


async def create(servers: str, prefix: str) -> None:
    """Creates the topics as the bridge does, for clients that do not create any."""
    topics = TopicsSettings(prefix=prefix, partitions=PARTITIONS)
    await ensure_topics({"bootstrap_servers": servers}, topics, create=True)


async def remove(servers: str, prefix: str) -> None:
    """Deletes every topic with this prefix."""
    async with connected(AIOKafkaAdminClient(bootstrap_servers=servers)) as admin, asyncio.timeout(_DEADLINE):
        topics = [topic for topic in await admin.list_topics() if topic.startswith(prefix)]
        if topics:
            await admin.delete_topics(topics)
