"""All measurements, one after the other, so that none disturbs another."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bridge.testing.bench import clients, machine
from bridge.testing.bench.broker import Kafka, kafka
from bridge.testing.bench.clients import Client, go_build
from bridge.testing.bench.figures import Measurement
from bridge.testing.bench.measure import Bench, measure
from bridge.testing.bench.report import with_memory
from bridge.testing.bench.scenarios import Scenario


@dataclass(frozen=True)
class Report:
    """``notes``: what could not be measured, and why."""

    machine: dict[str, str]
    measurements: list[Measurement]
    notes: list[str]


def run(broker: str | None, plan: Sequence[Scenario], report: Callable[[str], None]) -> Report:
    """Measures ``plan``; ``report`` gets a line for each step.

    Raises ``KafkaUnavailableError`` and ``BrokerUnavailableError`` if there is no Kafka to measure against.
    """
    cores, about = machine.deal(), machine.describe()
    with machine.pinned(cores.others):
        measurements, notes, description = asyncio.run(_run(broker, plan, cores, report))
    pinning = "client alone on one core" if cores.client else "not pinned: the client shares its core"
    return Report(about | {"broker": description, "pinning": pinning}, with_memory(measurements), notes)


async def _run(
    broker: str | None, plan: Sequence[Scenario], cores: machine.Cores, report: Callable[[str], None]
) -> tuple[list[Measurement], list[str], str]:
    notes: list[str] = []
    async with kafka(broker, notes) as found:
        report(f"broker: {found.description}")
        plan = _carried(plan, cores, notes)
        wanted = {name for scenario in plan for name in scenario.clients}
        runnable = _runnable(found, wanted, notes)
        secure = go_build("target", notes) if any(client.tls for client in runnable.values()) else None
        if secure is None:
            runnable = {name: client for name, client in runnable.items() if not client.tls}
        for note in notes:
            report(note)
        measurements = await _measure_all(Bench(found, cores, secure), plan, runnable, report)
        return measurements, notes, found.description


def _carried(plan: Sequence[Scenario], cores: machine.Cores, notes: list[str]) -> list[Scenario]:
    """The measurements for which the machine has enough cores."""
    carried = [scenario for scenario in plan if scenario.kind != "workers" or cores.pair]
    if len(carried) < len(plan):
        notes.append("no workers: two of them, the service and Kafka take four cores that can be pinned")
    return carried


def _runnable(kafka: Kafka, wanted: set[str], notes: list[str]) -> dict[str, Client]:
    """By name, the clients in ``wanted`` that this machine and this Kafka can run."""
    ours = {client.name for client in clients.BRIDGES}
    found = [*clients.BRIDGES, *(clients.peers(notes) if wanted - ours else ())]
    if not kafka.transactions:
        notes.append(f"no exactly_once: {kafka.description} has no transactions; give Apache Kafka by --broker")
        found = [client for client in found if not client.transactional]
    return {client.name: client for client in found if client.name in wanted}


async def _measure_all(
    bench: Bench, plan: Sequence[Scenario], runnable: dict[str, Client], report: Callable[[str], None]
) -> list[Measurement]:
    steps = [(scenario, runnable[name]) for scenario in plan for name in scenario.clients if name in runnable]
    measurements = []
    for number, (scenario, client) in enumerate(steps, 1):
        report(f"{number}/{len(steps)} {scenario.kind}: {scenario.sessions} sessions, {client.name}")
        measurements.append(await measure(bench, client, scenario))
    return measurements
