"""The measurements for people: ratios first, one table for each kind."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any, NamedTuple

from bridge.testing.bench.figures import Measurement, per_session
from bridge.testing.bench.goals import Goal, goals
from bridge.testing.bench.scenarios import AIOHTTP, EXACTLY_ONCE, GO


class Column(NamedTuple):
    """A figure, times ``scale``, with this many decimal ``digits``."""

    header: str
    figure: str
    scale: float = 1.0
    digits: int = 0


_US, _TARGET = Column("us/poll", "us_per_poll"), Column("target us/poll", "target_us_per_poll")
_RATE, _RSS = Column("polls/s", "polls_per_s"), Column("RSS MB", "rss", 1e-6)
_GAPS = tuple(Column(f"gap {name} s", f"gap_{name}", 1, 3) for name in ("p50", "p99", "max"))
_READABLE = tuple(Column(f"readable {name} ms", f"readable_{name}", 1e3) for name in ("p50", "p99"))
_INJECT = tuple(Column(f"inject {name} ms", f"inject_{name}", 1e3) for name in ("p50", "p99", "max"))
_RECORDS = Column("records/change", "records_per_change", 1, 2)
_CONNECTIONS, _CORES = Column("connections", "connections"), Column("cores", "cores", 1, 2)

TABLES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "load": (
        "Client CPU per poll, all at the same rate",
        (_US, _RATE, *_GAPS, _RSS, _RECORDS, _CONNECTIONS, _TARGET),
    ),
    "flat": ("As many polls as one core makes", (_US, _RATE, _CORES, _CONNECTIONS, _TARGET)),
    "latency": (
        "Latency: produced to asm.inject until the service has it; answer received until its record can be read",
        (*_INJECT, *_READABLE, _RATE),
    ),
    "memory": ("Memory", (_RSS, Column("kB/session", "per_session", 1e-3, 1))),
    "scale": (
        "The same number of polls from four times as many sessions, each polled a quarter as often",
        (Column("interval s", "interval", 1, 1), _US, _RATE, *_GAPS, _RSS, _TARGET),
    ),
    "workers": ("As many polls as two workers make, a core each", (_RATE, _US, _CORES, _RSS, _TARGET)),
    "recovery": ("Seconds after kill -9 until every session is polled again", (Column("s", "recovery", 1, 2),)),
    "queue": (
        "A queue of 50 calls that all agents see, one change a second",
        (_CORES, _US, _RATE, _RSS, _TARGET),
    ),
    "growth": (
        "Memory over many polls",
        (
            Column("polls", "polls"),
            Column("RSS MB before", "rss_before", 1e-6, 1),
            Column("after", "rss", 1e-6, 1),
            Column("kB/million polls", "growth", 1e-3),
            _RATE,
        ),
    ),
}
_COMPARED = {
    "load": ("us_per_poll", "CPU"),
    "flat": ("polls_per_s", "polls"),
    "scale": ("us_per_poll", "CPU"),
    "workers": ("polls_per_s", "polls"),
}
"""The figure whose ratio to the yardstick's comes first."""
_OWN = {"scale": "the smaller", "workers": "one process"}
"""The kinds of measurement whose yardstick is the bridge itself."""


def yardstick(measurements: Sequence[Measurement]) -> str | None:
    """The client by whose figures the others' are divided: the Go poller, or the aiohttp script."""
    there = {one.client for one in measurements if one.figures}
    return next((name for name in (GO, AIOHTTP) if name in there), None)


def ratio(one: Measurement, measurements: Sequence[Measurement]) -> float | None:
    """To the yardstick's figure of the same scenario; of workers to one process's, of a scale to the smaller one's."""
    figure, _ = _COMPARED.get(one.kind, ("", ""))
    kin = [other for other in measurements if other.kind == one.kind]
    name = EXACTLY_ONCE if one.kind in _OWN else yardstick(measurements)
    sessions = min(other.sessions for other in kin) if one.kind == "scale" else one.sessions
    beside = next((other for other in kin if (other.sessions, other.client) == (sessions, name)), None)
    own, other = one.figures.get(figure), beside.figures.get(figure) if beside else None
    return own / other if own is not None and other else None


def with_memory(measurements: Sequence[Measurement]) -> list[Measurement]:
    """The measurements with ``per_session`` for clients whose memory was measured with fewer sessions too."""
    smallest: dict[str, Measurement] = {}
    done = []
    for one in measurements:
        if one.kind == "memory":
            cost = per_session(smallest.setdefault(one.client, one), one)
            one = Measurement(one.kind, one.client, one.sessions, {**one.figures, "per_session": cost}, one.note)
        done.append(one)
    return done


def tables(measurements: Sequence[Measurement]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Title, headers and rows: of the goals, and of each kind that was measured."""
    if found := goals(measurements):
        title = f"Goals: {sum(goal.met for goal in found)} of {len(found)} met"
        yield title, ["goal", "sessions", "target", "measured", "verdict"], [_held(goal) for goal in found]
    for kind, group in groupby(measurements, key=lambda one: one.kind):
        title, columns = TABLES[kind]
        beside = _OWN.get(kind) or yardstick(measurements) or "yardstick"
        compared = [f"{_COMPARED[kind][1]} / {beside}'s"] if kind in _COMPARED else []
        headers = ["sessions", "client", *compared, *(column.header for column in columns), "note"]
        yield title, headers, [_row(one, columns, measurements) for one in group]


def _held(goal: Goal) -> list[str]:
    measured = _shown(goal.measured, 1, 3 if goal.target < 10 else 1)
    return [goal.name, f"{goal.sessions:,}", f"{goal.bound} {goal.target:,g}", measured, goal.verdict]


def _row(one: Measurement, columns: Sequence[Column], measurements: Sequence[Measurement]) -> list[str]:
    compared = [_shown(ratio(one, measurements), 1, 2)] if one.kind in _COMPARED else []
    cells = [_shown(one.figures.get(column.figure), column.scale, column.digits) for column in columns]
    return [f"{one.sessions:,}", one.client, *compared, *cells, one.note]


def _shown(value: float | None, scale: float, digits: int) -> str:
    return "-" if value is None else f"{value * scale:,.{digits}f}"


def as_json(machine: dict[str, str], measurements: Sequence[Measurement], notes: Sequence[str]) -> dict[str, Any]:
    rows = [{**asdict(one), "ratio": ratio(one, measurements)} for one in measurements]
    held = [{**asdict(goal), "met": goal.met} for goal in goals(measurements)]
    return {
        "machine": machine,
        "goals": held,
        "yardstick": yardstick(measurements),
        "measurements": rows,
        "notes": list(notes),
    }
