"""Every metric of the bridge, in one place. Names are a user interface, and start with ``asm_bridge_``."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import bridge
from asm_bridge_schemas.commands import DEAD_LETTER_CODES
from asm_bridge_schemas.records import (
    TOPICS,
    AgentObservationLost,
    AgentObservationResumed,
    AgentState,
    InjectionCompleted,
    Outcome,
    values_of,
)
from bridge.agents.step import Step
from bridge.asm.errors import REASONS

Observation = AgentObservationLost | AgentObservationResumed

_POLL_RESULTS = ("ok", *REASONS)
_RECORD_TOPICS = sorted(set(TOPICS.values()) - {TOPICS[AgentState]})
_KAFKA_OPERATIONS = (
    *("start", "registry", "group", "inbox", "commit", "state"),
    *("header_name", "another_log", "topics", "shortened", "refused"),
)
_KEPT_OBSERVATIONS = 10_000
"""More than a process has agents."""
_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Timings(Collector):
    """A histogram for something that happens in every poll: a tenth of the cost of the client library's, which locks
    twice.

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
    """The list of metrics. A counter with a label names its known values, so that it starts at zero for each: a series
    that appears with its first event would hide that event from ``increase()``.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, label: str | None = None, known: Iterable[str] = ()) -> Counter:
            made = Counter(f"asm_bridge_{name}", text, [label] if label else [], registry=registry)
            for value in known:
                made.labels(value)
            return made

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"asm_bridge_{name}", text, labels, registry=registry)

        def timings(name: str, text: str) -> Timings:
            return Timings(f"asm_bridge_{name}", text, registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"asm_bridge_{name}", text, registry=registry, buckets=_FAST)

        self.polls = counter("polls", "Requests to the vendor by result", "result", _POLL_RESULTS)
        self.conversation_lists = counter(
            "conversation_lists", "Requests for a page of conversations by result", "result", _POLL_RESULTS
        )
        self.poll_seconds = timings("poll_seconds", "Time from request to answer")
        self.lateness_seconds = timings("poll_lateness_seconds", "Time from when a poll was due to its start")
        self.skipped_ticks = counter(
            "skipped_ticks", "Polls skipped, by reason", "reason", ("late", "unanswered", "rate_limit", "partition")
        )
        self.records = counter("records", "Records appended, by topic", "topic", _RECORD_TOPICS)
        self._records = {
            record: self.records.labels(topic) for record, topic in TOPICS.items() if record is not AgentState
        }
        self.changes = counter("changes", "Steps that added a record")
        self.outcomes = counter("injection_outcomes", "Injections completed, by outcome", "outcome", values_of(Outcome))
        self.dead_letters = counter("dead_letters", "Dead letters, by error code", "code", DEAD_LETTER_CODES)
        self.commits = counter("commits", "Transactions by result", "result", ("ok", "failed"))
        self.commit_seconds = histogram("commit_seconds", "Time a transaction takes")
        self.rebalances = counter("rebalances", "Times that partitions were revoked")
        self.partitions = gauge("partitions_owned", "Partitions whose agents this process watches")
        self.partitions_lost = counter("partitions_lost", "Times that a partition's memory was dropped and read again")
        self.agents = gauge("agents", "Watched agents of this process, by state", "state")
        self.stable_offset_behind = gauge(
            "stable_offset_behind_seconds",
            "For how long an open transaction has held back a partition, once that is more than 30 s",
            "topic",
            "partition",
        )
        self.kafka_clock_ahead = gauge(
            "kafka_clock_ahead_seconds", "By how much this machine's clock is ahead of Kafka's (negative: behind)"
        )
        self.inbox_pending = gauge("inbox_pending", "Injections that wait for their agent")
        self.inbox_oldest_seconds = gauge("inbox_oldest_seconds", "Age of the oldest injection that waits")
        self.inbox_deleted = counter("inbox_deleted", "Offsets of the inbox that were deleted before they were read")
        self.token_reloads = gauge("token_reloads", "Token files read so far")
        self.unreadable_fields = counter("unreadable_fields", "Fields of answers that could not be read", "field")
        self.registry_errors = counter("registry_errors", "Registry entries that could not be read")
        self.ready = gauge("ready", "1 if this process is ready, as in /readyz, else 0")
        self.service_down = gauge("service_down", "1 while the service does not answer at all, else 0")
        self.registered = gauge("registered_agents", "Agents in the registry, over all processes")
        self.step_seconds = histogram("step_seconds", "Time from an answer to the commit of its records")
        self.kafka_errors = counter("kafka_errors", "Errors from Kafka, by operation", "operation", _KAFKA_OPERATIONS)
        Info("asm_bridge_build", "Version of the bridge", registry=registry).info({"version": bridge.__version__})
        ProcessCollector(namespace="asm_bridge", registry=registry)
        self.observations: deque[Observation] = deque(maxlen=_KEPT_OBSERVATIONS)
        """Agents lost and resumed; ``bridge.ops.monitor`` removes them once a second."""

    @property
    def sampled(self) -> list[Collector]:
        """The metrics from which the status computes its rates."""
        return [
            self.polls, self.poll_seconds, self.lateness_seconds, self.skipped_ticks, self.records, self.outcomes,
            self.dead_letters, self.commits, self.commit_seconds, self.rebalances, self.partitions_lost,
            self.registry_errors,
        ]  # fmt: skip

    def record_step(self, step: Step) -> None:
        """Counts the records of a step."""
        if step.records:
            self.changes.inc()
        for record in step.records:
            self._records[type(record)].inc()
            if isinstance(record, InjectionCompleted):
                self.outcomes.labels(record.outcome).inc()
            elif isinstance(record, AgentObservationLost | AgentObservationResumed):
                self.observations.append(record)


METRICS = Metrics()
