"""The faults of a run and their times: lanes that work concurrently, each in an order that the seed decides."""

import asyncio
import contextlib
import json
import math
import signal
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import httpx

from bridge.testing.brokers import Broker
from tests.support.chaos.harness import TOKENS, Lab, until

STOP_DEADLINE = 60.0
"""Seconds that a clean stop may take: drain_timeout and leaving, also while Kafka is away."""
TINY = 100
"""The bytes that a record may have in a topic that refuses every record."""
_REFUSED = (f"max.message.bytes is {TINY}", "does not exist: run `asm-bridge topics create`")
_LOOK_EVERY = 0.5
EXTRA, OF_RIGHTS = "extra", "rights"
"""The turns of the process that joins and leaves, and of the rights of all processes."""


@dataclass
class Trial:
    """A run under way. ``skills`` by agent, ``tokens`` as the secrets file has them, ``broken`` what was seen to break
    on the way; ``quick``: no fault after which the contract allows a pause of many seconds."""

    lab: Lab
    brokers: list[Broker]
    processes: list[str]
    skills: dict[str, list[str]]
    tokens: dict[str, str]
    ends: float
    quick: bool = False
    intervals: tuple[float, ...] = (0.3, 0.5, 1.0)
    survived: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    administration: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by a fault that needs the topics as they are, makes them others, or takes a broker away."""
    turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """By process, and ``OF_RIGHTS``; held by the fault that is about it."""
    unusable_until: float = 0.0
    """When the last topic that was ``TINY``, or missing, could be used again (monotonic)."""

    @property
    def agents(self) -> list[str]:
        return list(self.skills)

    @contextlib.asynccontextmanager
    async def process(self, rng: Random) -> AsyncIterator[str]:
        """Selects a process, which runs, and which no other fault is about until the block has ended."""
        name = rng.choice(self.processes)
        async with self.turns[name]:
            self.see_to(name)
            yield name

    @contextlib.asynccontextmanager
    async def undisturbed(self) -> AsyncIterator[None]:
        """Waits for the faults of all processes and rights to end; none begins before the block has ended."""
        async with contextlib.AsyncExitStack() as stack:
            for name in (*self.processes, EXTRA, OF_RIGHTS):
                await stack.enter_async_context(self.turns[name])
            for name in self.processes:
                self.see_to(name)
            yield

    def see_to(self, name: str) -> None:
        """Restarts a process that has ended by itself, as an orchestrator does, and counts it: as a promise that was
        broken, unless it refused at its start a topic that was ``TINY`` or missing."""
        child = self.lab.bridges[name]
        if child.process is None or (code := child.process.poll()) is None:
            return
        self.note(f"{name} ended by itself with {code}")
        if self.refused_topic(name, code):
            self.survived["refused at its start, restarted"] += 1
        else:
            self.broken.append(f"{name} ended by itself with {code}")
        self.lab.launch(name)

    @contextlib.contextmanager
    def unusable(self) -> Iterator[None]:
        """Around the time in which a process that starts may refuse a topic."""
        self.unusable_until = math.inf
        try:
            yield
        finally:
            self.unusable_until = time.monotonic()

    def refused_topic(self, name: str, code: int) -> bool:
        """Whether the process ended with 1 because a topic could not be used since it was started, and said so."""
        child = self.lab.bridges[name]
        said = child.said(1)
        refused = '"run.failed"' in said and any(reason in said for reason in _REFUSED)
        return code == 1 and refused and child.started < self.unusable_until

    def note(self, text: str) -> None:
        with (self.lab.directory / "timeline.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')}.{int(time.time() % 1 * 1000):03} {text}\n")


Fault = Callable[[Trial, Random], Awaitable[None]]


async def lane(trial: Trial, rng: Random, faults: Mapping[str, Fault], pause: tuple[float, float]) -> None:
    """Makes one fault after the other until the time is up, and checks the recovery from each."""
    while (left := trial.ends - time.monotonic()) > 0:
        await asyncio.sleep(min(rng.uniform(*pause), left))
        name = rng.choice(list(faults))
        trial.note(f"{name} ...")
        await faults[name](trial, rng)
        trial.note(f"... {name}")
        trial.survived[name] += 1


async def orchestrate(trial: Trial) -> None:
    """Restarts what ends by itself, until it is cancelled."""
    while True:
        for name in trial.processes:
            if not trial.turns[name].locked():
                trial.see_to(name)
        await asyncio.sleep(_LOOK_EVERY)


# -- processes


async def process_killed(trial: Trial, rng: Random) -> None:
    async with trial.process(rng) as name:
        trial.lab.kill(name)
        await asyncio.sleep(rng.choice((0, rng.uniform(0, 3), rng.uniform(6, 10))))
        trial.lab.launch(name)


async def process_stopped(trial: Trial, rng: Random) -> None:
    async with trial.process(rng) as name:
        await _ended(trial, name)
        await asyncio.sleep(rng.uniform(0, 2))
        trial.lab.launch(name)


async def process_paused(trial: Trial, rng: Random) -> None:
    async with trial.process(rng) as name:
        trial.lab.bridges[name].signal(signal.SIGSTOP)
        # Shorter than the session time-out; just when somebody else takes over; when somebody else has for long.
        lengths = (rng.uniform(1, 4), rng.uniform(5.5, 8.5), rng.uniform(9, 15))
        await asyncio.sleep(rng.choice(lengths[:2] if trial.quick else lengths))
        trial.lab.bridges[name].signal(signal.SIGCONT)


async def process_joined_and_left(trial: Trial, rng: Random) -> None:
    async with trial.turns[EXTRA]:
        trial.lab.launch(EXTRA, KAFKA__GROUP_INSTANCE_ID="")
        await asyncio.sleep(rng.uniform(3, 10))
        await _ended(trial, EXTRA)


async def _ended(trial: Trial, name: str) -> None:
    """Sends SIGTERM once the process handles it; a clean stop exits with 0, whatever is down at the time."""

    async def serves() -> bool:
        trial.see_to(name)
        return (await trial.lab.ask(name, "healthz"))[0] == 200

    child = trial.lab.bridges[name]
    try:
        await until(serves, f"{name} is alive", STOP_DEADLINE)
        code = await child.stop(STOP_DEADLINE)
        if code and not trial.refused_topic(name, code):
            trial.broken.append(f"{name} ended with {code} after SIGTERM")
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        trial.broken.append(f"{name} did not stop: {error}")
        trial.lab.kill(name)


PROCESSES: dict[str, Fault] = {
    fault.__name__: fault for fault in (process_killed, process_stopped, process_paused, process_joined_and_left)
}
PAUSES: dict[str, Fault] = {"process_paused": process_paused}
KILLS: dict[str, Fault] = {"process_killed": process_killed}


# -- Kafka


async def broker_killed(trial: Trial, rng: Random) -> None:
    broker = rng.choice(trial.brokers)
    async with trial.administration:
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(rng.uniform(0, 2 if trial.quick else 8))
        await asyncio.to_thread(broker.restart)


async def broker_paused(trial: Trial, rng: Random) -> None:
    broker = rng.choice(trial.brokers)
    async with trial.administration:
        await asyncio.to_thread(broker.pause)
        await asyncio.sleep(rng.uniform(1, 4 if trial.quick else 10))
        await asyncio.to_thread(broker.resume)


KAFKA: dict[str, Fault] = {"broker_killed": broker_killed, "broker_paused": broker_paused}


# -- the vendor


async def answers_spoilt(trial: Trial, rng: Random, *, name: str, **measures: Any) -> None:
    """Makes some or all agents' requests fail for a while, sometimes or always."""
    fault = {"probability": rng.choice((0.2, 0.6, 1.0)), **measures}
    if rng.random() < 0.5:
        fault["agents"] = rng.sample(trial.agents, max(1, len(trial.agents) // 4))
    await _for_a_while(trial, name, rng.uniform(1, 3 if trial.quick else 6), **fault)


async def unauthorized(trial: Trial, rng: Random) -> None:
    """Answers 401 to some agents; since a refused token is not used for a minute, each then gets a new one."""
    agents = rng.sample(trial.agents, 3)
    await _for_a_while(trial, "status_401", rng.uniform(1, 3), agents=agents)
    await new_tokens(trial, agents)


async def _for_a_while(trial: Trial, name: str, seconds: float, **fault: Any) -> None:
    """Adds a fault beside those of other lanes, and ends only this one."""
    await trial.lab.sim.post(f"faults/{name}", duration=seconds, **fault)
    await asyncio.sleep(seconds)


async def new_tokens(trial: Trial, agents: list[str]) -> None:
    """Makes the service accept only new tokens, and replaces the secrets file a moment later."""
    for agent_id in agents:
        trial.tokens[agent_id] = f"{trial.tokens[agent_id].partition('+')[0]}+{time.monotonic_ns()}"
        await trial.lab.sim.post(f"agents/{agent_id}/token", token=trial.tokens[agent_id])
    path = trial.lab.directory / "secrets" / TOKENS
    path.with_suffix(".new").write_text(json.dumps(trial.tokens))
    path.with_suffix(".new").replace(path)


async def vendor_paused(trial: Trial, rng: Random) -> None:
    """Makes the host accept connections without answering."""
    trial.lab.sim.child.signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(1, 3 if trial.quick else 8))
    trial.lab.sim.child.signal(signal.SIGCONT)


async def login_elsewhere(trial: Trial, rng: Random) -> None:
    await _lever(trial, rng.choice(trial.agents), "login")


async def logout_and_login(trial: Trial, rng: Random) -> None:
    agent_id = rng.choice(trial.agents)
    await _lever(trial, agent_id, "logout")
    await asyncio.sleep(rng.uniform(0, 4))
    await _lever(trial, agent_id, "login")


async def session_ended_and_back(trial: Trial, rng: Random) -> None:
    agent_id = rng.choice(trial.agents)
    await _lever(trial, agent_id, "end")
    await asyncio.sleep(rng.uniform(0, 3))
    await _lever(trial, agent_id, "resume")


async def _lever(trial: Trial, agent_id: str, lever: str, **body: Any) -> None:
    with contextlib.suppress(httpx.HTTPStatusError):  # its own life was quicker
        await trial.lab.sim.post(f"agents/{agent_id}/{lever}", **body)


_SPOILT: dict[str, dict[str, Any]] = {
    "429 with Retry-After": {"name": "status_429", "retry_after": 2},
    "429": {"name": "status_429"},
    "500": {"name": "status_500"},
    "503 with Retry-After": {"name": "status_503", "retry_after": 1},
    "slow": {"name": "slow", "ms": 1500},
    "hang": {"name": "hang"},
    "cut": {"name": "cut"},
    "cut after": {"name": "cut_after"},
    "malformed": {"name": "malformed"},
    "ended": {"name": "ended"},
}
VENDOR: dict[str, Fault] = {
    **{name: partial(answers_spoilt, **measures) for name, measures in _SPOILT.items()},
    **{f.__name__: f for f in (unauthorized, vendor_paused, login_elsewhere, logout_and_login, session_ended_and_back)},
}


# -- what stands between


async def short_burst(trial: Trial, rng: Random, *, name: str) -> None:
    """Refuses every valid token, or throttles every agent, for a moment."""
    await _for_a_while(trial, name, rng.uniform(0.5, 1.5 if trial.quick else 2.5))


_FOREIGN = (
    "foreign_400", "foreign_401", "foreign_403", "foreign_404", "foreign_json", "no_route", "envelope", "html_200",
    "empty_200", "redirect", "error_after_taken", "gzip", "odd",
    "event_403", "event_413", "event_500", "event_cut", "event_silence",
)  # fmt: skip
_BURSTS = ("retry_after_0", "retry_after_date_past", "retry_after_3600", "unauthorized_burst")
GATEWAY: dict[str, Fault] = {
    **{name: partial(answers_spoilt, name=name) for name in _FOREIGN},
    **{name: partial(short_burst, name=name) for name in _BURSTS},
}


# -- the registry


async def unregistered_and_back(trial: Trial, rng: Random) -> None:
    agent_id = rng.choice(trial.agents)
    await trial.lab.produce("sessions", None, agent_id.encode())
    await asyncio.sleep(rng.uniform(0, 5))
    await registered(trial, rng, agent_id)


async def interval_changed(trial: Trial, rng: Random) -> None:
    await registered(trial, rng, rng.choice(trial.agents))


async def bad_entry(trial: Trial, rng: Random) -> None:
    """Writes an invalid entry, which leaves the last valid one in force."""
    agent_id = rng.choice(trial.agents)
    await trial.lab.produce("sessions", b'{"interval": "often"}', agent_id.encode())
    await asyncio.sleep(rng.uniform(0, 2))
    await registered(trial, rng, agent_id)


async def registered(trial: Trial, rng: Random, agent_id: str) -> None:
    await trial.lab.register(
        agent_id,
        skills=trial.skills[agent_id],
        interval=rng.choice(trial.intervals),
        get_conversations=True,
        conversations_interval=1.0,
    )


REGISTRY: dict[str, Fault] = {f.__name__: f for f in (unregistered_and_back, interval_changed, bad_entry)}
