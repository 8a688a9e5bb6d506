"""Many agents in several processes, with a rolling restart: ``python -m tests.support.scaling``.

docs/scaling.md has the figures of such a run beside its sums.
"""

import argparse
import asyncio
import json
import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bridge.registry.topic import write_registry
from bridge.settings import KafkaSettings
from bridge.testing.brokers import start_broker
from tests.support.chaos.facts import read_topics
from tests.support.chaos.harness import TOKENS, Child, Lab, lab, until

_TICKS = os.sysconf("SC_CLK_TCK")
_DEADLINE = 120.0


def _cpu(child: Child) -> float:
    """Seconds of CPU that a process has used."""
    assert child.process is not None
    fields = Path(f"/proc/{child.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory(child: Child) -> float:
    """MB that a process has in memory."""
    assert child.process is not None
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) * 1024 / 1e6


async def _metrics(the_lab: Lab, name: str) -> dict[str, float]:
    """The sums of a process's counters over their labels, and lateness by bucket."""
    found: dict[str, float] = {}
    for line in (await the_lab.ask(name, "metrics"))[1].splitlines():
        if match := re.fullmatch(r"asm_bridge_(\w+?)(\{.*\})? ([\d.e+-]+)", line):
            key = match[1] + (match[2] or "" if match[1].endswith("bucket") else "")
            found[key] = found.get(key, 0.0) + float(match[3])
    return found


async def run(options: argparse.Namespace, bootstrap_servers: str, directory: Path) -> int:
    names = [f"bridge-{number}" for number in range(options.processes)]
    simulator = ["--sessions", str(options.agents), "--change-rate", str(options.change_rate), "--no-logouts"]
    async with lab(bootstrap_servers, f"s{secrets.token_hex(4)}.", directory, *simulator, "--latency", "20") as the_lab:
        settings = {"POLL__INTERVAL": f"{options.interval}s", "KAFKA__SESSION_TIMEOUT": "20s", "LOG__LEVEL": "warning"}
        await asyncio.gather(*(the_lab.bridge(name, **settings) for name in names))
        begun = time.monotonic()
        await _register(the_lab, options.agents)
        await until(lambda: _all_watched(the_lab, names, options.agents), "all agents are in session", _DEADLINE)
        say(f"all of {options.agents} agents in session after {time.monotonic() - begun:.0f} s")
        await asyncio.sleep(options.interval)  # the first answers cost more
        await _measure(the_lab, names, options.seconds)
        await _roll(the_lab, names, options)
        await the_lab.sim.post("freeze")
        await asyncio.sleep(options.interval + 1)
        codes = await asyncio.gather(*(the_lab.bridges[name].stop() for name in names))
        return max([*codes, await _judge(the_lab)])


async def _register(the_lab: Lab, agents: int) -> None:
    entries = {f"agent-{n}": json.dumps({"token": f"file:{TOKENS}#agent-{n}"}).encode() for n in range(agents)}
    kafka = KafkaSettings(bootstrap_servers=the_lab.bootstrap_servers)
    await write_registry(kafka, f"{the_lab.prefix}sessions", entries, at=time.time())


async def _all_watched(the_lab: Lab, names: list[str], agents: int) -> bool:
    counted = 0.0
    for name in names:
        text = (await the_lab.ask(name, "metrics"))[1]
        counted += sum(map(float, re.findall(r'^asm_bridge_agents\{state="in_session"\} (.+)$', text, re.MULTILINE)))
    return counted >= agents


async def _measure(the_lab: Lab, names: list[str], seconds: float) -> None:
    """CPU, memory, polls and lateness of each process in a quiet time."""
    cpu = [_cpu(the_lab.bridges[name]) for name in names]
    before = [await _metrics(the_lab, name) for name in names]
    await asyncio.sleep(seconds)
    grown = [_grown(await _metrics(the_lab, name), old) for name, old in zip(names, before, strict=True)]
    cpu = [(_cpu(the_lab.bridges[name]) - old) / seconds for name, old in zip(names, cpu, strict=True)]
    memory = [_memory(the_lab.bridges[name]) for name in names]
    for name, used, megabytes, counts in zip(names, cpu, memory, grown, strict=True):
        rate = counts["polls_total"] / seconds
        each = used / rate * 1e6
        say(f"{name}: {rate:.0f} polls/s, {used:.3f} of a core, {each:.0f} us per poll, {megabytes:.0f} MB")

    def total(name: str) -> float:
        return sum(counts.get(name, 0.0) for counts in grown)

    rates = [f"{total(f'{name}_total') / seconds:.0f} {name}/s" for name in ("polls", "commits", "records")]
    rates += [f"{sum(cpu):.2f} cores", f"{sum(memory):.0f} MB", f"{total('skipped_ticks_total'):.0f} ticks skipped"]
    say(f"in all: {', '.join(rates)}")
    within, all_of_them = (total(f'poll_lateness_seconds_bucket{{le="{edge}"}}') for edge in ("0.1", "+Inf"))
    say(f"polls at most 0.1 s late: {within / max(1.0, all_of_them):.2%}")


def _grown(new: dict[str, float], old: dict[str, float]) -> dict[str, float]:
    return {name: value - old.get(name, 0.0) for name, value in new.items()}


async def _roll(the_lab: Lab, names: list[str], options: argparse.Namespace) -> None:
    """Replaces one process after the other, as an orchestrator does, under the same name."""
    for name in names:
        begun = time.monotonic()
        code = await the_lab.bridges[name].stop()
        stopped = time.monotonic() - begun
        the_lab.launch(name)
        await the_lab.ready(name, _DEADLINE)
        took = time.monotonic() - begun
        say(f"{name} replaced: ended with {code} after {stopped:.1f} s, its successor ready after {took:.1f} s")
    await asyncio.sleep(options.interval + 2)
    agents = await the_lab.sim.get("agents")
    some = [agent["agent_id"] for agent in agents[:: max(1, len(agents) // 500)]]
    gaps = [max((await the_lab.sim.get(f"agents/{name}"))["gaps"]) for name in some]
    middle, largest = statistics.median(gaps), max(gaps)
    say(f"longest time between two polls, of {len(some)} agents: median {middle:.1f} s, largest {largest:.1f} s")


async def _judge(the_lab: Lab) -> int:
    """Every stream has its records 1, 2, 3, ... once. Returns 1 if one has not."""
    topics = ["agent-status", "queued-calls", "agent-messages", "conversations", "inject-outcomes"]
    streams: dict[str, list[int]] = {}
    lost = 0
    for message in await read_topics(the_lab.bootstrap_servers, the_lab.prefix, topics):
        record: dict[str, Any] = json.loads(message.value or b"{}")
        streams.setdefault(record["stream_id"], []).append(record["sequence"])
        lost += record["type"] == "AgentObservationLost"
    wrong = [name for name, numbers in streams.items() if sorted(numbers) != [*range(1, len(numbers) + 1)]]
    records = sum(map(len, streams.values()))
    say(f"{records} records in {len(streams)} streams, {len(wrong)} with a gap or a repetition; {lost} times lost")
    return 1 if wrong else 0


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.scaling", description=__doc__)
    parser.add_argument("--agents", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two polls of an agent")
    parser.add_argument(
        "--change-rate", type=float, default=0.0017, help="changes per second and agent: 5 %% of the polls"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="how long the quiet time is measured")
    parser.add_argument("--broker", help="docker, maven or HOST:PORT (default: the best there is)")
    options = parser.parse_args()
    broker = start_broker(options.broker)[0]
    try:
        with tempfile.TemporaryDirectory(prefix="asm-bridge-scaling-") as directory:
            return asyncio.run(run(options, broker.bootstrap_servers, Path(directory)))
    finally:
        broker.stop()


if __name__ == "__main__":
    sys.exit(main())
