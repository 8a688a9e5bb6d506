"""The start waits for Kafka, whatever Kafka does."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.clock import Clock
from bridge.kafka import preflight as module
from bridge.kafka.clients import Clients
from bridge.kafka.preflight import Preflight, UnsuitableKafkaError
from bridge.kafka.topics import TopicResult
from bridge.settings import TopicsSettings


async def test_whatever_fails_the_start_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error ends no process that starts: it is the reason of readiness, and the log has its stack, once.
    Only topics, or a broker, that somebody must change end it, with what to do.
    """
    monkeypatch.setattr(module, "_RETRY_EVERY", 0.0)
    asked, found = 0, TopicResult("asm.inject", "differs", 8, problems=("must be compacted: set it",))

    async def topics(*_: object, **__: object) -> list[TopicResult]:
        nonlocal asked
        asked += 1
        if asked < 4:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
        return [found]

    monkeypatch.setattr(module, "ensure_topics", topics)
    preflight = Preflight(Clients({}, "g", str), TopicsSettings(), Clock())
    assert preflight.waiting_for == "asking Kafka for its topics"
    with capture_logs() as logged:
        running = asyncio.ensure_future(preflight.run())
        await asyncio.sleep(0)
        assert (preflight.waiting_for or "").startswith("UnicodeDecodeError: ")
        with pytest.raises(UnsuitableKafkaError, match=r"^asm\.inject must be compacted: set it$"):
            await asyncio.wait_for(running, 5)
    (line,) = logged
    stack: Any = line["exc_info"]
    assert (line["event"], type(stack)) == ("kafka.awaited", UnicodeDecodeError)
