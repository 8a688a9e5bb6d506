"""Looks at the bridge once a second: samples the counters, notes what changed, and feeds whoever watches."""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from bridge.ops.events import OBSERVATIONS, Event, Picture, changes
from bridge.ops.rates import Sample, per_second, sample
from bridge.ops.snapshot import Snapshot
from bridge.ops.status import About, History, status
from bridge.telemetry.metrics import METRICS, VERSION

_WINDOW = 10
_HISTORY = 120
_EVENTS = 100


class Watchable(Protocol):
    """The bridge, as far as a monitor sees it."""

    def snapshot(self) -> Snapshot: ...


class Monitor:
    """Costs nothing on the hot path: between two looks it does nothing, and agents are counted only for a reader."""

    def __init__(self, watched: Watchable) -> None:
        self._watched = watched
        self._about = About(VERSION, f"{socket.gethostname()}:{os.getpid()}", time.time())
        self._samples: deque[Sample] = deque(maxlen=_WINDOW + 1)
        self._polls: deque[float] = deque(maxlen=_HISTORY)
        self._records: deque[float] = deque(maxlen=_HISTORY)
        self._events: deque[Event] = deque(maxlen=_EVENTS)
        self._picture: Picture | None = None
        self._encoded: bytes | None = None
        self._next = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(1)

    def look(self) -> None:
        """Take a sample and note what changed since the last one."""
        new = sample(time.monotonic(), METRICS.sampled)
        picture = Picture.of(self._watched.snapshot(), new)
        if self._picture is not None:
            self._events.extend(OBSERVATIONS.take())
            self._events.extend(changes(self._picture, picture))
            self._polls.append(round(per_second(self._picture.sample, new, "polls_total"), 1))
            self._records.append(round(per_second(self._picture.sample, new, "records_total"), 1))
        self._picture = picture
        self._samples.append(new)
        self._encoded = None
        self._wake()

    def status(self) -> bytes:
        """``Status`` as JSON, made at most once a second, however many ask."""
        if not self._samples:
            self.look()
        if self._encoded is None:
            history = History(list(self._polls), list(self._records))
            old, new, events = self._samples[0], self._samples[-1], tuple(self._events)
            self._encoded = msgspec.json.encode(
                status(self._about, self._watched.snapshot(), old, new, events, history)
            )
        return self._encoded

    async def stream(self) -> AsyncIterator[bytes]:
        """A status a second as server-sent events, until ``close``."""
        while not self._closed:
            yield b"data: " + self.status() + b"\n\n"
            await self._next.wait()

    def close(self) -> None:
        """End the streams: a server that stops would wait for them."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        current, self._next = self._next, asyncio.Event()
        current.set()
