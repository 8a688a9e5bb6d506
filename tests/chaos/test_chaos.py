"""A short chaos run on each test run, and the seeds that once found something. The long one is `make chaos`."""

from pathlib import Path

import pytest

from bridge.testing.brokers import Broker
from bridge.testing.brokers.external import ExternalBroker
from tests.support.chaos.run import Plan, chaos

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1])
async def test_every_promise_is_kept_among_faults(broker: Broker, tmp_path: Path, seed: int) -> None:
    """With processes killed, stopped and paused, outages of Kafka and of the service, agents moved and bad input, all
    at once, every promise is kept.
    """
    plan = Plan(seconds=20, seed=seed, agents=24, processes=2, pace=0.5, quick=True)
    brokers = [] if isinstance(broker, ExternalBroker) else [broker]
    report = await chaos(brokers, broker.bootstrap_servers, tmp_path, plan)
    assert not report.broken, "\n".join(report.lines())
    assert report.survived.total() > 10
    assert len(report.facts.told) > 200


@pytest.mark.timeout(300)
async def test_no_foreign_answer_leaves_a_trace(broker: Broker, tmp_path: Path) -> None:
    """Pages, redirects, foreign errors and bursts of refusals in the service's name: the records know of none."""
    plan = Plan(seconds=20, seed=1, agents=16, processes=1, pace=0.2, quick=True, kinds=("gateway", "inbox"))
    report = await chaos([], broker.bootstrap_servers, tmp_path, plan)
    assert not report.broken, "\n".join(report.lines())
    assert report.survived.total() > 5
