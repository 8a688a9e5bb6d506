"""Sending entries to the inbox and finding their outcomes."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from bridge.cli.output import CommandError
from bridge.cli.records import decoded
from bridge.kafka import connected
from bridge.kafka.clients import bounded
from bridge.kafka.partitioner import partition_for
from bridge.registry.topic import partitions_of, reader, writer
from bridge.settings import Settings


@dataclass(frozen=True, slots=True)
class Sent:
    """An entry on the inbox, ``partition/offset``, and what became of it (None: not waited for)."""

    injection_id: str
    entry: str
    outcome: dict[str, Any] | None


class Inbox:
    """Where entries go in, and outcomes come out if it was opened for them."""

    def __init__(
        self, topic: str, partitions: int, producer: AIOKafkaProducer, consumer: AIOKafkaConsumer | None
    ) -> None:
        self._topic = topic
        self._partitions = partitions
        self._producer = producer
        self._consumer = consumer

    async def put(self, agent_id: str, value: bytes, headers: Iterable[tuple[str, bytes]]) -> str:
        """Produce to the agent's partition; returns the entry, ``partition/offset``, once all replicas have it."""
        partition = partition_for(agent_id, self._partitions)
        sent = await bounded(
            self._producer.send_and_wait(self._topic, value, agent_id.encode(), partition, headers=list(headers))
        )
        return f"{partition}/{sent.offset}"

    async def outcomes(self, entries: Collection[str], timeout: float) -> AsyncIterator[dict[str, Any]]:
        """The outcomes of these entries as they come, until all have or ``timeout`` seconds are over."""
        assert self._consumer is not None
        missing = set(entries)
        end = asyncio.get_running_loop().time() + timeout
        while missing and (left := end - asyncio.get_running_loop().time()) > 0:
            for messages in (await self._consumer.getmany(timeout_ms=int(min(left, 1) * 1000))).values():
                for value in map(decoded, messages):
                    if isinstance(value, dict) and value.get("entry") in missing:
                        missing.discard(value["entry"])
                        yield value


@asynccontextmanager
async def opened(settings: Settings, agents: Iterable[str], *, wait: bool) -> AsyncIterator[Inbox]:
    """The inbox for these agents; with ``wait`` the outcomes of what is put from now on will be seen.

    Raises ``KafkaUnavailableError``.
    """
    kafka, topic, outcomes = settings.kafka, settings.topics.name("inject"), settings.topics.name("inject-outcomes")
    count = await partitions_of(kafka, topic)
    async with AsyncExitStack() as stack:
        consumer = None
        if wait:
            await partitions_of(kafka, outcomes)
            consumer = await stack.enter_async_context(connected(reader(kafka), kafka.bootstrap_servers))
            numbers = {partition_for(agent, count) for agent in agents}
            await _at_end(consumer, [TopicPartition(outcomes, number) for number in numbers])
        producer = await stack.enter_async_context(connected(writer(kafka), kafka.bootstrap_servers))
        yield Inbox(topic, count, producer, consumer)


async def send(
    settings: Settings, agent_id: str, value: bytes, headers: Mapping[str, str], timeout: float | None
) -> Sent:
    """Produce to the agent's partition and wait ``timeout`` seconds for the outcome. Raises ``CommandError``."""
    async with opened(settings, [agent_id], wait=timeout is not None) as inbox:
        entry = await inbox.put(agent_id, value, [(name, text.encode()) for name, text in headers.items()])
        if timeout is None:
            return Sent(headers["ce_id"], entry, None)
        async for outcome in inbox.outcomes([entry], timeout):
            return Sent(headers["ce_id"], entry, outcome)
    raise CommandError(
        f"no outcome within {timeout:g} s. The entry {entry} stays in the inbox until it is delivered or expires: "
        "check that a bridge runs with these settings and that the agent is logged in"
    )


async def _at_end(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
    """From here on the outcomes will be seen: call it before the entries are sent."""
    async with asyncio.timeout(10):
        consumer.assign(partitions)
        for partition, end in (await consumer.end_offsets(partitions)).items():
            consumer.seek(partition, end)
