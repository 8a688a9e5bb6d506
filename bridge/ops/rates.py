"""Rates and quantiles from counters that are read once per second: pure."""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec
from prometheus_client.registry import Collector

_PREFIX = "asm_bridge_"


class Sample(msgspec.Struct, frozen=True):
    """The counters at one time (monotonic seconds): name without prefix -> label's value ("" without one) -> value."""

    at: float
    values: dict[str, dict[str, float]]

    def by_label(self, name: str) -> dict[str, float]:
        return self.values.get(name, {})

    def total(self, name: str) -> float:
        return sum(self.by_label(name).values())


def sample(at: float, metrics: Iterable[Collector]) -> Sample:
    """Reads metrics that have at most one label."""
    values: dict[str, dict[str, float]] = {}
    for metric in metrics:
        for family in metric.collect():
            for one in family.samples:
                label = next(iter(one.labels.values()), "")
                values.setdefault(one.name.removeprefix(_PREFIX), {})[label] = one.value
    return Sample(at, values)


def per_second(old: Sample, new: Sample, name: str, label: str | None = None) -> float:
    """The growth of a counter per second between two samples, over all of its labels if none is named."""
    elapsed = new.at - old.at
    if elapsed <= 0:
        return 0.0
    if label is None:
        return (new.total(name) - old.total(name)) / elapsed
    return (new.by_label(name).get(label, 0.0) - old.by_label(name).get(label, 0.0)) / elapsed


def quantile(old: Sample, new: Sample, name: str, q: float) -> float | None:
    """A quantile of a histogram's observations between two samples, as by Prometheus' ``histogram_quantile``: linear
    within a bucket, the highest bound beyond it. None without observations.
    """
    before = old.by_label(f"{name}_bucket")
    buckets = sorted((float(le), count - before.get(le, 0.0)) for le, count in new.by_label(f"{name}_bucket").items())
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = q * buckets[-1][1]
    index = bisect_left([count for _, count in buckets], rank)
    if index == len(buckets) - 1:
        return buckets[-2][0]
    lower, below = buckets[index - 1] if index else (0.0, 0.0)
    upper, count = buckets[index]
    return lower + (upper - lower) * (rank - below) / (count - below) if count > below else upper
