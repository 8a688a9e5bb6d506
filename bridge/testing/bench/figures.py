"""Calculates figures: percentiles, and the differences between a measurement's two moments."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Spread = dict[str, float | None]


@dataclass(frozen=True)
class Moment:
    """CPU seconds that a client has used so far, and its resident memory in bytes."""

    cpu: float
    rss: int


@dataclass(frozen=True)
class Measurement:
    """One client in one scenario. ``figures``: seconds, microseconds (``us_...``) and bytes; see ``load_figures``."""

    kind: str
    client: str
    sessions: int
    figures: Mapping[str, float | None] = field(default_factory=dict)
    note: str = ""


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Of sorted values, the one that ``share`` (0 to 1) of them do not exceed; None without any."""
    return ordered[round(share * (len(ordered) - 1))] if ordered else None


def spread(values: Iterable[float]) -> Spread:
    """``count``, ``p50``, ``p99`` and ``max``."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50": percentile(ordered, 0.5),
        "p99": percentile(ordered, 0.99),
        "max": percentile(ordered, 1),
    }


def load_figures(
    before: Moment, after: Moment, seen: Mapping[str, Any], delays: Sequence[float]
) -> dict[str, float | None]:
    """The figures for the time between two moments; ``growth`` is in bytes of memory per million polls.

    ``seen``: the target's /stats of that time; ``delays``: of each record, seconds from its timestamp until it could be
    read.
    """
    polls, changes, seconds = seen["polls"], seen["changes"], seen["window_s"]
    cpu = after.cpu - before.cpu
    return {
        "polls": polls,
        "polls_per_s": polls / seconds,
        "us_per_poll": 1e6 * cpu / polls if polls else None,
        "cores": cpu / seconds,
        "rss_before": before.rss,
        "rss": after.rss,
        "growth": 1e6 * (after.rss - before.rss) / polls if polls else None,
        "connections": seen["connections"],
        "records_per_change": len(delays) / changes if changes else None,
        "target_us_per_poll": 1e6 * seen["cpu_s"] / polls if polls else None,
        **{f"gap_{name}": value for name, value in seen["gap"].items()},
        **{f"inject_{name}": value for name, value in seen["inject"].items()},
        **{f"readable_{name}": value for name, value in spread(delays).items()},
    }


def per_session(smaller: Measurement, larger: Measurement) -> float | None:
    """Bytes per additional session, from two measurements of one client."""
    small, large = smaller.figures.get("rss"), larger.figures.get("rss")
    if small is None or large is None or larger.sessions <= smaller.sessions:
        return None
    return (large - small) / (larger.sessions - smaller.sessions)
