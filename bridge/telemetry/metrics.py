"""Every metric of the bridge, in one place. Names are a user interface: they start with ``asm_bridge_``."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from asm_bridge_schemas.records import (
    TOPICS,
    AgentObservationLost,
    AgentObservationResumed,
    AgentState,
    InjectionCompleted,
    Outcome,
)
from bridge.agents.step import Step
from bridge.asm.errors import Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.ops.events import OBSERVATIONS

if TYPE_CHECKING:
    from bridge.ops.snapshot import Snapshot

_FAILURES = (Unauthorized, Throttled, Unavailable, Unreachable, Refused, Malformed)
_DEAD_LETTERS = (
    "malformed_event", "malformed_entry", "literal_token", "refused", "attempts_exhausted", "unknown_agent", "backlog",
    "too_large",
)  # fmt: skip
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Timings(Collector):
    """A histogram for what happens at every poll: a tenth of the cost of the client library's, which locks twice.

    One thread observes; another may collect.
    """

    def __init__(self, name: str, text: str, registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._counts = [0] * (len(_FAST) + 1)
        self._sum = 0.0
        registry.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_FAST, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*map(floatToGoString, _FAST), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], [*zip(bounds, accumulate(self._counts), strict=True)], self._sum)
        yield family


class Metrics:
    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"asm_bridge_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"asm_bridge_{name}", text, labels, registry=registry)

        def timings(name: str, text: str) -> Timings:
            return Timings(f"asm_bridge_{name}", text, registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"asm_bridge_{name}", text, registry=registry, buckets=_FAST)

        self.polls = counter("polls", "Requests to the vendor by result", "result")
        self.poll_seconds = timings("poll_seconds", "Time from request to answer")
        self.lateness_seconds = timings("poll_lateness_seconds", "How long after its time a poll began")
        self.skipped_ticks = counter("skipped_ticks", "Polls left out, by reason", "reason")
        self.records = counter("records", "Records appended, by topic", "topic")
        self.changes = counter("changes", "Steps that told something new")
        self.outcomes = counter("injection_outcomes", "Injections completed, by outcome", "outcome")
        self.dead_letters = counter("dead_letters", "Dead letters, by error code", "code")
        self.commits = counter("commits", "Transactions by result", "result")
        self.commit_seconds = histogram("commit_seconds", "Time a transaction takes")
        self.rebalances = counter("rebalances", "Times that partitions were revoked")
        self.partitions = gauge("partitions_owned", "Partitions whose agents this process watches")
        self.partitions_lost = counter("partitions_lost", "Times that a partition's memory was dropped and read again")
        self.agents = gauge("agents", "Watched agents of this process, by state", "state")
        self.inbox_pending = gauge("inbox_pending", "Injections that wait for their agent")
        self.inbox_oldest_seconds = gauge("inbox_oldest_seconds", "Age of the oldest injection that waits")
        self.token_reloads = gauge("token_reloads", "Token files read so far")
        self.registry_errors = counter("registry_errors", "Registry entries that could not be read")
        self.ready = gauge("ready", "1 if this process does its work, as /readyz has it, else 0")
        self.service_down = gauge("service_down", "1 while the service does not answer at all, else 0")
        self.registered = gauge("registered_agents", "Agents in the registry, over all processes")
        self.step_seconds = histogram("step_seconds", "Time from an answer to the commit of what it tells")
        self.kafka_errors = counter("kafka_errors", "Errors from Kafka, by what was done", "operation")
        Info("asm_bridge_build", "Version of the bridge", registry=registry).info({"version": VERSION})
        ProcessCollector(namespace="asm_bridge", registry=registry)
        self._begin_at_zero()

    @property
    def sampled(self) -> list[Collector]:
        """What rates are made of, for the status."""
        return [
            self.polls, self.poll_seconds, self.lateness_seconds, self.skipped_ticks, self.records, self.outcomes,
            self.dead_letters, self.commits, self.commit_seconds, self.rebalances, self.partitions_lost,
            self.registry_errors,
        ]  # fmt: skip

    def _begin_at_zero(self) -> None:
        """A counter that appears with its first event hides that event from ``increase()``."""
        known: dict[Counter, Iterable[str]] = {
            self.polls: ("ok", *(error.reason for error in _FAILURES)),
            self.skipped_ticks: ("late", "unanswered", "partition"),
            self.records: sorted(set(TOPICS.values()) - {TOPICS[AgentState]}),
            self.outcomes: get_args(Outcome),
            self.commits: ("ok", "failed"),
            self.dead_letters: _DEAD_LETTERS,
            self.kafka_errors: ("start", "registry", "group", "inbox", "commit"),
        }
        for counter, labels in known.items():
            for label in labels:
                counter.labels(label)

    def observe(self, snapshot: "Snapshot") -> None:
        """Bring the gauges of the process up to date."""
        self.ready.set(snapshot.not_ready is None)
        self.service_down.set(snapshot.host_down)
        self.registered.set(snapshot.registered)

    def record_step(self, step: Step) -> None:
        """Count what a step tells."""
        if step.records:
            self.changes.inc()
        for record in step.records:
            self.records.labels(TOPICS[type(record)]).inc()
            if isinstance(record, InjectionCompleted):
                self.outcomes.labels(record.outcome).inc()
            elif isinstance(record, AgentObservationLost | AgentObservationResumed):
                OBSERVATIONS.told(record)


def _version() -> str:
    try:
        return version("asm-kafka-bridge")
    except PackageNotFoundError:
        return "unknown"


VERSION = _version()
METRICS = Metrics()
