"""The analytics report of a day with an outage of the bridge in it, held against the simulator's own ledger.

The day is short: DAY seconds, in which agents change their status every ten seconds or so. The outage is not: the
bridge is killed, and started again OUTAGE seconds later.

How exact can a report be? A status is true when the service puts it into an answer, and known when that answer has
arrived (`observed_at`). A change right after one answer is shown by the next: it is known one interval later, and as
much later as the second answer was on its way. A login and a logout take two requests, one that finds out and one that
says what holds. So by `observed_at` nothing is known more exactly than to within the interval between two polls and the
time of two answers; both are measured here, by the service and by the bridge, and nothing is added to them. These
errors are as often too long as too short, but over many stays their sum grows.

The report takes the time of a change from the service (`last_status_change`), so time in state has two errors left: a
status between two polls counts as the one before, and the end of a login is known by `observed_at` only.
"""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.testing.brokers import Broker
from tests.support import examples, truth
from tests.support.chaos.harness import Lab, lab
from tests.support.truth import Stay, Wait

pytestmark = [pytest.mark.kafka, pytest.mark.transactions, examples.opt_in, pytest.mark.timeout(3600)]

DAY = float(os.environ.get("EXAMPLES_DAY", "150"))
OUTAGE = 60.0
AGENTS, RATE, SEED = 12, 0.1, 10  # in this one agents log out, too
INTERVAL = 1.0
TOO_LATE = INTERVAL
"""Seconds beyond the interval within which a report says something about it: on a busier machine it says nothing."""


class Report(NamedTuple):
    """The report's tables; times in seconds since 1970."""

    stays: dict[str, list[Stay]]
    calls: list[dict[str, Any]]
    missing: list[Any]
    until: dict[str, float]


async def test_the_report_agrees_with_the_simulators_ledger(
    broker: Broker, topics_prefix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over a day with an outage of 60 s, an agent's time in each state differs from the truth by at most one poll
    interval and the time that is declared unobserved; within the observed time by at most one interval and the time
    that answers took, for each logout. Every wait is right, and the report's state at any time was true, to within the
    same.
    """
    python = examples.python("analytics")
    arguments = ["--sessions", str(AGENTS), "--change-rate", str(RATE), "--seed", str(SEED)]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1")
        await the_lab.register_all(interval=INTERVAL)
        await asyncio.sleep((DAY - OUTAGE) / 2)
        answered = await slowest_answer(the_lab)
        the_lab.kill()
        killed = time.time()
        await asyncio.sleep(OUTAGE)
        await the_lab.bridge()
        await asyncio.sleep((DAY - OUTAGE) / 2)
        ended = time.time()
        await asyncio.sleep(3)  # heartbeats that cover it
        answered = max(answered, await slowest_answer(the_lab))
        ledgers = await the_lab.sim.agents()
        assert await the_lab.bridges["bridge"].stop() == 0
        report = read_report(python, the_lab, tmp_path)

    epoch = truth.epoch_of(ledgers)
    figures = Figures(epoch, ended, (killed, killed + OUTAGE), longest_interval(ledgers), answered)
    if figures.exactness > INTERVAL + TOO_LATE:
        pytest.skip(f"this machine is too busy: polls are {figures.interval:.2f} s apart, answers take {answered:g} s")
    assert not report.missing
    assert set(report.stays) == set(ledgers)
    for number, (agent_id, ledger) in enumerate(ledgers.items()):
        lived = truth.changes(number, SEED, RATE, epoch, time.time(), logouts=True)
        near = {(at + off, desc) for at, desc in lived for off in (-1, 0, 1)}
        assert set(truth.pictures(ledger)) <= near, "the lives that were lived again are not those of the ledger"
        true = truth.stays(number, SEED, RATE, epoch, time.time(), logouts=True)
        figures.add_agent(agent_id, report.stays[agent_id], true, min(ended, report.until[agent_id]))
    figures.add_calls(report.calls, truth.waits(SEED, RATE, epoch, time.time()), min(report.until.values()))
    with capsys.disabled():
        sys.stdout.write(figures.text())
    assert not figures.wrong, figures.wrong


async def slowest_answer(the_lab: Lab) -> float:
    """Seconds within which the bridge has had each answer, counted from when it sent the request."""
    _, text = await the_lab.ask("bridge", "metrics")
    (family,) = (one for one in text_string_to_metric_families(text) if one.name == "asm_bridge_poll_seconds")
    counts = [(float(one.labels["le"]), one.value) for one in family.samples if one.name.endswith("_bucket")]
    return min(bound for bound, count in counts if count == counts[-1][1])


def longest_interval(ledgers: dict[str, dict[str, Any]]) -> float:
    """Between two polls as the service saw them come, if none was left out between (at a logout, and in the outage)."""
    return max(gap for ledger in ledgers.values() for gap in ledger["gaps"] if gap < 1.5 * INTERVAL)


def read_report(python: str, the_lab: Lab, folder: Path) -> Report:
    """Runs the example as its README says, then reads the tables that it printed from."""
    data, picture = folder / "data", folder / "report.svg"
    environment = examples.environment(the_lab.bootstrap_servers, the_lab.prefix)
    program = examples.EXAMPLES / "analytics" / "report.py"
    said = examples.run([python, str(program), "--data", str(data), "--picture", str(picture)], environment)
    assert "No record is missing." in said
    assert "<svg" in picture.read_text(encoding="utf-8")
    found, calls, missing = examples.query_report(data, "FROM stays ORDER BY begins", "FROM calls", "FROM missing")
    stays: dict[str, list[Stay]] = {}
    for row in found:
        stays.setdefault(row["agent_id"], []).append(Stay(row["state"], at(row["begins"]), at(row["ends"])))
    until = {agent_id: found[-1].ends for agent_id, found in stays.items()}
    return Report(stays, calls, missing, until)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


class Figures:
    """What the comparison found; ``wrong`` says what exceeds its limit.

    ``interval``: the longest between two polls; ``answered``: the seconds within which answers came.
    """

    def __init__(
        self, epoch: float, ended: float, outage: tuple[float, float], interval: float, answered: float
    ) -> None:
        self.day = ended - epoch
        self.outage = outage
        self.interval, self.answered = interval, answered
        self.exactness = interval + 2 * answered
        self.wrong: list[str] = []
        self.staleness = 0.0
        self.difference = 0.0
        self.observed_differences: list[float] = []
        self.unobserved: list[float] = []
        self.stays = 0
        self.waits: list[float] = []
        self.bounded = self.waiting = self.unknown = self.unseen = 0

    def add_agent(self, agent_id: str, reported: list[Stay], true: list[Stay], until: float) -> None:
        begins = next(stay.begins for stay in reported if stay.state != "logged out")  # watched, and polled once
        reported = clipped(reported, begins, until)
        lost = [stay for stay in reported if stay.state == "unobserved"]
        unobserved = sum(stay.ends - stay.begins for stay in lost)
        self.unobserved.append(unobserved)
        if not any(stay.begins <= self.outage[0] + 0.1 and self.outage[1] <= stay.ends for stay in lost):
            self.wrong.append(f"{agent_id}: the outage is not declared")
        seen = [stay for stay in reported if stay.state != "unobserved"]
        self.stays += len(seen)
        for stay in seen:
            if (stale := staleness(stay, true)) > self.exactness:
                self.wrong.append(f"{agent_id}: {stay} was true {stale:.2f} s before at most")
            self.staleness = max(self.staleness, stale)
        whole = clipped(true, begins, until)
        observed = [one for gap in gaps(lost, begins, until) for one in clipped(true, *gap)]
        logouts = sum(stay.state == "logged out" for stay in seen)
        for state in {stay.state for stay in seen + whole}:
            mine = total(seen, state)
            difference, observed_difference = mine - total(whole, state), mine - total(observed, state)
            if abs(difference) > INTERVAL + unobserved:
                self.wrong.append(f"{agent_id}: {state} differs by {difference:.2f} s")
            if abs(observed_difference) > self.exactness * max(1, logouts):
                self.wrong.append(f"{agent_id}: {state} differs by {observed_difference:.2f} s of the observed time")
            self.difference = max(self.difference, abs(difference))
            self.observed_differences.append(observed_difference)

    def add_calls(self, reported: list[dict[str, Any]], true: dict[str, Wait], until: float) -> None:
        for row in reported:
            wait = true.pop(row["call_sid"])
            if row["state"] == "ended":
                difference = row["waited"] - (wait.ends - wait.begins)
                self.waits.append(difference)
                if abs(difference) > self.exactness:
                    self.wrong.append(f"{wait}: the report says {row['waited']:.2f} s")
            elif row["state"] == "ended unobserved":
                self.bounded += 1
                if not at(row["seen_until"]) - self.answered <= wait.ends <= at(row["ended_before"]):
                    self.wrong.append(f"{wait}: the report says {row['seen_until']} to {row['ended_before']}")
            elif row["state"] == "waiting":
                self.waiting += 1
                if wait.ends < until - self.exactness:
                    self.wrong.append(f"{wait}: the report says that it waits at {until}")
            else:
                self.unknown += 1
        self.unseen = sum(wait.begins < until for wait in true.values())

    def text(self) -> str:
        low, high = min(self.unobserved), max(self.unobserved)
        differences = sorted(map(abs, self.observed_differences))
        return f"""
a day of {self.day:.0f} s, {AGENTS} agents, an outage of {OUTAGE:.0f} s (kill -9)
polls every {INTERVAL:.0f} s: at most {self.interval:.3f} s apart, answered within {self.answered:.3f} s
declared unobserved: {low:.2f} to {high:.2f} s per agent
time in state, per agent and state: {self.difference:.2f} s off at most; within the observed time \
{differences[-1]:.3f} s, and half of them {differences[len(differences) // 2]:.3f} s
the state reported for any time was true at most {self.staleness:.3f} s before ({self.stays} stays)
waits: {len(self.waits)} ended, {min(self.waits):.3f} to {max(self.waits):.3f} s off; {self.bounded} ended while \
unobserved, within their bounds; {self.waiting} wait; {self.unknown} left with their agents; {self.unseen} unseen
"""


def clipped(stays: list[Stay], begins: float, ends: float) -> list[Stay]:
    """What of the stays lies between two times."""
    cut = [Stay(stay.state, max(stay.begins, begins), min(stay.ends, ends)) for stay in stays]
    return [stay for stay in cut if stay.ends > stay.begins]


def gaps(lost: list[Stay], begins: float, ends: float) -> list[tuple[float, float]]:
    """The times between those that are lost."""
    edges = [begins, *(edge for stay in lost for edge in (stay.begins, stay.ends)), ends]
    return list(zip(edges[::2], edges[1::2], strict=True))


def total(stays: list[Stay], state: str) -> float:
    return sum(stay.ends - stay.begins for stay in stays if stay.state == state)


def staleness(stay: Stay, true: list[Stay]) -> float:
    """How long before any moment of a reported stay its state was last true, at most; ``inf`` if it never was."""
    worst, since = 0.0, -inf
    for one in true:
        if one.ends <= stay.begins:
            since = one.ends if one.state == stay.state else since
        elif one.begins < stay.ends:
            if one.state != stay.state:
                worst = max(worst, min(one.ends, stay.ends) - since)
            since = one.ends if one.state == stay.state else since
    return worst
