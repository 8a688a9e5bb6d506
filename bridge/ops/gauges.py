"""The gauges of the process, set from a snapshot for each read of ``/metrics``."""

from collections import Counter

from bridge.agents.agent import CONDITIONS
from bridge.ops.snapshot import Snapshot
from bridge.telemetry.metrics import METRICS


def set_gauges(snapshot: Snapshot) -> None:
    METRICS.ready.set(snapshot.not_ready is None)
    METRICS.service_down.set(snapshot.service_down)
    METRICS.registered.set(snapshot.registered)
    METRICS.token_reloads.set(snapshot.token_reloads)
    METRICS.partitions.set(len(snapshot.owned))
    conditions = Counter(one.agent.condition for one in snapshot.agents())
    for condition in CONDITIONS:
        METRICS.agents.labels(condition).set(conditions[condition])
    arrivals = snapshot.arrivals()
    METRICS.inbox_pending.set(len(arrivals))
    METRICS.inbox_oldest_seconds.set(snapshot.now - min(arrivals, default=snapshot.now))
