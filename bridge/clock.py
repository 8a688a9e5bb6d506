"""The two clocks, and times as the records carry them: RFC 3339, UTC, microseconds."""

import time
from datetime import UTC, datetime
from typing import NamedTuple


class Instant(NamedTuple):
    """A moment on both clocks: ``monotonic`` to measure with, ``wall`` (seconds since 1970) to publish."""

    monotonic: float
    wall: float


class Clock:
    """The system's clocks. Tests hand in another one."""

    monotonic = staticmethod(time.monotonic)

    def now(self) -> Instant:
        return Instant(time.monotonic(), time.time())


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
    """Seconds since 1970 of an RFC 3339 time. Raises ``ValueError`` where it is none or names no offset."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC (end it with Z)")
    return time.timestamp()
