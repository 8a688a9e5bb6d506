"""The two clocks, and times as in the records: RFC 3339, UTC, microseconds."""

import time
from datetime import UTC, datetime
from typing import NamedTuple


class Instant(NamedTuple):
    """A moment on both clocks: ``monotonic`` to measure with, ``wall`` (seconds since 1970) to publish."""

    monotonic: float
    wall: float


class Clock:
    """The system's clocks. Tests pass in another one.

    The wall clock never goes back by less than a minute: it stands still instead, so that what is observed later has no
    earlier time. A larger step is an administrator's, and is followed.
    """

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._latest = 0.0

    def now(self) -> Instant:
        wall = time.time()
        if 0 < self._latest - wall < _LARGEST_HOLD:
            wall = self._latest
        self._latest = wall
        return tuple.__new__(Instant, (time.monotonic(), wall))  # as Instant(...), in half the time

    def go_on_from(self, wall: float) -> None:
        """Another process has published times up to ``wall`` (seconds since 1970): no later time may be earlier."""
        self._latest = max(self._latest, wall)


_LARGEST_HOLD = 60.0


_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def rfc3339(seconds: float, timespec: str = "microseconds") -> str:
    """Seconds since 1970 as text, e.g. ``2026-11-23T09:30:00.000250Z``.

    A time outside the years 1 to 9999, which another program's record may have, becomes the first or the last of them.
    """
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        at = _LAST if seconds > 0 else _FIRST
    return at.isoformat(timespec=timespec).replace("+00:00", "Z")


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time. Raises ``ValueError`` for any other text, and for a time
    without offset.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC (end it with Z)")
    return time.timestamp()
