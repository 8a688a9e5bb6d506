"""The topics while the bridge works."""

import asyncio
from typing import Any

import pytest

from bridge.kafka import topic_watch as module
from bridge.kafka.clients import Clients
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.topic_watch import TopicWatch
from bridge.settings import TopicsSettings


async def test_a_limit_that_was_raised_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a record is too large for its topic, what the topic takes is read again; otherwise it is not."""
    clients = Clients({}, "group", str)
    message = Outgoing("conversations", b"a", b"x" * 50_000, [])
    limit, reads = 10_000, list[int]()

    async def look(_: TopicWatch) -> None:
        if not clients.limits.fits(message):
            clients.limits.choose(message, iter([message._replace(value=b"")]))

    async def read(of: Any) -> None:
        reads.append(limit)
        of.limits.update({"conversations": {"max.message.bytes": str(limit)}})

    await read(clients)
    monkeypatch.setattr(TopicWatch, "look", look)
    monkeypatch.setattr(module, "read_limits", read)
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
    monkeypatch.setattr(module, "_LIMITS_EVERY", 0.0)
    watching = asyncio.ensure_future(TopicWatch(clients, TopicsSettings(), lambda: None).run())
    while len(reads) < 5:
        await asyncio.sleep(0)
    limit = 100_000
    while not clients.limits.fits(message):
        await asyncio.sleep(0)
    seen = len(reads)
    for _ in range(20):
        await asyncio.sleep(0)
    watching.cancel()
    assert len(reads) == seen
