"""The bridge's goals, and the measured figures."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.testing.bench.figures import Measurement
from bridge.testing.bench.scenarios import AT_LEAST_ONCE, EXACTLY_ONCE, FAST_COMMITS, GO, GO_SLOTS, HTTP2, WORKERS

_BOUNDS = {"below": operator.lt, "at most": operator.le, "at least": operator.ge}


@dataclass(frozen=True)
class Goal:
    """Missed, whatever was ``measured``, if ``note`` says that the bridge failed; None: not measured."""

    name: str
    sessions: int
    bound: str
    target: float
    measured: float | None
    note: str = ""

    @property
    def met(self) -> bool:
        return self.measured is not None and not self.note and bool(_BOUNDS[self.bound](self.measured, self.target))

    @property
    def verdict(self) -> str:
        if self.met:
            return "met"
        if self.note or self.measured is None:
            return f"missed: {self.note.partition(';')[0]}"
        return f"missed by {abs(self.measured / self.target - 1):,.1%}"


class _Limit(NamedTuple):
    """``figure`` of ``client``, times ``scale``; with ``beside`` divided by that client's."""

    name: str
    bound: str
    target: float
    kind: str
    client: str
    figure: str
    scale: float = 1.0
    beside: str | None = None
    applies: Callable[[Measurement], bool] = lambda _: True


_LIMITS = (
    _Limit("CPU / Go poller's", "below", 1, "load", EXACTLY_ONCE, "us_per_poll", beside=GO),
    _Limit("CPU over HTTP/2 + TLS / Go poller's over HTTP/1.1", "below", 1, "load", HTTP2, "us_per_poll", beside=GO),
    _Limit("CPU over HTTP/2 + TLS / over HTTP/1.1", "below", 1, "load", HTTP2, "us_per_poll", beside=EXACTLY_ONCE),
    _Limit(
        "CPU of at_least_once / slotted Go poller's", "at most", 1.1, "load", AT_LEAST_ONCE, "us_per_poll",
        beside=GO_SLOTS, applies=lambda one: one.sessions <= 2000,
    ),
    _Limit(
        "CPU / that of a fourth of the sessions", "at most", 1.2, "scale", EXACTLY_ONCE, "us_per_poll",
        beside=EXACTLY_ONCE,
    ),
    _Limit("polls of two workers / of one", "at least", 1.9, "workers", WORKERS, "polls_per_s", beside=EXACTLY_ONCE),
    _Limit(
        "gap p99 s, a poll a second", "below", 1.05, "load", EXACTLY_ONCE, "gap_p99",
        applies=lambda one: one.figures.get("interval", 1.0) == 1.0,
    ),
    _Limit(
        "polls/s of one core", "at least", 8000, "flat", EXACTLY_ONCE, "polls_per_s",
        applies=lambda one: one.sessions >= 400,  # each at most every 50 ms: fewer cannot make as many
    ),
    _Limit("inject p99 ms", "below", 30, "latency", EXACTLY_ONCE, "inject_p99", 1e3),
    _Limit("readable p99 ms", "below", 300, "latency", EXACTLY_ONCE, "readable_p99", 1e3),
    _Limit("readable p99 ms, commits every 10 ms", "below", 60, "latency", FAST_COMMITS, "readable_p99", 1e3),
    _Limit("kB a session", "at most", 20, "memory", EXACTLY_ONCE, "per_session", 1e-3),
    _Limit(
        "MB grown in a million polls", "at most", 1, "growth", EXACTLY_ONCE, "growth", 1e-6,
        applies=lambda one: (one.figures.get("polls", 1e6) or 0) >= 1e6,
    ),
    _Limit("recovery s", "below", 5, "recovery", EXACTLY_ONCE, "recovery"),
    _Limit("cores for a shared queue", "below", 0.5, "queue", EXACTLY_ONCE, "cores"),
)  # fmt: skip


def goals(measurements: Sequence[Measurement]) -> list[Goal]:
    """The goals for which something was measured, ratios first."""
    found = (_goal(limit, one, measurements) for limit in _LIMITS for one in _held(limit, measurements))
    return [goal for goal in found if goal]


def _held(limit: _Limit, measurements: Sequence[Measurement]) -> list[Measurement]:
    """Ratios of the load at each size, all else at the largest."""
    ours = (one for one in measurements if (one.kind, one.client) == (limit.kind, limit.client) and limit.applies(one))
    ordered = sorted(ours, key=lambda one: one.sessions)
    return ordered if limit.kind == "load" and limit.beside else ordered[-1:]


def _goal(limit: _Limit, one: Measurement, measurements: Sequence[Measurement]) -> Goal | None:
    base, value = _base(limit, one, measurements), one.figures.get(limit.figure)
    if not base or (value is None and not one.note):
        return None
    measured = None if value is None else value * limit.scale / base
    return Goal(limit.name, one.sessions, limit.bound, limit.target, measured, one.note)


def _base(limit: _Limit, one: Measurement, measurements: Sequence[Measurement]) -> float | None:
    if limit.beside is None:
        return 1.0
    kin = [other for other in measurements if (other.kind, other.client) == (limit.kind, limit.beside)]
    sessions = min((other.sessions for other in kin), default=0) if limit.kind == "scale" else one.sessions
    return next((other.figures.get(limit.figure) for other in kin if other.sessions == sessions), None)
