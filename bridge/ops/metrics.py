"""Every metric of the bridge, in one place. Names are a user interface: they start with ``asm_bridge_``."""

from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from bridge.steps import Step
from schemas.records import TOPICS, InjectionCompleted

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"asm_bridge_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"asm_bridge_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"asm_bridge_{name}", text, registry=registry, buckets=_FAST)

        self.polls = counter("polls", "Requests to the vendor by result", "result")
        self.poll_seconds = histogram("poll_seconds", "Time from request to answer")
        self.lateness_seconds = histogram("poll_lateness_seconds", "How long after its time a poll began")
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
        Info("asm_bridge_build", "Version of the bridge", registry=registry).info({"version": _version()})

    def told(self, step: Step) -> None:
        """Count what a step tells."""
        if step.records:
            self.changes.inc()
        for record in step.records:
            self.records.labels(TOPICS[type(record)]).inc()
            if isinstance(record, InjectionCompleted):
                self.outcomes.labels(record.outcome).inc()


def _version() -> str:
    try:
        return version("asm-kafka-bridge")
    except PackageNotFoundError:
        return "unknown"


METRICS = Metrics()
