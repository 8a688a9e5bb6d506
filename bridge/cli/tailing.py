"""Reading topics as they grow, until enough was read, the time is over or a signal comes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

from bridge.cli.output import CommandError, reader_gone
from bridge.cli.records import as_json, as_line
from bridge.kafka import connected
from bridge.kafka.topics import TOPICS, partition_counts
from bridge.registry.topic import reader
from bridge.settings import Settings, TopicsSettings
from bridge.signals import stop_on_signals

_SEEK_DEADLINE = 15.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be printed; ``duration`` in seconds."""

    topics: tuple[str, ...] = ()
    from_beginning: bool = False
    limit: int | None = None
    agent: str | None = None
    duration: float | None = None
    json: bool = False


async def tail(settings: Settings, wanted: Wanted) -> None:
    """Raises ``CommandError`` if a topic does not exist, ``BrokenPipeError`` when nobody reads any more."""
    stop = stop_on_signals()
    counts = await partition_counts(settings.kafka.client_arguments())
    partitions = _partitions(_names(settings.topics, wanted, counts), counts)
    async with connected(reader(settings.kafka), settings.kafka.bootstrap_servers) as consumer:
        await _position(consumer, partitions, wanted.from_beginning)
        left = wanted.limit
        async for message in _messages(consumer, stop, wanted.duration):
            if wanted.agent is not None and message.key != wanted.agent.encode():
                continue
            print(as_json(message) if wanted.json else as_line(message, settings.topics.prefix), flush=True)
            left = None if left is None else left - 1
            if left == 0:
                return


async def _messages(
    consumer: AIOKafkaConsumer, stop: asyncio.Event, duration: float | None
) -> AsyncIterator[ConsumerRecord]:
    """By time within what arrives together, until ``stop``, the end of ``duration``, or nobody reads our output."""
    loop = asyncio.get_running_loop()
    end = loop.time() + (float("inf") if duration is None else duration)
    while not stop.is_set() and loop.time() < end and not reader_gone():
        batch = await consumer.getmany(timeout_ms=200)
        for message in sorted((m for messages in batch.values() for m in messages), key=lambda m: m.timestamp):
            if stop.is_set():
                return
            yield message


async def _position(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], from_beginning: bool) -> None:
    async with asyncio.timeout(_SEEK_DEADLINE):
        consumer.assign(partitions)
        await (consumer.seek_to_beginning() if from_beginning else consumer.seek_to_end())


def _names(topics: TopicsSettings, wanted: Wanted, counts: Mapping[str, int]) -> list[str]:
    if not wanted.topics:
        output = [topics.name(topic.name) for topic in TOPICS if topic.output and topic.name != "agent-state"]
        found = [name for name in output if name in counts]
        if not found:
            raise CommandError(
                f"there are no topics {topics.prefix}...: check topics.prefix, or run `asm-bridge topics create`"
            )
        return found
    return [_name(topics, topic, counts) for topic in wanted.topics]


def _name(topics: TopicsSettings, topic: str, counts: Mapping[str, int]) -> str:
    for name in (topic, topics.name(topic)):
        if name in counts:
            return name
    known = ", ".join(one.name for one in TOPICS)
    raise CommandError(f"there is no topic {topic} or {topics.name(topic)}: the bridge's are {known}")


def _partitions(names: list[str], counts: Mapping[str, int]) -> list[TopicPartition]:
    return [TopicPartition(name, partition) for name in dict.fromkeys(names) for partition in range(counts[name])]
