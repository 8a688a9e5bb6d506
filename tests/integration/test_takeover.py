"""Several processes of one group that join, leave, die and hang, and how soon the others take over."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import pytest

from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.harness import Lab, lab, until

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

SESSION_TIMEOUT = 6.0
"""As the lab sets it."""
INTERVAL = 0.5
BUSY = 2.0
"""Seconds that a machine which does other things, too, may add."""
MARKERS = count(9_007_199_254_740_993)


@asynccontextmanager
async def watching(broker: Broker, prefix: str, directory: Path, names: str) -> AsyncIterator[tuple[Lab, list[str]]]:
    """A lab with a process for each letter of ``names``, without static membership, that watch 16 agents; judged at the
    end.
    """
    simulator = ["--sessions", "16", "--change-rate", "0.5", "--no-logouts", "--seed", "5"]
    async with lab(broker.bootstrap_servers, prefix, directory, *simulator) as the_lab:
        for name in names:
            await the_lab.bridge(name, KAFKA__GROUP_INSTANCE_ID="")
        agents = await the_lab.register_all(interval=INTERVAL, get_conversations=True, conversations_interval=0.5)
        await polled(the_lab)
        yield the_lab, agents
        await the_lab.completed()
        await the_lab.sim.settle(agents)
        assert [await child.stop() for child in the_lab.bridges.values() if child.runs][-1] == 0
        assert_kept(await the_lab.facts())


async def polled(the_lab: Lab, rounds: int = 2) -> None:
    """Waits until each agent was polled some times more."""
    before = {name: agent["polls"] for name, agent in (await the_lab.sim.agents()).items()}

    async def all_were() -> bool:
        agents = {agent["agent_id"]: agent for agent in await the_lab.sim.get("agents")}
        return all(a["polls"] >= before[name] + rounds or not a["asm_session_sid"] for name, a in agents.items())

    await until(all_were, "every agent is asked again")


class Gaps:
    """The longest time for which an agent in session was not polled, since the object was created."""

    def __init__(self, the_lab: Lab, before: dict[str, int]) -> None:
        self._lab = the_lab
        self._before = before

    @classmethod
    async def since_now(cls, the_lab: Lab) -> "Gaps":
        return cls(the_lab, {name: len(agent["gaps"]) for name, agent in (await the_lab.sim.agents()).items()})

    async def longest(self) -> float:
        await polled(self._lab)
        agents = await self._lab.sim.agents()
        return max(gap for name, agent in agents.items() for gap in agent["gaps"][self._before[name] :])


def lines(the_lab: Lab, name: str, event: str) -> list[dict[str, Any]]:
    """The lines of a process's log."""
    said = [json.loads(line) for line in the_lab.bridges[name].log.read_text().splitlines()]
    return [line for line in said if line["event"] == event]


@asynccontextmanager
async def injecting(the_lab: Lab, agents: list[str]) -> AsyncIterator[None]:
    """Sends events for all agents continuously; the last one is acknowledged, and so known, at the end."""
    enough = asyncio.Event()

    async def inject() -> None:
        for agent_id in cycle(agents):
            if enough.is_set():
                return
            await the_lab.inject(agent_id, str(next(MARKERS)))
            await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inject())
        try:
            yield
        finally:
            enough.set()


async def test_processes_join_leave_and_die(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A process that joins takes only its share, one that stops hands over within 2 s, and the agents of one that is
    killed are polled within 3 s after Kafka has noticed.
    """
    async with watching(broker, topics_prefix, tmp_path, "a") as (the_lab, agents), injecting(the_lab, agents):
        opened = len(lines(the_lab, "a", "partition.owned"))
        gaps = await Gaps.since_now(the_lab)
        await the_lab.bridge("b", KAFKA__GROUP_INSTANCE_ID="")
        assert await gaps.longest() < INTERVAL + 2 + BUSY
        kept = set(lines(the_lab, "a", "partitions.assigned")[-1]["partitions"])
        taken = set(lines(the_lab, "b", "partitions.assigned")[-1]["partitions"])
        assert (len(kept), len(taken), kept & taken) == (4, 4, set())
        assert len(lines(the_lab, "a", "partition.owned")) == opened

        gaps = await Gaps.since_now(the_lab)
        assert await the_lab.bridges["b"].stop() == 0
        assert await gaps.longest() < INTERVAL + 2 + BUSY
        await the_lab.ready("a")  # partitions without agents may be the last ones
        again = lines(the_lab, "a", "partition.owned")[opened:]
        assert {int(line["messaging.destination.partition.id"]) for line in again} == taken

        await the_lab.bridge("b")
        gaps = await Gaps.since_now(the_lab)
        the_lab.kill("b")
        assert await gaps.longest() < SESSION_TIMEOUT + 3 + INTERVAL + BUSY


async def test_who_was_paused_and_replaced_writes_nothing(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A process that hangs for longer than the session time-out and then resumes contradicts none of its successor's
    records, and takes its share again.
    """
    async with watching(broker, topics_prefix, tmp_path, "ab") as (the_lab, agents):
        the_lab.killed = True  # what only the paused one was shown
        async with injecting(the_lab, agents):
            gaps = await Gaps.since_now(the_lab)
            the_lab.bridges["b"].signal(signal.SIGSTOP)
            assert await gaps.longest() < SESSION_TIMEOUT + 3 + INTERVAL + BUSY
            joined = len(lines(the_lab, "b", "partitions.assigned"))
            the_lab.bridges["b"].signal(signal.SIGCONT)

            async def rejoined() -> bool:
                return len(lines(the_lab, "b", "partitions.assigned")) > joined

            await until(rejoined, "the paused process takes part again")
            await the_lab.ready("b")
            await polled(the_lab)


async def test_a_rolling_restart_is_hardly_seen(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """In a rolling restart no agent waits for more than 2 s, nothing is emitted or sent twice, and everything that was
    shown is emitted.
    """
    async with watching(broker, topics_prefix, tmp_path, "ab") as (the_lab, agents):
        gaps = await Gaps.since_now(the_lab)
        async with injecting(the_lab, agents):
            for name in "ab":
                assert await the_lab.bridges[name].stop() == 0
                await the_lab.bridge(name)
        assert await gaps.longest() < INTERVAL + 2 + BUSY
        await the_lab.completed()
        assert not [t for t in (await the_lab.facts()).told if t.record.get("possibly_repeated")]


async def test_a_process_too_many_says_so_and_waits(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """A process beyond the number of partitions is ready, says in readyz that it stands by, and takes over when another
    one ends.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1") as the_lab:
        one = {"TOPICS__PARTITIONS": "1", "KAFKA__GROUP_INSTANCE_ID": ""}
        await the_lab.bridge("a", **one)
        the_lab.launch("b", **one)

        async def idle() -> str | None:
            answers = {name: await the_lab.ask(name, "readyz") for name in "ab"}
            waiting = [
                name for name, answer in answers.items() if answer[0] == 200 and "owns no partition" in answer[1]
            ]
            return waiting[0] if len(waiting) == 1 and [a[0] for a in answers.values()] == [200, 200] else None

        waiting: str = await until(idle, "both are ready, and one of them stands by")
        assert await the_lab.bridges["b" if waiting == "a" else "a"].stop() == 0

        async def took_over() -> bool:
            return await the_lab.ask(waiting, "readyz") == (200, "ready\n")

        await until(took_over, "it owns the partition")


async def test_a_process_that_is_stopped_while_it_joins_ends(
    broker: Broker, topics_prefix: str, tmp_path: Path
) -> None:
    """SIGTERM at any moment of the start, even during a rebalance, is a clean and quick stop."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "1") as the_lab:
        await the_lab.bridge("a", KAFKA__GROUP_INSTANCE_ID="")
        for event in ("registry.read", "partitions.assigned"):
            the_lab.launch("b", KAFKA__GROUP_INSTANCE_ID="")
            said = len(lines(the_lab, "b", event))

            async def says(event: str = event, said: int = said) -> bool:
                return len(lines(the_lab, "b", event)) > said

            await until(says, event)
            assert await the_lab.bridges["b"].stop(15) == 0
        await the_lab.ready("a")
