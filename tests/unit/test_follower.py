"""How the registry is followed: whatever fails, and when its topic is another one."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.clock import Clock
from bridge.registry import follower as module
from bridge.registry.follower import RegistryFollower
from bridge.registry.registry import Registry
from tests.support.strategies import Message

ENTRY = b'{"token": "env:T"}'


class Topic:
    """The registry's topic: its id, and its records, of which the first ones are entries under ``keys``."""

    def __init__(self, *keys: bytes) -> None:
        self.failure: Exception | None = None
        """What each fetch raises."""
        self.recreate("first", *keys)

    def recreate(self, topic_id: str, *keys: bytes) -> None:
        self.id: str | None = topic_id
        self.records: list[Message] = []
        for key in keys:
            self.write(key)

    def write(self, key: bytes, value: bytes | None = ENTRY) -> None:
        self.records.append(Message(len(self.records), key=key, value=value))

    @asynccontextmanager
    async def reader(self, *_: object) -> AsyncIterator["Topic"]:
        self._position = 0
        yield self

    @property
    def at_end(self) -> bool:
        return self._position == len(self.records)

    async def fetch(self) -> list[Message]:
        await asyncio.sleep(0)
        found, self._position = self.records[self._position :], len(self.records)
        return found

    def check_answered(self) -> None:
        if self.failure is not None:
            raise self.failure

    def watch(self, _: object) -> None:
        pass

    async def look(self) -> None:
        pass


@contextmanager
def followed(monkeypatch: pytest.MonkeyPatch, topic: Topic) -> Iterator[tuple[Registry, RegistryFollower, set[str]]]:
    """A registry that follows the topic, and the agents of which it said that they changed."""
    monkeypatch.setattr(module, "open_reader", topic.reader)
    monkeypatch.setattr(module, "_QUIET", 0.2)
    changed: set[str] = set()
    registry = Registry(changed.add, lambda _: None)
    topics = SimpleNamespace(id=lambda _: topic.id, look=topic.look)
    parts: Any = SimpleNamespace(topic=str, connection={}), None, None, Clock(), topics
    follower = RegistryFollower(registry, *parts)
    running = asyncio.ensure_future(follower.run())
    try:
        yield registry, follower, changed
    finally:
        running.cancel()


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_no_entry_stops_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry at which our own code fails is left out, with the stack in the log, and those after it are read."""
    topic, read = Topic(b"a", b"poison", b"b"), Registry.read

    def fails(registry: Registry, message: Message) -> None:
        if message.key == b"poison":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
        read(registry, message)

    monkeypatch.setattr(Registry, "read", fails)
    with capture_logs() as logged, followed(monkeypatch, topic) as (registry, follower, _):
        await until(follower.whole.is_set)
        assert set(registry.entries()) == {"a", "b"}
        assert follower.problem is None
    (line,) = (line for line in logged if line["event"] == "registry.read_failed")
    assert isinstance(line["exc_info"], UnicodeDecodeError)


async def test_a_recreated_registry_is_read_from_its_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that are added to it are watched, although its offsets are those of the former one, and what it lacks is
    unwatched.
    """
    topic = Topic(b"a", b"b", b"c")
    with followed(monkeypatch, topic) as (registry, follower, changed):
        await until(follower.whole.is_set)
        changed.clear()
        topic.recreate("second", b"b", b"d")
        await until(lambda: set(registry.entries()) == {"b", "d"})
        assert changed >= {"a", "c", "d"}


async def test_a_registry_recreated_while_it_cannot_be_read_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries count although Kafka was away when it was recreated: they have offsets that were read in the former
    one."""
    topic = Topic(b"a", b"b", b"c")
    with followed(monkeypatch, topic) as (registry, follower, _):
        await until(follower.whole.is_set)
        topic.failure = TimeoutError("no answer from Kafka for 31 s")
        await until(lambda: follower.problem)
        topic.recreate("second", b"b", b"d")
        topic.failure = None
        await until(lambda: set(registry.entries()) == {"b", "d"})


async def test_agents_stay_watched_while_a_recreated_registry_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that was deleted and recreated without entries does not end the watch of its agents; the reason says
    what to do. Once it has entries, and no other comes, the agents that it lacks are unwatched.
    """
    topic = Topic(b"a", b"b")
    with followed(monkeypatch, topic) as (registry, follower, _):
        await until(follower.whole.is_set)
        topic.recreate("second")
        await until(lambda: follower.emptied)
        await asyncio.sleep(0.4)
        assert follower.emptied is not None
        assert "the 2 agents that it had stay watched" in follower.emptied
        assert len(registry) == 2
        topic.write(b"b")
        await until(lambda: follower.emptied is None)
        assert len(registry) == 2
        await until(lambda: set(registry.entries()) == {"b"})


async def test_a_tombstone_in_a_recreated_registry_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is removed from the recreated registry is unwatched, whatever the former one said."""
    topic = Topic(b"a", b"b")
    with followed(monkeypatch, topic) as (registry, follower, _):
        await until(follower.whole.is_set)
        topic.recreate("second")
        topic.write(b"a", None)
        await until(lambda: registry.get("a") is None)
        assert registry.get("b") is not None


async def test_an_invalid_entry_has_the_id_of_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets begin again in a recreated registry, so an invalid entry says which registry it is of; those of the
    former one are forgotten.
    """
    topic = Topic()
    topic.write(b"a", b"?")
    with followed(monkeypatch, topic) as (registry, _, _):
        await until(registry.invalid_entries)
        assert [(one.origin.offset, one.registry_id) for one in registry.invalid_entries()] == [(0, "first")]
        topic.recreate("second")
        topic.write(b"b", b"?")
        await until(lambda: [one.key for one in registry.invalid_entries()] == [b"b"])
        assert [(one.origin.offset, one.registry_id) for one in registry.invalid_entries()] == [(0, "second")]
