"""Following the registry: what becomes of its agents when the topic is deleted and recreated."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.registry import follower
from bridge.registry.follower import RegistryFollower
from bridge.registry.registry import InvalidEntry, Registry


class Topic:
    """The registry's topic: its id and its records; ``recreate`` makes it another one without any."""

    def __init__(self) -> None:
        self.id = "1"
        self.records: list[Any] = []

    def write(self, key: bytes, value: bytes | None = b'{"token": "env:T"}') -> None:
        offset = len(self.records)
        self.records.append(SimpleNamespace(topic="sessions", partition=0, offset=offset, key=key, value=value))

    def recreate(self) -> None:
        self.id, self.records = f"{self.id}1", []


class Topics:
    def __init__(self, topic: Topic) -> None:
        self._topic = topic

    async def look(self) -> None:
        pass

    def id(self, _: str) -> str:
        return self._topic.id


@asynccontextmanager
async def following(
    monkeypatch: pytest.MonkeyPatch, topic: Topic
) -> AsyncIterator[tuple[RegistryFollower, Registry, list[InvalidEntry]]]:
    """A follower of the topic, its registry, and the invalid entries."""

    @asynccontextmanager
    async def open_reader(*_: Any) -> AsyncIterator[Any]:
        mine, read = topic.records, 0

        async def fetch() -> list[Any]:
            nonlocal read
            await asyncio.sleep(0.005)
            found, read = mine[read:], len(mine)
            return found

        class Reader:
            at_end = property(lambda _: read >= len(mine))
            watch = staticmethod(lambda _: None)

        Reader.fetch = staticmethod(fetch)  # type: ignore[attr-defined]
        yield Reader()

    monkeypatch.setattr(follower, "open_reader", open_reader)
    monkeypatch.setattr(follower, "_QUIET", 0.3)
    invalid: list[InvalidEntry] = []
    registry = Registry(lambda _: None, invalid.append)
    clients: Any = SimpleNamespace(topic=str, connection={})
    other: Any = None
    topics: Any = Topics(topic)
    followed = RegistryFollower(registry, clients, other, None, other, topics)
    running = asyncio.create_task(followed.run())
    try:
        yield followed, registry, invalid
    finally:
        running.cancel()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def test_agents_stay_watched_while_a_recreated_registry_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that was deleted and recreated without entries does not end the watch of its agents; the reason says
    what to do. Once it has entries, and no other comes, the agents that it lacks are unwatched.
    """
    topic = Topic()
    topic.write(b"agent-1")
    topic.write(b"agent-2")
    async with following(monkeypatch, topic) as (followed, registry, _):
        await until(followed.whole.is_set)
        topic.recreate()
        await until(lambda: followed.emptied)
        await asyncio.sleep(0.5)
        assert followed.emptied is not None
        assert "the 2 agents that it had stay watched" in followed.emptied
        assert len(registry) == 2
        topic.write(b"agent-2")
        await until(lambda: followed.emptied is None)
        assert len(registry) == 2
        await until(lambda: len(registry) == 1)
        assert registry.get("agent-2") is not None


async def test_a_tombstone_in_a_recreated_registry_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is removed from the recreated registry is unwatched, whatever the former one said."""
    topic = Topic()
    topic.write(b"agent-1")
    topic.write(b"agent-2")
    async with following(monkeypatch, topic) as (followed, registry, _):
        await until(followed.whole.is_set)
        topic.recreate()
        topic.write(b"agent-1", None)
        await until(lambda: registry.get("agent-1") is None)
        assert registry.get("agent-2") is not None


async def test_an_invalid_entry_has_the_id_of_its_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets begin again in a recreated registry, so an invalid entry says which registry it is of; those of the
    former one are forgotten.
    """
    topic = Topic()
    topic.write(b"agent-1", b"?")
    async with following(monkeypatch, topic) as (followed, registry, invalid):
        await until(lambda: invalid)
        topic.recreate()
        topic.write(b"agent-2", b"?")
        await until(lambda: len(invalid) == 2)
        assert [(one.offset, one.registry_id) for one in invalid] == [(0, "1"), (0, "11")]
        assert [one.key for one in registry.invalid_entries()] == [b"agent-2"]
        assert followed.problem is None
