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
    """The registry's topic: its id, and its records."""

    def __init__(self) -> None:
        self.id: str | None = "first"
        self.records: list[Message] = []

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

    def watch(self, _: object) -> None:
        pass


@contextmanager
def followed(monkeypatch: pytest.MonkeyPatch, topic: Topic) -> Iterator[tuple[Registry, RegistryFollower, set[str]]]:
    """A registry that follows the topic, and the agents of which it said that they changed."""
    monkeypatch.setattr(module, "open_reader", topic.reader)
    changed: set[str] = set()
    registry = Registry(changed.add, lambda _: None)
    parts: Any = SimpleNamespace(topic=str, connection={}), None, None, Clock(), SimpleNamespace(id=lambda _: topic.id)
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
    topic, read = Topic(), Registry.read

    def fails(registry: Registry, message: Message) -> None:
        if message.key == b"poison":
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
        read(registry, message)

    monkeypatch.setattr(Registry, "read", fails)
    for key in (b"a", b"poison", b"b"):
        topic.write(key)
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
    topic = Topic()
    for key in (b"a", b"b", b"c"):
        topic.write(key)
    with followed(monkeypatch, topic) as (registry, follower, changed):
        await until(follower.whole.is_set)
        changed.clear()
        topic.id, topic.records = "second", []
        topic.write(b"b")
        topic.write(b"d")
        await until(lambda: set(registry.entries()) == {"b", "d"})
        assert changed >= {"a", "c", "d"}
