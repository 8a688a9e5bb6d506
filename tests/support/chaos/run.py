"""Runs the bridge among faults and judges the result: ``python -m tests.support.chaos.run``."""

import argparse
import asyncio
import json
import logging
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bridge.testing.brokers import Broker, start_broker
from bridge.testing.brokers.cluster import Cluster
from tests.support.chaos import faults, foreign, machine, topics
from tests.support.chaos.checker import broken_promises
from tests.support.chaos.facts import Facts
from tests.support.chaos.faults import Fault, Trial
from tests.support.chaos.harness import TOKENS, Lab, lab, until
from tests.support.chaos.traffic import inject

SETTINGS = {
    "ASM__REQUEST_TIMEOUT": "3s",
    "INJECTION__TTL": "20s",
    "INJECTION__UNKNOWN_AGENT_GRACE": "3s",
}
"""Times to live and time-outs that let a run end soon after its last fault."""
LANES: dict[str, tuple[Mapping[str, Fault], tuple[float, float]]] = {
    "processes": (faults.PROCESSES, (1, 6)),
    "kills": (faults.KILLS, (12, 18)),
    "pauses": (faults.PAUSES, (2, 6)),
    "kafka": (faults.KAFKA, (8, 25)),
    "vendor": (faults.VENDOR, (0.5, 3)),
    "gateway": (faults.GATEWAY, (1, 5)),
    "registry": (faults.REGISTRY, (1, 6)),
    "disk": (machine.DISK, (10, 20)),
    "rights": (machine.RIGHTS, (2, 8)),
    "clock": (machine.CLOCK, (1, 5)),
    "transactions": (foreign.TRANSACTIONS, (1, 5)),
    "poison": (foreign.POISON, (0.5, 3)),
    "topics": (topics.TOPICS, (2, 8)),
    "states": (topics.STATES, (8, 15)),
    "refusals": (topics.REFUSALS, (1, 5)),
}
"""The faults of each lane, and the seconds between two of them. The lane ``inbox`` is ``traffic.inject``."""
ALL = (*(name for name in LANES if name not in ("kills", "pauses", "states")), "inbox")
"""Every lane; ``processes`` and ``topics`` have the faults of the three that are left out."""
SETTLED = 180.0
"""Seconds within which all must be well when the faults are over: one session time-out, one back-off, times to live."""


@dataclass
class Plan:
    """The parameters of a run. ``pace`` multiplies the times between faults; ``kinds`` are the lanes to use."""

    seconds: float = 60.0
    seed: int = 1
    agents: int = 40
    processes: int = 3
    a_second: float = 4.0
    pace: float = 1.0
    quick: bool = False
    mutant: str | None = None
    intervals: tuple[float, ...] = (0.3, 0.5, 1.0)
    kinds: tuple[str, ...] = ("processes", "kafka", "vendor", "registry", "inbox")


@dataclass
class Report:
    """The result of a run."""

    plan: Plan
    facts: Facts
    survived: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as text."""
        told = [told.record for told in self.facts.told]
        outcomes = Counter(record["outcome"] for record in told if record["type"] == "InjectionCompleted")
        again = sum(bool(record.get("possibly_repeated")) for record in told)
        gaps = sorted(gap for agent in self.facts.agents.values() for gap in agent["gaps"]) or [0.0]
        few = gaps[int(len(gaps) * 0.99)]
        verdict = f"{len(self.broken)} BROKEN PROMISES" if self.broken else "every promise was kept"
        return [
            f"seed {self.plan.seed}: {verdict}",
            f"  {self.survived.total()} faults: {_counts(self.survived)}",
            f"  {len(told)} records in {len(self.facts.streams)} streams of {len(self.facts.agents)} agents",
            f"  {len(self.facts.produced)} injections: {_counts(outcomes)}; {again} possibly repeated",
            f"  gaps between polls: median {statistics.median(gaps):.2f} s, 99% {few:.2f} s, longest {gaps[-1]:.2f} s",
            *(f"  BROKEN: {text[:1000]}" for text in self.broken[:40]),
        ]


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"


async def chaos(brokers: Sequence[Broker], bootstrap_servers: str, directory: Path, plan: Plan) -> Report:
    """Runs the plan, lets everything settle, and judges. Broken promises are in the report and are not raised."""
    simulator = ["--sessions", str(plan.agents), "--change-rate", "0.5", "--latency", "50", "--seed", str(plan.seed)]
    async with lab(bootstrap_servers, f"c{secrets.token_hex(4)}.", directory, *simulator) as the_lab:
        trial = await _begun(the_lab, list(brokers), plan)
        try:
            await _break(trial, plan)
            await _settle(trial)
        except (TimeoutError, AssertionError) as error:
            trial.broken.append(f"it did not settle: {error}")
        facts = await the_lab.facts()
    return Report(plan, facts, trial.survived, [*trial.broken, *broken_promises(facts)])


async def _begun(the_lab: Lab, brokers: list[Broker], plan: Plan) -> Trial:
    if plan.mutant:
        the_lab.program = ("tests.support.chaos.mutants", plan.mutant)
    elif "clock" in plan.kinds:
        the_lab.program = ("tests.support.chaos.shifted",)
    the_lab.killed = True  # under faults not all that was shown need be told
    for broker in brokers:
        if isinstance(broker, machine.HarshBroker):
            await asyncio.to_thread(broker.admit, the_lab)
    processes = [f"bridge-{number}" for number in range(plan.processes)]
    await the_lab.bridge(processes[0], **SETTINGS)
    skills = {agent["agent_id"]: agent["skills"] for agent in await the_lab.sim.get("agents")}
    tokens = json.loads((the_lab.directory / "secrets" / TOKENS).read_text())
    ends = time.monotonic() + plan.seconds
    trial = Trial(the_lab, brokers, processes, skills, tokens, ends, plan.quick, plan.intervals)
    for number, name in enumerate(processes[1:], 1):  # every other one without static membership
        the_lab.launch(name, **SETTINGS, **({"KAFKA__GROUP_INSTANCE_ID": ""} if number % 2 else {}))
    await asyncio.gather(*(faults.registered(trial, Random(plan.seed), agent_id) for agent_id in skills))
    return trial


async def _break(trial: Trial, plan: Plan) -> None:
    """Runs all lanes concurrently, each with a random generator of its own, so that none changes another's order."""
    scale = plan.pace
    orchestrator = asyncio.create_task(faults.orchestrate(trial))
    try:
        async with asyncio.TaskGroup() as running:
            for name, (kinds, (least, most)) in LANES.items():
                if name in plan.kinds and (name != "kafka" or trial.brokers):
                    dice, pause = Random(f"{plan.seed}/{name}"), (least * scale, most * scale)
                    running.create_task(faults.lane(trial, dice, kinds, pause))
            if "inbox" in plan.kinds:
                running.create_task(inject(trial, Random(f"{plan.seed}/inbox"), plan.a_second))
    finally:
        orchestrator.cancel()


async def _settle(trial: Trial) -> None:
    """Ends the faults: within some time everything works, everything is emitted, and all processes exit cleanly."""
    trial.note("settling")
    the_lab, gone = trial.lab, trial.agents[-1]
    await the_lab.produce("sessions", None, gone.encode())
    await asyncio.gather(*(_ready(trial, name) for name in trial.processes))
    await the_lab.completed(SETTLED)
    await the_lab.sim.settle(trial.agents[:-1], deadline=SETTLED)
    codes = await asyncio.gather(*(the_lab.bridges[name].stop(faults.STOP_DEADLINE) for name in trial.processes))
    trial.broken += [f"{name} ended with {code}" for name, code in zip(trial.processes, codes, strict=True) if code]


async def _ready(trial: Trial, name: str) -> None:
    async def is_ready() -> bool:
        trial.see_to(name)
        return (await trial.lab.ask(name, "readyz"))[0] == 200

    await until(is_ready, f"{name} is ready", SETTLED)


def main() -> int:
    options = _options()
    broker = _start(options)
    plan = Plan(
        seconds=options.minutes * 60,
        seed=options.seed,
        pace=options.pace,
        agents=options.agents,
        processes=options.processes,
        a_second=options.injections,
        mutant=options.mutant,
        intervals=tuple(options.interval or Plan.intervals),
        kinds=options.faults,
    )
    directory = Path(tempfile.mkdtemp(prefix=f"asm-bridge-chaos-{plan.seed}-"))
    _log_to(directory / "lab.log")  # that a broker is away is what the run is about
    say(f"{plan.seconds / 60:g} min on {broker.description}; logs in {directory}")
    try:
        nodes = broker.nodes if isinstance(broker, Cluster) else [broker]
        report = asyncio.run(chaos(nodes, broker.bootstrap_servers, directory, plan))
    finally:
        broker.stop()
    say(*report.lines())
    if not report.broken:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if report.broken else 0


def _log_to(path: Path) -> None:
    """Writes what the lab's own clients say of Kafka to a file."""
    log, handler = logging.getLogger("aiokafka"), logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    log.addHandler(handler)
    log.propagate = False


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.support.chaos.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long there are faults")
    parser.add_argument("--seed", type=int, default=1, help="the same seed: the same faults in the same order")
    parser.add_argument("--agents", type=int, default=40)
    parser.add_argument(
        "--interval", type=float, action="append", help="between polls; again for several, to choose from"
    )
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--pace", type=float, default=1.0, help="by what the times between faults are multiplied")
    parser.add_argument("--injections", type=float, default=4.0, help="a second")
    parser.add_argument("--broker", help="docker, maven or HOST:PORT (default: the best there is)")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="3: a cluster of maven brokers")
    parser.add_argument(
        "--faults",
        type=_lanes,
        default=",".join((*Plan.kinds, "gateway")),
        help="lanes to use, or all; docs/chaos.md has all of them (%(default)s)",
    )
    parser.add_argument("--mutant", help="a deliberately broken build, see tests/chaos/mutants.py")
    return parser.parse_args()


def _lanes(text: str) -> tuple[str, ...]:
    named = ",".join(ALL) if text == "all" else text
    if unknown := {*named.split(",")} - {*LANES, "inbox"}:
        raise argparse.ArgumentTypeError(f"there is no lane {', '.join(sorted(unknown))}")
    return tuple(named.split(","))


def _start(options: argparse.Namespace) -> Broker:
    if {"disk", "rights"} & {*options.faults}:
        harsh = machine.HarshBroker()
        harsh.start()
        if "disk" in options.faults and not harsh.has_small_disk:
            say("the lane disk is left out: this user may not mount a tmpfs")
            options.faults = tuple(name for name in options.faults if name != "disk")
        return harsh
    if options.brokers == 1:
        return start_broker(options.broker)[0]
    cluster = Cluster()
    cluster.start()
    return cluster


if __name__ == "__main__":
    sys.exit(main())
