"""A machine whose clock is wrong, against Kafka, whose clock counts."""

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from bridge.clock import rfc3339
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import TOKENS, event_of, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


WRONG = {"10 min ahead": 600, "2 h ahead": 7200, "10 min behind": -600, "2 h behind": -7200}
wrong = pytest.mark.parametrize("wrong_by", WRONG.values(), ids=WRONG)


@wrong
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
async def test_events_do_not_expire_because_a_clock_is_wrong(
    broker: Broker, topics_prefix: str, tmp_path: Path, wrong_by: int, delivery: str
) -> None:
    """The bridge goes by Kafka's clock: events are delivered, records have Kafka's time, and the difference is a line
    of the log, of `check` and of the status, and a metric.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "3", "--change-rate", "0") as a_lab:
        a_lab.program = ("tests.support.shifted", str(wrong_by))
        await a_lab.bridge(KAFKA__DELIVERY=delivery)
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


@wrong
async def test_commands_go_by_kafkas_clock(broker: Broker, topics_prefix: str, tmp_path: Path, wrong_by: int) -> None:
    """On a machine whose clock is wrong, `sessions` edits the registry, and `inject` and `dead-letters` go by
    Kafka's clock and say so."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1", "--change-rate", "0") as a_lab:
        await a_lab.bridge(INJECTION__UNKNOWN_AGENT_GRACE="0.1s")
        a_lab.program = ("tests.support.shifted", str(wrong_by))
        (agent,) = await a_lab.sim.get("agents")
        name = agent["agent_id"]
        said = f"this machine's clock is {abs(wrong_by)} s {'ahead of' if wrong_by > 0 else 'behind'} Kafka's"
        assert (await a_lab.command("sessions", "add", name, "--token", f"file:{TOKENS}#{name}"))[0] == 0
        event = tmp_path / "event.json"
        event.write_bytes(event_of("1"))
        for expiry in (("--expires-in", "60s"), ("--expires-at", rfc3339(time.time() + 60))):
            code, out, err = await a_lab.command("inject", name, str(event), *expiry)
            assert code == 0, err
            assert out.startswith("delivered: ")
            assert said in err
        code, _, err = await a_lab.command("inject", name, str(event), "--expires-at", rfc3339(time.time() - 60))
        assert code == 2
        assert "is in the past" in err
        assert (await a_lab.command("inject", "nobody", str(event), "--no-wait", "--expires-in", "60s"))[0] == 0

        async def listed() -> bool:
            return "nobody" in (await a_lab.command("dead-letters", "list", "--since", "5m"))[1]

        await until(listed, "the dead letter is listed as a new one")
        code, out, err = await a_lab.command("dead-letters", "resend", "--agent", "nobody", "--dry-run")
        assert (code, "would be sent" in out, "has passed" in out) == (0, True, False), err
