"""What the bridge notices of topics that are deleted, recreated or resized while it works."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.app import Bridge
from bridge.kafka import topic_watch as module
from bridge.kafka import topics
from bridge.kafka.admin import SeenTopic
from bridge.kafka.clients import Clients
from bridge.kafka.topic_watch import TopicWatch
from bridge.kafka.topics import wanted_partitions
from bridge.partitions.assignment import Assignment
from bridge.settings import TopicsSettings, load_settings

SETTINGS = TopicsSettings(prefix="t.", partitions=8)


class Cluster:
    """The topics as a broker reports them; ``failure``: what it raises instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topics = {name: SeenTopic("1", count) for name, count in wanted_partitions(SETTINGS).items()}
        self.failure: Exception | None = None
        self.asked = self.inbox_changes = 0
        monkeypatch.setattr(module, "seen_topics", self._seen)
        self.configs: dict[str, dict[str, str]] = {}
        self.described = 0
        monkeypatch.setattr(module, "open_admin", self._admin)
        monkeypatch.setattr(topics, "open_admin", self._admin)
        monkeypatch.setattr(topics, "_describe", self._describe)
        self.clients = Clients({}, "g", SETTINGS.name)
        self.watch = TopicWatch(self.clients, SETTINGS, self._changed)

    @asynccontextmanager
    async def _admin(self, _: object) -> AsyncIterator[object]:
        yield object()

    async def _seen(self, *_: object) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return dict(self.topics)

    async def _describe(self, *_: object) -> dict[str, dict[str, str]]:
        self.described += 1
        return {name: dict(found) for name, found in self.configs.items()}

    def _changed(self) -> None:
        self.inbox_changes += 1


async def test_a_deleted_topic_is_named_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its id meanwhile; with another one it is another topic, and of the inbox the group hears at once."""
    cluster = Cluster(monkeypatch)
    await cluster.watch.look()
    assert (cluster.watch.problems(), cluster.inbox_changes) == ([], 0)
    cluster.topics["t.inject"] = SeenTopic("", 0)
    with capture_logs() as logged:
        await cluster.watch.look()
        assert cluster.watch.problems() == ["t.inject does not exist: run `asm-bridge topics create`"]
        assert cluster.watch.id("inject") == "1"
        cluster.topics["t.inject"] = SeenTopic("2", 8)
        await cluster.watch.look()
    assert (cluster.watch.problems(), cluster.watch.id("inject"), cluster.inbox_changes) == ([], "2", 2)
    assert [line["event"] for line in logged] == ["topic.deleted", "topic.recreated"]


async def test_a_topic_that_comes_back_with_one_partition_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that creates topics by itself gives them its own number of partitions, which does not do."""
    cluster = Cluster(monkeypatch)
    cluster.topics["t.inject-outcomes"] = SeenTopic("2", 1)
    cluster.topics["t.sessions"] = SeenTopic("2", 3)
    await cluster.watch.look()
    problems = dict(problem.split(" ", 1) for problem in cluster.watch.problems())
    advice = "delete it and run `asm-bridge topics create`"
    added = f"add the others with kafka-topics.sh --alter --partitions 8; if it is empty, {advice}"
    assert problems["t.inject-outcomes"] == f"has 1 partitions, and must have 8: {added}"
    assert problems["t.sessions"] == f"has 3 partitions, and must have 1: {advice}"


@pytest.mark.parametrize("partitions", [0, 1, 7])
async def test_nothing_is_sent_while_a_topic_of_ours_cannot_take_what_becomes_of_it(
    monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    """A topic that the bridge writes to is missing, or lacks partitions; the inbox and the registry do not count."""
    cluster = Cluster(monkeypatch)
    for name, writable in (("inject", True), ("sessions", True), ("inject-outcomes", False), ("agent-state", False)):
        before = cluster.topics[f"t.{name}"]
        cluster.topics[f"t.{name}"] = SeenTopic("1", partitions)
        await cluster.watch.look()
        assert cluster.watch.writable is writable, name
        cluster.topics[f"t.{name}"] = before
        await cluster.watch.look()
        assert cluster.watch.writable


def test_no_event_leaves_while_a_topic_of_ours_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge whose membership is confirmed polls and sends only while it can write to its topics."""
    monkeypatch.setattr(Assignment, "is_current", lambda _: True)
    bridge = Bridge(load_settings(None, {}))
    assert bridge._may_send()
    bridge._topics.writable = False
    assert not bridge._may_send()


async def test_added_partitions_are_a_limitation_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work goes on with more partitions than topics.partitions; the log says once to leave that number as it is."""
    cluster = Cluster(monkeypatch)
    await cluster.watch.look()
    cluster.topics["t.inject"] = SeenTopic("1", 12)
    with capture_logs() as logged:
        await cluster.watch.look()
        await cluster.watch.look()
    assert (cluster.watch.problems(), cluster.inbox_changes) == ([], 1)
    (line,) = logged
    assert (line["event"], line["topic"]) == ("topic.limited", "t.inject")
    assert "leave topics.partitions at 8, because another number would split the agents' streams" in line["note"]


async def test_whatever_fails_the_topics_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error ends neither the watch nor its process; the log has the stack, once."""
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
    cluster = Cluster(monkeypatch)
    cluster.failure = ValueError("a strange answer")
    with capture_logs() as logged:
        running = asyncio.ensure_future(cluster.watch.run())
        async with asyncio.timeout(5):
            while cluster.asked < 3:
                await asyncio.sleep(0)
            cluster.failure = None
            while cluster.watch.id("inject") is None:
                await asyncio.sleep(0)
        running.cancel()
    (line,) = logged
    assert (line["event"], line["exc_info"]) == ("topics.look_failed", line["error"])


async def test_partitions_that_are_opened_at_one_time_share_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight that ask at one time, at most two look: the first, and one for all that asked after it had begun."""
    cluster = Cluster(monkeypatch)
    await asyncio.gather(*(cluster.watch.look() for _ in range(8)))
    assert cluster.asked <= 2
    await cluster.watch.look()  # never answered by an older one
    assert cluster.asked <= 3


async def test_a_look_that_failed_is_shared_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of those that ask at one time looks itself if the others fail."""
    cluster = Cluster(monkeypatch)
    cluster.failure = TimeoutError()
    results = await asyncio.gather(*(cluster.watch.look() for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [TimeoutError] * 3
    assert cluster.asked == 3


async def test_settings_that_are_changed_meanwhile_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every minute, whether records are too large or not: what a topic takes, and what a start would refuse or warn of,
    which the log says once for each change; the start itself has said what was so from the beginning."""
    cluster = Cluster(monkeypatch)
    configs = cluster.configs = {
        "t.conversations": {"max.message.bytes": "1000000", "cleanup.policy": "delete"},
        "t.agent-state": {"cleanup.policy": "compact"},
    }
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(module, "_SETTINGS_EVERY", -1.0)

    async def look_twice() -> None:
        until = cluster.described + 2
        while cluster.described < until:
            await asyncio.sleep(0)

    with capture_logs() as logged:
        watching = asyncio.ensure_future(cluster.watch.run())
        await look_twice()
        assert logged == []
        assert cluster.clients.limits["conversations"] == 1_000_000
        configs["t.conversations"]["max.message.bytes"] = "500000"
        configs["t.agent-state"]["cleanup.policy"] = "delete"
        await look_twice()
        await look_twice()
        watching.cancel()
    assert cluster.clients.limits["conversations"] == 500_000
    found = [(line["event"], line["topic"], line["note"].partition(":")[0]) for line in logged]
    assert found == [
        ("topic.limited", "t.conversations", "max.message.bytes is 500000, and must be at least 900000"),
        ("topic.limited", "t.agent-state", "cleanup.policy is delete, and must be compact"),
    ]
    assert all(line["note"].endswith("until then no process can start") for line in logged)
