"""The two clocks, and times as in the records: RFC 3339, UTC, microseconds."""

import time
from datetime import UTC, datetime
from typing import NamedTuple


class Instant(NamedTuple):
    """A moment on both clocks: ``monotonic`` to measure with, ``wall`` (seconds since 1970) to publish."""

    monotonic: float
    wall: float


class Clock:
    """The system's clocks; the wall clock follows Kafka's clock, once that is known. Tests pass in another one.

    All times that are published or compared with timestamps are Kafka's, whatever this machine's clock says: events do
    not expire because it is wrong, and Kafka refuses no record from the future.

    The wall clock never goes back by less than a minute: it stops instead, so that later observations have no earlier
    time. A larger step is an administrator's, and is followed.
    """

    monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._latest = 0.0
        self._began: float | None = None
        self._compared_at = float("-inf")
        self.ahead = 0.0
        """Seconds by which this machine's clock was ahead of Kafka's when they were last compared; 0 if they may agree,
        because the reading took so long in an outage."""

    def now(self) -> Instant:
        monotonic = time.monotonic()
        wall = time.time() if self._began is None else self._began + monotonic
        if 0 < self._latest - wall < _LARGEST_HOLD:
            wall = self._latest
        self._latest = wall
        return tuple.__new__(Instant, (monotonic, wall))  # as Instant(...), in half the time

    def go_on_from(self, wall: float) -> None:
        """Continues from ``wall`` (seconds since 1970), up to which another process has published times: time must not
        go back."""
        self._latest = max(self._latest, wall)

    def follow(self, kafka: float, since: float) -> None:
        """Kafka's clock showed ``kafka`` (seconds since 1970) at some time between ``since`` (monotonic) and now.

        From then on steps of this machine's clock have no effect. A difference of less than a second is left as it is.
        """
        monotonic, wall = time.monotonic(), time.time()
        doubt = (monotonic - since) / 2
        ahead = wall - (kafka + doubt)
        self.ahead = ahead if abs(ahead) > doubt else 0.0
        if self._began is None:
            self._began = wall - monotonic
        if abs(self._began + monotonic - (kafka + doubt)) > _TOLERATED + doubt:
            self._began = kafka + doubt - monotonic

    def comparison_due(self) -> bool:
        """Whether Kafka's clock should be read now; if so, not again for some seconds."""
        now = time.monotonic()
        due = now - self._compared_at > _COMPARE_EVERY
        if due:
            self._compared_at = now
        return due

    @property
    def follows_kafka(self) -> bool:
        """Whether Kafka's clock has been read."""
        return self._began is not None

    @property
    def differs(self) -> bool:
        """Whether this machine's clock is wrong by more than is tolerable."""
        return differs(self.ahead)


_LARGEST_DIFFERENCE = 5.0
"""Seconds by which clocks may differ without a warning."""
_TOLERATED = 1.0
_COMPARE_EVERY = 10.0
_LARGEST_HOLD = 60.0


def differs(ahead: float) -> bool:
    """Whether a clock that is ``ahead`` seconds ahead is wrong by more than is tolerable."""
    return abs(ahead) > _LARGEST_DIFFERENCE


def difference(ahead: float, whose: str = "Kafka's") -> str:
    """This machine's clock is ``ahead`` seconds ahead of another one: in words."""
    if not differs(ahead):
        return f"this machine's clock agrees with {whose}"
    return f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} {whose}"


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
