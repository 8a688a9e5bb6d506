"""One client in one scenario."""

import asyncio
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aiokafka.errors import KafkaError

from bridge.kafka.errors import KafkaUnavailableError
from bridge.ops.http import free_port
from bridge.testing.bench import broker
from bridge.testing.bench.clients import Client, Place, arguments, environment, prepare
from bridge.testing.bench.figures import Measurement, load_figures
from bridge.testing.bench.machine import Cores, usage
from bridge.testing.bench.probes import injecting, reading
from bridge.testing.bench.processes import MeasurementError, Target, running, said, target
from bridge.testing.bench.scenarios import Scenario

_SETTLE = 1.0
"""Seconds within which the last records of the measured time must become readable."""
_PUNCTUAL = 0.9
"""Share of its polls that a client must make."""


@dataclass(frozen=True)
class Bench:
    """The common parameters of all measurements. ``secure``: the program that is the target with TLS and HTTP/2."""

    kafka: broker.Kafka
    cores: Cores
    secure: Path | None


async def measure(bench: Bench, client: Client, scenario: Scenario) -> Measurement:
    """Measures a client. Never raises for a client's failure: that is a measurement with a note, and no figures."""
    run = Measurement(scenario.kind, client.name, scenario.sessions)
    directory = Path(tempfile.mkdtemp(prefix="asm-bridge-bench-"))
    try:
        async with _placed(bench, client, scenario, directory) as (place, service):
            one = _recover if scenario.kind == "recovery" else _load
            return await one(bench, client, scenario, place, service)
    except (MeasurementError, KafkaUnavailableError, KafkaError, TimeoutError) as error:
        words = said(directory / "client.log") or said(directory / "target.log")
        return replace(run, note=f"{str(error) or 'no answer in time'}; it said: {words}")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def _placed(
    bench: Bench, client: Client, scenario: Scenario, directory: Path
) -> AsyncIterator[tuple[Place, Target]]:
    """Starts a target and creates topics for a client, and removes both at the end."""
    servers, prefix = bench.kafka.servers, f"bench{secrets.token_hex(4)}."
    async with target(scenario, directory, bench.secure if client.tls else None) as service:
        where = (service.base_url, servers, prefix, directory, free_port(), service.ca_file)
        place = Place(scenario.sessions, scenario.interval, *where)
        prepare(place)
        if client.settings is None:
            await broker.create(servers, prefix)
        try:
            yield place, service
        finally:
            await broker.remove(servers, prefix)


@asynccontextmanager
async def _started(bench: Bench, client: Client, place: Place) -> AsyncIterator["subprocess.Popen[bytes]"]:
    log = place.directory / "client.log"
    cores = bench.cores.client if client.workers == 1 else bench.cores.pair
    async with running(arguments(client, place), log, cores, environment(client, place)) as process:
        yield process


async def _load(bench: Bench, client: Client, scenario: Scenario, place: Place, service: Target) -> Measurement:
    async with _started(bench, client, place) as process:
        whole = await service.seen(scenario.sessions, process, _patience(scenario))
        async with reading(place.brokers, f"{place.prefix}agent-status") as reader, injecting(place, scenario.injected):
            await asyncio.sleep(scenario.warm)
            await service.stats(reset=True)
            before, begin = usage(process.pid), time.time()
            await asyncio.sleep(scenario.seconds)
            seen, after, end = await service.stats(reset=True), usage(process.pid), time.time()
            await asyncio.sleep(_SETTLE)
            delays = reader.delays(begin, end)
    figures = {"interval": scenario.interval, **load_figures(before, after, seen, delays)}
    broken = "it breaks: not every session was polled in time"
    note = doubt(scenario, seen["polls"] / seen["window_s"]) if whole else broken
    return Measurement(scenario.kind, client.name, scenario.sessions, figures, note)


def doubt(scenario: Scenario, polls_per_s: float) -> str:
    """Why the cost per poll is not comparable: it was measured at another rate."""
    if scenario.kind not in ("load", "scale"):
        return ""
    share = polls_per_s * scenario.interval / scenario.sessions
    return f"it falls behind: {share:.0%} of its polls" if share < _PUNCTUAL else ""


async def _recover(bench: Bench, client: Client, scenario: Scenario, place: Place, service: Target) -> Measurement:
    """Seconds from a restart after kill -9 until each session was polled again."""
    async with _started(bench, client, place) as process:
        await service.seen(scenario.sessions, process, _patience(scenario))
        await asyncio.sleep(scenario.warm)
        process.kill()
        await asyncio.to_thread(process.wait)
    await service.stats(reset=True)
    begin = time.monotonic()
    async with _started(bench, client, place) as process:
        whole = await service.seen(scenario.sessions, process, _patience(scenario))
        figures = {"recovery": time.monotonic() - begin if whole else None}
    note = "" if whole else "not every session was polled again in time"
    return Measurement(scenario.kind, client.name, scenario.sessions, figures, note)


def _patience(scenario: Scenario) -> float:
    """Seconds until every session must have been polled once."""
    return 20.0 + scenario.sessions / 200 + 2 * scenario.interval
