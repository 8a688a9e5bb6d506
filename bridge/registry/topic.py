"""Plain reading and writing, outside the group and without transactions: the registry, and what the commands need."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from bridge.kafka import KafkaUnavailableError, clients, connected
from bridge.kafka.topics import partition_counts
from bridge.settings import KafkaSettings

_DEADLINE = 30.0


async def partitions_of(kafka: KafkaSettings, topic: str) -> int:
    """How many partitions a topic has. Raises ``KafkaUnavailableError``, also if it does not exist."""
    counts = await partition_counts(kafka.client_arguments())
    if topic not in counts:
        raise KafkaUnavailableError(
            f"the topic {topic} does not exist: check topics.prefix, or run `asm-bridge topics create`"
        )
    return counts[topic]


def reader(kafka: KafkaSettings) -> AIOKafkaConsumer:
    """As ``clients.reader``, for who has the settings."""
    return clients.reader(kafka.client_arguments())


async def read_registry(kafka: KafkaSettings, topic: str) -> dict[str, bytes]:
    """agent_id -> value of every entry that is in force, sound or not."""
    await partitions_of(kafka, topic)
    async with connected(reader(kafka), kafka.bootstrap_servers) as consumer, asyncio.timeout(_DEADLINE):
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        entries: dict[str, bytes | None] = {}
        while await consumer.position(partition) < end:
            for message in (await consumer.getmany(partition, timeout_ms=500)).get(partition, ()):
                entries[(message.key or b"").decode(errors="backslashreplace")] = message.value
    return {agent_id: value for agent_id, value in entries.items() if value is not None and agent_id}


async def write_registry(
    kafka: KafkaSettings,
    topic: str,
    changes: Mapping[str, bytes | None],
    written: Callable[[int, int], None] = lambda number, of: None,
) -> int:
    """Returns once every change is acknowledged by all replicas; None is a tombstone. Safe to repeat.

    ``written(n, of)`` is told how far it has got. Returns the offset of the last one, -1 if there was nothing to write.
    """
    offset = -1
    async with connected(writer(kafka), kafka.bootstrap_servers) as producer, asyncio.timeout(_DEADLINE):
        sent = [
            await producer.send(topic, value, key=agent_id.encode(), partition=0) for agent_id, value in changes.items()
        ]
        for number, acknowledged in enumerate(sent, 1):
            offset = (await acknowledged).offset
            written(number, len(sent))
    return offset


def writer(kafka: KafkaSettings) -> AIOKafkaProducer:
    """A producer that waits for all replicas."""
    settings: dict[str, Any] = kafka.client_arguments()
    return AIOKafkaProducer(**settings, acks="all", max_request_size=clients.MAX_REQUEST)
