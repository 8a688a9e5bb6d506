"""Samples the bridge once per second: reads the counters, notes changes, and feeds the event streams."""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator

import msgspec

import bridge
from bridge.ops.events import OpsEvent, ProcessHealth, changes, observed
from bridge.ops.rates import Sample, per_second, sample
from bridge.ops.snapshot import StatusSource
from bridge.ops.status import About, History, status_report
from bridge.telemetry.metrics import METRICS

_WINDOW = 10
_HISTORY = 120
_EVENTS = 100


class Monitor:
    """Costs nothing on the hot path: it is idle between two samples, and counts agents only on request."""

    def __init__(self, snapshot: StatusSource) -> None:
        self._snapshot = snapshot
        self._about = About(bridge.__version__, f"{socket.gethostname()}:{os.getpid()}", time.time())
        self._samples: deque[Sample] = deque(maxlen=_WINDOW + 1)
        self._polls: deque[float] = deque(maxlen=_HISTORY)
        self._records: deque[float] = deque(maxlen=_HISTORY)
        self._events: deque[OpsEvent] = deque(maxlen=_EVENTS)
        self._health: ProcessHealth | None = None
        self._encoded: bytes | None = None
        self._next = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Samples until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(1)

    def sample(self) -> None:
        """Takes a sample, and notes the changes since the last one."""
        new = sample(time.monotonic(), METRICS.sampled)
        health = ProcessHealth.of(self._snapshot(), new)
        if self._health is not None:
            self._events.extend(observed(METRICS.observations))
            METRICS.observations.clear()
            self._events.extend(changes(self._health, health))
            self._polls.append(round(per_second(self._health.sample, new, "polls_total"), 1))
            self._records.append(round(per_second(self._health.sample, new, "records_total"), 1))
        self._health = health
        self._samples.append(new)
        self._encoded = None
        self._wake()

    def status(self) -> bytes:
        """``StatusReport`` as JSON, computed at most once per second, however many clients ask."""
        if not self._samples:
            self.sample()
        if self._encoded is None:
            history = History(list(self._polls), list(self._records))
            old, new, events = self._samples[0], self._samples[-1], tuple(self._events)
            self._encoded = msgspec.json.encode(status_report(self._about, self._snapshot(), old, new, events, history))
        return self._encoded

    async def stream(self) -> AsyncIterator[bytes]:
        """One status per second as server-sent events, until ``close``."""
        while not self._closed:
            yield b"data: " + self.status() + b"\n\n"
            await self._next.wait()

    def close(self) -> None:
        """Ends the streams, since a server that is stopping would wait for them."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        current, self._next = self._next, asyncio.Event()
        current.set()
