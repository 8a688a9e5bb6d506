"""The watch over the topics: how often it looks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bridge.kafka import topic_watch
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaError
from bridge.kafka.topic_ids import SeenTopic
from bridge.kafka.topic_watch import TopicWatch
from bridge.settings import TopicsSettings


class Broker:
    """Counts the looks, each of which takes a moment; ``failing``: how many of the next fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = self.failing = 0
        monkeypatch.setattr(topic_watch, "open_admin", self.admin)
        monkeypatch.setattr(topic_watch, "seen_topics", self.seen)
        self.watch = TopicWatch(Clients({}, "group", "asm.{}".format), TopicsSettings(), lambda: None)

    @asynccontextmanager
    async def admin(self, _: object) -> AsyncIterator[None]:
        yield

    async def seen(self, *_: object) -> dict[str, SeenTopic]:
        self.looks += 1
        await asyncio.sleep(0.01)
        if self.failing:
            self.failing -= 1
            raise KafkaError("no answer")
        return {"asm.inject": SeenTopic(f"{self.looks}", 8)}


async def test_partitions_that_are_opened_at_one_time_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight that ask at one time, at most two look: the first, and one for all that asked after it had begun."""
    broker = Broker(monkeypatch)
    await asyncio.gather(*(broker.watch.look() for _ in range(8)))
    assert broker.looks <= 2


async def test_a_look_is_never_older_than_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked after a look began is answered by another one, and a look that failed by none."""
    broker = Broker(monkeypatch)
    await broker.watch.look()
    await broker.watch.look()
    assert broker.watch.id("inject") == "2"
    broker.failing = 1
    results = await asyncio.gather(broker.watch.look(), broker.watch.look(), return_exceptions=True)
    assert [isinstance(result, KafkaError) for result in results] == [True, False]
    assert broker.looks == 4
