"""The registry's topic: reading it whole, writing entries. ``run`` follows it by a ``Reader`` (kafka/reading.py)."""

from collections.abc import AsyncIterator, Callable, Mapping

from bridge.agents.injection import KafkaRecord
from bridge.kafka.lifecycle import with_deadline
from bridge.kafka.reading import read_to_end
from bridge.kafka.topics import partitions_of
from bridge.kafka.writing import open_writer
from bridge.settings import KafkaSettings


async def registry_records(kafka: KafkaSettings, topic: str) -> AsyncIterator[KafkaRecord]:
    """All records of the registry. Raises ``KafkaError``, ``TimeoutError``."""
    connection = kafka.client_arguments()
    await partitions_of(connection, topic)  # which says what to do if it does not exist
    async for message in read_to_end(connection, [(topic, 0)]):
        yield message


async def read_registry(kafka: KafkaSettings, topic: str) -> dict[str, bytes]:
    """agent_id -> value of every current entry, valid or not. Raises ``KafkaError``, ``TimeoutError``."""
    entries: dict[str, bytes | None] = {}
    async for message in registry_records(kafka, topic):
        entries[(message.key or b"").decode(errors="backslashreplace")] = message.value
    return {agent_id: value for agent_id, value in entries.items() if value is not None and agent_id}


async def write_registry(
    kafka: KafkaSettings,
    topic: str,
    changes: Mapping[str, bytes | None],
    on_progress: Callable[[int, int], None] = lambda number, of: None,
    *,
    at: float | None = None,
) -> int:
    """Writes entries, and returns once all replicas have acknowledged every one; None is a tombstone. Safe to repeat.

    ``at``: their timestamp in seconds since 1970, where this machine's clock is not to be trusted.
    ``on_progress(n, of)``: after each acknowledgement. Returns the offset of the last one, -1 if there was nothing to
    write. Raises ``KafkaError``, ``TimeoutError``.
    """
    offset = -1
    async with open_writer(kafka.client_arguments()) as writer:
        sent = [await writer.send(topic, 0, agent_id.encode(), value, at=at) for agent_id, value in changes.items()]
        for number, acknowledged in enumerate(sent, 1):
            offset = (await with_deadline(acknowledged)).offset
            on_progress(number, len(sent))
    return offset
