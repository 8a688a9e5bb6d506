"""The injections of a run: valid events, and everything else that an inbox may receive."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random

from bridge.kafka.partitioner import partition_for
from bridge.testing.simulator.middle import MARK
from tests.support.chaos.faults import Trial
from tests.support.chaos.harness import PARTITIONS, Lab

_MARKERS = count(9_007_199_254_740_993)


def new_marker() -> str:
    """A conversation_sid that no other event of this run has."""
    return str(next(_MARKERS))


async def inject(trial: Trial, rng: Random, a_second: float) -> None:
    """Injects until the time is up, and waits out an outage of Kafka."""
    while time.monotonic() < trial.ends:
        await _one(trial, rng)
        await asyncio.sleep(rng.expovariate(a_second))


async def inject_for(the_lab: Lab, agents: list[str], events: int, seconds: float, rng: Random) -> None:
    """Injects events for random agents, spread over the time; some twice under one id."""
    for number in range(events):
        agent_id = rng.choice(agents)
        ce_id = f"id-{number}" if rng.random() < 0.5 else None
        await the_lab.inject(agent_id, new_marker(), ce_id=ce_id)
        if ce_id and rng.random() < 0.1:
            await the_lab.inject(agent_id, new_marker(), ce_id=ce_id)
        await asyncio.sleep(seconds / events)


async def end(the_lab: Lab, agents: list[str]) -> None:
    """Waits until all outcomes exist and all changes were shown, and stops the bridge cleanly."""
    await the_lab.completed()
    await the_lab.sim.settle(agents)
    assert await the_lab.bridges["bridge"].stop() == 0


async def _one(trial: Trial, rng: Random) -> None:
    lab, agent_id, marker = trial.lab, rng.choice(trial.agents), new_marker()
    key, drawn = agent_id.encode(), rng.random()
    if drawn < 0.45:
        await lab.inject(agent_id, marker)
    elif drawn < 0.6:
        ce_id = f"id-{marker}"
        for again in range(rng.choice((1, 2, 2))):
            await lab.inject(agent_id, marker if not again else new_marker(), ce_id=ce_id)
    elif drawn < 0.78:
        await lab.inject(agent_id, marker, partition=_elsewhere(rng, key))
    elif drawn < 0.84:
        await lab.inject(agent_id, marker, conversation={"reference_id": "refuse"})
    elif drawn < 0.88:
        await lab.inject(f"nobody-{rng.randrange(10)}", marker)
    elif drawn < 0.94:
        await lab.inject(agent_id, marker, conversation={"reference_id": MARK})
    elif drawn < 0.97:
        await lab.inject(agent_id, marker, headers=[("expires_at", _soon(rng))])
    else:
        await _bad(trial, rng, key)


async def _bad(trial: Trial, rng: Random, key: bytes) -> None:
    value = rng.choice((b"{", None, b'{"no_such_event": {}}', b"x" * 600_000))
    if rng.random() < 0.3:
        await trial.lab.inject_raw(None, value or b"", partition=rng.randrange(PARTITIONS))
    else:
        partition = _elsewhere(rng, key) if rng.random() < 0.3 else partition_for(key, PARTITIONS)
        await trial.lab.inject_raw(key, value, partition=partition)


def _elsewhere(rng: Random, key: bytes) -> int:
    """A partition other than the key's, as a foreign partitioner would choose it."""
    return (partition_for(key, PARTITIONS) + rng.randrange(1, PARTITIONS)) % PARTITIONS


def _soon(rng: Random) -> bytes:
    return (datetime.now(UTC) + timedelta(seconds=rng.uniform(-1, 3))).isoformat().encode()
