"""The bench with a real bridge."""

import pytest

from bridge.testing.bench import runner
from bridge.testing.bench.scenarios import AT_LEAST_ONCE, EXACTLY_ONCE, Scenario
from bridge.testing.brokers import Broker
from tests.support.patience import patient

pytestmark = pytest.mark.kafka


def test_a_short_run_gives_all_figures(broker: Broker) -> None:
    """One short run gives all figures: CPU, rates, gaps, memory, latencies in both directions, recovery."""
    name = EXACTLY_ONCE if broker.transactions else AT_LEAST_ONCE
    plan = [
        Scenario("latency", 20, (name,), seconds=2, warm=0.5, change=0.3, injected=20),
        Scenario("recovery", 20, (name,), seconds=2, warm=0.5),
    ]
    report = runner.run(broker.bootstrap_servers, plan, print)
    latency, recovery = report.measurements
    assert (latency.note, recovery.note) == ("", "")
    found = {name: value for name, value in latency.figures.items() if value is not None}
    assert found["polls_per_s"] > 20 * 0.7
    assert min(found["us_per_poll"], found["rss"], found["gap_p99"], found["target_us_per_poll"]) > 0
    assert 0 < found["inject_p99"] < patient(5)
    assert 0 < found["readable_p99"] < patient(5)
    assert found["records_per_change"] > 0.5
    assert 0 < (recovery.figures["recovery"] or 0) < patient(30)
    assert report.machine["cores"]
