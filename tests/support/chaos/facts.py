"""The facts of a run as seen from outside: records from Kafka, records produced, and what the simulator showed and
took.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

import bridge.kafka.internals  # noqa: F401 - aiokafka does not read header names that are not UTF-8
from asm_bridge_schemas.frame import unframed

STREAMED = ("agent-status", "queued-calls", "agent-messages", "conversations", "inject-outcomes")
"""The topics whose records have a sequence."""
OUTPUT = (*STREAMED, "dead-letters", "agent-state", "heartbeats")
READ_DEADLINE = 60.0
MAX_ID_BYTES = 1024

Record = dict[str, Any]


class Message(NamedTuple):
    """One record as read; ``topic`` without its prefix, ``timestamp`` in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def place(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.headers if key == name), None)


class Told(NamedTuple):
    """An output record, with its value decoded."""

    message: Message
    record: Record


class Produced(NamedTuple):
    """One record of the inbox. ``marker`` is the conversation_sid that identifies its event, if it is an event."""

    agent_id: str | None
    partition: int
    offset: int
    injection_id: str
    key: bytes | None
    value: bytes | None
    marker: str | None = None

    @property
    def entry(self) -> str:
        return f"{self.partition}/{self.offset}"

    @property
    def has_agent(self) -> bool:
        """Whether the key can be an agent_id. Without one there is a dead letter without a key, and no outcome."""
        return self.key is not None and len(self.key) <= MAX_ID_BYTES


@dataclass(frozen=True)
class Facts:
    """``agents``, ``taken`` and ``refused`` are the simulator's (its lives frozen before the end).

    ``whole``: no process was killed, so that everything shown must have been published. ``foreign``: the keys under
    which other programs wrote to ``asm.agent-state``.
    """

    messages: list[Message]
    inbox: str = "asm.inject"
    partitions: int = 8
    produced: list[Produced] = field(default_factory=list)
    agents: dict[str, Record] = field(default_factory=dict)
    taken: list[Record] = field(default_factory=list)
    refused: list[Record] = field(default_factory=list)
    whole: bool = False
    foreign: frozenset[bytes | None] = frozenset()

    @cached_property
    def told(self) -> list[Told]:
        return [Told(m, json.loads(unframed(m.value or b"null"))) for m in self.messages if m.topic in STREAMED]

    @cached_property
    def streams(self) -> dict[str, list[Told]]:
        """By stream_id, in the order of their sequence."""
        streams: dict[str, list[Told]] = {}
        for told in self.told:
            if told.record["stream_id"] is not None:
                streams.setdefault(told.record["stream_id"], []).append(told)
        return {name: sorted(told, key=lambda t: t.record["sequence"]) for name, told in streams.items()}

    @cached_property
    def heartbeats(self) -> list[Told]:
        return [Told(m, json.loads(unframed(m.value or b"null"))) for m in self.messages if m.topic == "heartbeats"]

    @cached_property
    def dead_letters(self) -> list[Message]:
        return [message for message in self.messages if message.topic == "dead-letters"]

    @cached_property
    def states(self) -> dict[str, Record | None]:
        """The last ``AgentState`` by agent; None for a tombstone."""
        last = {m.key: m.value for m in self.messages if m.topic == "agent-state"}
        last = {key: value for key, value in last.items() if key not in self.foreign}
        return {(key or b"").decode(): json.loads(unframed(value)) if value else None for key, value in last.items()}


async def read_topics(
    bootstrap_servers: str, prefix: str, topics: Iterable[str] = OUTPUT, partitions: int = 8
) -> list[Message]:
    """All committed records, in their partition's order; open transactions are waited for. Raises ``TimeoutError``."""
    committed, dirty = (_consumer(bootstrap_servers, level) for level in ("read_committed", "read_uncommitted"))
    async with asyncio.timeout(READ_DEADLINE):
        await asyncio.gather(committed.start(), dirty.start())
        try:
            places = [TopicPartition(prefix + t, p) for t in topics for p in range(partitions)]
            ends = await _settled_ends(committed, dirty, places)
            return await _read(committed, prefix, {tp: end for tp, end in ends.items() if end > 0})
        finally:
            await asyncio.gather(committed.stop(), dirty.stop())


def _consumer(bootstrap_servers: str, isolation_level: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers, isolation_level=isolation_level, auto_offset_reset="earliest"
    )


async def _settled_ends(
    committed: AIOKafkaConsumer, dirty: AIOKafkaConsumer, places: list[TopicPartition]
) -> dict[TopicPartition, int]:
    """The end offsets, once no transaction is open: a commit returns before its markers are written."""
    while True:
        ends: dict[TopicPartition, int] = await dirty.end_offsets(places)
        if ends == await committed.end_offsets(places):
            return ends
        await asyncio.sleep(0.1)


async def _read(consumer: AIOKafkaConsumer, prefix: str, ends: dict[TopicPartition, int]) -> list[Message]:
    if not ends:
        return []
    consumer.assign(list(ends))
    await consumer.seek_to_beginning(*ends)
    messages: list[Message] = []
    while any([await consumer.position(tp) < end for tp, end in ends.items()]):
        for tp, found in (await consumer.getmany(timeout_ms=500)).items():
            messages += [
                Message(tp.topic.removeprefix(prefix), tp.partition, m.offset, m.timestamp, m.key, m.value, m.headers)
                for m in found
                if m.offset < ends[tp]
            ]
    return messages
