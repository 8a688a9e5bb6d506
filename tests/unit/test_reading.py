"""Reading topics to their end: what ``Reader`` makes of a consumer."""

from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.structs import TopicPartition

from bridge.kafka import lifecycle, reading
from bridge.kafka.errors import KafkaError, KafkaUnavailableError, UnreadableRecordsError
from bridge.kafka.reading import Reader, fetch_records

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Consumer:
    """Gives out batches one after the other, then nothing; ``position`` moves by ``moves``, per batch."""

    def __init__(self, *batches: dict[TopicPartition, int] | Exception, stable: int | None = None) -> None:
        self._batches = list(batches)
        self._positions = {A: 0, B: 0}
        self._stable = stable
        self.waits: list[int] = []

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        self.waits.append(timeout_ms)
        batch = self._batches.pop(0) if self._batches else {}
        if isinstance(batch, Exception):
            raise batch
        self._positions.update({part: self._positions[part] + count for part, count in batch.items()})
        return {part: [f"{part.partition}"] * count for part, count in batch.items() if count}

    async def position(self, partition: TopicPartition) -> int:
        return self._positions[partition]

    def last_stable_offset(self, _: TopicPartition) -> int | None:
        return self._stable


def reader(consumer: Consumer, ends: Iterable[int]) -> Reader:
    return Reader(consumer, dict(zip((A, B), ends, strict=True)))


async def test_the_end_is_reached_in_every_partition() -> None:
    """A reader is at its end once each partition is; what comes after is still fetched."""
    found = reader(consumer := Consumer({A: 2}, {B: 1}, {A: 1}), (2, 1))
    assert (found.at_end, await found.fetch(), found.at_end) == (False, ["0", "0"], False)
    assert (await found.fetch(), found.at_end) == (["1"], True)
    assert (await found.fetch(), await found.fetch()) == (["0"], [])
    assert consumer.waits == [500, 0, 0, 0]


async def test_empty_partitions_are_at_their_end() -> None:
    """Nothing has to be fetched to know that there is nothing."""
    assert reader(Consumer(), (0, 0)).at_end


async def test_an_end_that_was_told_too_low_is_corrected() -> None:
    """The embedded broker's end is too low; what a fetch brings along is believed."""
    found = reader(Consumer({A: 1}, {A: 2}, stable=3), (1, 0))
    await found.fetch()
    assert not found.at_end
    await found.fetch()
    assert found.at_end


async def test_a_partition_that_stays_silent_before_its_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gets nothing for its deadline raises TimeoutError and names the partition; at the end silence is
    fine."""
    monkeypatch.setattr(reading, "CALL_DEADLINE", 0.0)
    found = reader(Consumer(), (1, 0))
    await found.fetch()
    with pytest.raises(TimeoutError, match="t/0"):
        await found.fetch()
    silent = reader(Consumer(), (0, 0))
    assert [await silent.fetch(), await silent.fetch()] == [[], []]


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), AssertionError(), ValueError("x")])
async def test_whatever_records_raise_is_an_error_of_kafka(error: Exception) -> None:
    """aiokafka raises more than its own errors over strange bytes; its callers wait those out like any other."""
    with pytest.raises(UnreadableRecordsError) as raised:
        await fetch_records(Consumer(error), 500)
    assert isinstance(raised.value, KafkaError)
    assert repr(error) in str(raised.value)


@pytest.mark.parametrize("error", [OSError("x"), KafkaError("x"), ValueError("Server sent wrong signature!")])
async def test_whatever_a_start_raises_is_kafka_unavailable(error: Exception) -> None:
    """A client that cannot start raises KafkaUnavailableError, with a text that names the servers, and is stopped."""
    stopped = []

    class Client:
        async def start(self) -> None:
            raise error

        async def stop(self) -> None:
            stopped.append(self)

    with pytest.raises(KafkaUnavailableError, match=r"^Kafka .*at host:1"):
        async with lifecycle.connected(Client(), "host:1"):
            pass
    assert stopped
