"""The lab's own producer, when Kafka does not say whether it has written a record."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import UnknownError

from tests.support.chaos import harness
from tests.support.chaos.facts import Message, Produced
from tests.support.chaos.harness import Lab


class FullDisk:
    """Answers the first time with an error, and may have written the record all the same."""

    def __init__(self) -> None:
        self.sent = 0

    async def send_and_wait(self, *_: object, **__: object) -> Any:
        self.sent += 1
        if self.sent == 1:
            raise UnknownError
        return SimpleNamespace(partition=2, offset=9)


@pytest.mark.parametrize("written", [True, False])
async def test_a_record_is_written_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, written: bool) -> None:
    """A record that is there after Kafka's error is not written again; one with the same bytes that was written before
    is another one."""
    disk = FullDisk()
    monkeypatch.setattr(Lab, "_new_producer", lambda _: disk)
    lab = Lab("kafka:9092", "t.", tmp_path, "http://127.0.0.1:1")
    lab.produced = [Produced("a", 2, 5, "2/5", b"a", b"x")]

    async def read(*_: object) -> list[Message]:
        return [Message("inject", 2, offset, 0, b"a", b"x", ()) for offset in ((5, 7) if written else (5,))]

    async def reconnect(_: Lab) -> None: ...

    monkeypatch.setattr(harness, "read_topics", read)
    monkeypatch.setattr(Lab, "reconnect", reconnect)
    assert await lab.produce("inject", b"x", b"a") == ((2, 7) if written else (2, 9))
    assert disk.sent == (1 if written else 2)
