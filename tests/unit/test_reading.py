"""How far a topic is read: to its end, behind transactions that are open."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED
from aiokafka.structs import ConsumerRecord, TopicPartition

from bridge.kafka import reading as module
from bridge.kafka.reading import open_reader

PARTITION = TopicPartition("asm.agent-state", 3)


class Consumer:
    """A consumer that reads what is committed of one partition; ``stable``: the offset of the first transaction that is
    open, or ``end``, the high watermark."""

    def __init__(self, stable: int, end: int) -> None:
        self.stable, self.end = stable, end
        self._isolation_level = READ_COMMITTED
        self._position = 0
        self._fetcher = self

    polled_at: int | None = None

    def last_poll_timestamp(self, _: TopicPartition) -> int | None:
        return self.polled_at

    def assignment(self) -> set[TopicPartition]:
        return {PARTITION}

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def assign(self, partitions: list[TopicPartition]) -> None:
        assert partitions == [PARTITION]

    async def end_offsets(self, partitions: list[TopicPartition], _: object = None) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.stable if self._isolation_level == READ_COMMITTED else self.end)

    async def position(self, _: TopicPartition) -> int:
        return self._position

    def last_stable_offset(self, _: TopicPartition) -> int:
        return self.stable

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        self._position = self.stable
        return {}


async def test_the_end_is_behind_open_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read goes on until what an open transaction holds back has been read, too: an owner that ended before it would
    go on from old states.
    """
    consumer = Consumer(stable=5, end=9)
    monkeypatch.setattr(module, "new_reader", lambda _: consumer)
    connection: Any = {"bootstrap_servers": "kafka:9092"}
    async with open_reader(connection, [PARTITION]) as reader:
        await reader.fetch()
        ended = [reader.at_end]
        consumer.stable = 9
        await reader.fetch()
        ended.append(reader.at_end)
    assert ended == [False, True]
    assert consumer._isolation_level == READ_COMMITTED


async def test_a_consumer_that_gets_no_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka never asks the bootstrap servers again: a reader of brokers that have got other addresses would wait
    for ever, silently. One whose fetches are answered, with records or without, is not given up."""
    consumer, at = Consumer(stable=0, end=0), 100.0
    monkeypatch.setattr(module, "new_reader", lambda _: consumer)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: at, time=lambda: 0.0))
    connection: Any = {"bootstrap_servers": "kafka:9092"}
    async with open_reader(connection, [PARTITION]) as reader:
        for consumer.polled_at in range(10):
            reader.check_answered()
            at += 29
        reader.check_answered()
        at += 2
        with pytest.raises(TimeoutError, match="no answer from Kafka for 31 s"):
            reader.check_answered()
