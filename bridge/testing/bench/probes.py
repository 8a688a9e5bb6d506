"""Measurements from Kafka's side while a client runs: when its records can be read, and events sent to it."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from bridge.kafka.lifecycle import connected
from bridge.kafka.partitioner import partition_for
from bridge.testing.bench.broker import PARTITIONS
from bridge.testing.bench.clients import Place, agent_id


class Reader:
    """Reads a topic with read_committed, as consumers should, and notes for each record when it could be read."""

    def __init__(self) -> None:
        self._read: list[tuple[float, float]] = []

    async def follow(self, consumer: AIOKafkaConsumer) -> None:
        """Reads until cancelled."""
        while True:
            records = await consumer.getmany(timeout_ms=1000)
            now = time.time()
            self._read += [(one.timestamp / 1000, now) for batch in records.values() for one in batch]

    def delays(self, begin: float, end: float) -> list[float]:
        """For records stamped between two times (Unix, s): seconds from the timestamp until they could be read."""
        return [max(0.0, read - stamp) for stamp, read in self._read if begin <= stamp < end]


@asynccontextmanager
async def reading(servers: str, topic: str) -> AsyncIterator[Reader]:
    """Reads ``topic`` from its beginning while the block runs."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    reader = Reader()
    async with connected(consumer):
        consumer.assign([TopicPartition(topic, number) for number in range(PARTITIONS)])
        async with _meanwhile(reader.follow(consumer)):
            yield reader


@asynccontextmanager
async def injecting(place: Place, rate: float) -> AsyncIterator[None]:
    """While the block runs, produces ``rate`` events per second, each for a random agent; none if it is 0."""
    if rate <= 0:
        yield
        return
    producer = AIOKafkaProducer(bootstrap_servers=place.brokers, acks="all")
    async with connected(producer), _meanwhile(_inject(producer, place, rate)):
        yield


async def _inject(producer: AIOKafkaProducer, place: Place, rate: float) -> None:
    """The event's conversation_sid is the time of producing, so that the target can calculate the latency."""
    due = time.monotonic()
    while True:
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        agent = agent_id(random.randrange(place.sessions))  # noqa: S311 - a lot, not a secret
        event = {"activated_conversation_event": {"conversation": {"conversation_sid": str(time.time_ns())}}}
        await producer.send(
            f"{place.prefix}inject",
            msgspec.json.encode(event),
            agent.encode(),
            partition=partition_for(agent, PARTITIONS),
        )


@asynccontextmanager
async def _meanwhile(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """A failure of ``work`` is raised when the block ends."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
