"""Sending one entry to the inbox and finding its outcome."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from bridge.cli.output import CommandError
from bridge.cli.records import decoded
from bridge.kafka import connected
from bridge.kafka.keys import partition_for
from bridge.kafka.plain import partitions_of, produce, reader
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class Sent:
    """An entry on the inbox, ``partition/offset``, and what became of it (None: not waited for)."""

    injection_id: str
    entry: str
    outcome: dict[str, Any] | None


async def send(
    settings: Settings, agent_id: str, value: bytes, headers: Mapping[str, str], timeout: float | None
) -> Sent:
    """Produce to the agent's partition and wait ``timeout`` seconds for the outcome. Raises ``CommandError``."""
    inbox, outcomes = settings.topics.name("inject"), settings.topics.name("inject-outcomes")
    partition = partition_for(agent_id, await partitions_of(settings.kafka, inbox))
    target = TopicPartition(inbox, partition)
    pairs = [(name, text.encode()) for name, text in headers.items()]
    if timeout is None:
        sent = await produce(settings.kafka, target, agent_id, value, pairs)
        return Sent(headers["ce_id"], f"{partition}/{sent.offset}", None)
    await partitions_of(settings.kafka, outcomes)
    async with connected(reader(settings.kafka), settings.kafka.bootstrap_servers) as consumer:
        await _at_end(consumer, TopicPartition(outcomes, partition))
        sent = await produce(settings.kafka, target, agent_id, value, pairs)
        entry = f"{partition}/{sent.offset}"
        return Sent(headers["ce_id"], entry, await _outcome(consumer, entry, timeout))


async def _at_end(consumer: AIOKafkaConsumer, partition: TopicPartition) -> None:
    """From here on the outcome will be seen: call it before the entry is sent."""
    async with asyncio.timeout(10):
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        consumer.seek(partition, end)


async def _outcome(consumer: AIOKafkaConsumer, entry: str, timeout: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(timeout):
            while True:
                value = decoded(await consumer.getone())
                if isinstance(value, dict) and value.get("entry") == entry:
                    return value
    except TimeoutError:
        raise CommandError(
            f"no outcome within {timeout:g} s. The entry {entry} stays in the inbox until it is delivered or expires: "
            "check that a bridge runs with these settings and that the agent is logged in"
        ) from None
