"""Writes single records outside of any transaction: the registry's, and those of the commands."""

import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from bridge.kafka.clients import new_producer
from bridge.kafka.lifecycle import connected, with_deadline
from bridge.record_id import RecordId


class Writer:
    """Writes records that count once all replicas have them."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    async def send(
        self, topic: str, partition: int, key: bytes, value: bytes | None, *, at: float | None = None
    ) -> Awaitable[RecordMetadata]:
        """Starts to write a record with the timestamp ``at`` (seconds since 1970; None: now, by this machine's clock);
        await the result for its offset. Both raise ``KafkaError``, the start ``TimeoutError``, too."""
        timestamp_ms = int((time.time() if at is None else at) * 1000)
        acknowledged: Awaitable[RecordMetadata]
        acknowledged = await with_deadline(self._producer.send(topic, value, key, partition, timestamp_ms))
        return acknowledged

    async def put(
        self, topic: str, partition: int, key: bytes, value: bytes | None, headers: Iterable[tuple[str, bytes]] = ()
    ) -> RecordId:
        """Writes a record and waits until all replicas have it. Raises ``KafkaError``, ``TimeoutError``."""
        now_ms = int(time.time() * 1000)
        sending = self._producer.send_and_wait(topic, value, key, partition, now_ms, headers=list(headers))
        sent = await with_deadline(sending)
        return RecordId(topic, partition, sent.offset)


@asynccontextmanager
async def open_writer(connection: Mapping[str, Any]) -> AsyncIterator[Writer]:
    """A writer. ``connection``: the arguments of every aiokafka client. Raises ``KafkaUnavailableError``."""
    async with connected(new_producer(connection)) as producer:
        yield Writer(producer)
