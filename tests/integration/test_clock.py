"""A machine whose clock is wrong, against Kafka, whose clock counts."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import lab

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


@pytest.mark.parametrize("wrong_by", [600, 7200, -600], ids=["10 min ahead", "2 h ahead", "10 min behind"])
async def test_events_do_not_expire_because_a_clock_is_wrong(
    broker: Broker, topics_prefix: str, tmp_path: Path, wrong_by: int
) -> None:
    """The bridge goes by Kafka's clock: events are delivered, records have Kafka's time, and the difference is a line
    of the log, of `check` and of the status, and a metric.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "3", "--change-rate", "0") as a_lab:
        a_lab.program = ("tests.support.shifted", str(wrong_by))
        await a_lab.bridge()
        agents = await a_lab.register_all()
        for number in range(6):
            await a_lab.inject(agents[number % 3], f"10{number}")
        await a_lab.completed()
        facts = await a_lab.facts()
        assert_kept(facts)
        outcomes = [one for one in facts.told if one.record["type"] == "InjectionCompleted"]
        assert {one.record["outcome"] for one in outcomes} == {"delivered"}
        for one in outcomes:
            took = at(one.record["completed_at"]) - at(one.record["received_at"])
            assert -1 < took < 30
        metrics = (await a_lab.ask("bridge", "metrics"))[1]
        ahead = next(line for line in metrics.splitlines() if line.startswith("asm_bridge_kafka_clock_ahead_seconds"))
        assert float(ahead.split()[1]) == pytest.approx(wrong_by, abs=1)
        said = f"this machine's clock is {abs(wrong_by)} s {'ahead of' if wrong_by > 0 else 'behind'} Kafka's"
        notices = json.loads((await a_lab.ask("bridge", "api/status"))[1])["notices"]
        assert said in [notice["text"] for notice in notices]
        assert (tmp_path / "bridge.log").read_text().count('"clock.differs"') == 1
        assert said in (await a_lab.command("check"))[1]


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
