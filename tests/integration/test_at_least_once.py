"""``kafka.delivery=at_least_once``: what it promises, and no more."""

import asyncio
import dataclasses
import random
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.chaos.checker import assert_kept
from tests.chaos.facts import Facts, Message
from tests.chaos.harness import lab
from tests.integration.test_crash import end, inject_for

# Real Kafka: Tansu forgets a commit's metadata, and takes 17 s to miss a dead member.
pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

AT_LEAST_ONCE = {"KAFKA__DELIVERY": "at_least_once"}
SIMULATOR = ("--sessions", "20", "--change-rate", "0.5", "--seed", "9")


async def test_a_clean_stop_repeats_nothing(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Stopped by SIGTERM, it keeps every promise of exactly_once."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *SIMULATOR) as the_lab:
        await the_lab.bridge(**AT_LEAST_ONCE)
        agents = await the_lab.register_all(interval=0.5)
        injecting = asyncio.create_task(inject_for(the_lab, agents, 30, 5, random.Random(9)))
        await asyncio.sleep(2)
        assert await the_lab.bridges["bridge"].stop() == 0
        await the_lab.bridge()
        await injecting
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(facts)
    assert not [told for told in facts.told if told.record.get("possibly_repeated")]


async def test_a_crash_repeats_at_most_the_last_step(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """After ``kill -9`` a step may appear again; of each sequence number the record observed last holds, and with those
    every promise is kept."""
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *SIMULATOR) as the_lab:
        await the_lab.bridge(**AT_LEAST_ONCE)
        agents = await the_lab.register_all(interval=0.5)
        injecting = asyncio.create_task(inject_for(the_lab, agents, 40, 8, random.Random(10)))
        for _ in range(2):
            await asyncio.sleep(1.5)
            the_lab.kill()
            await the_lab.bridge()
        await injecting
        await end(the_lab, agents)
        facts = await the_lab.facts()
    assert_kept(held(facts))


def held(facts: Facts) -> Facts:
    """The facts without what was told again: of each sequence number, what was observed last."""
    last: dict[tuple[str, int], Message] = {}
    for message, record in facts.told:
        key = record["stream_id"], record["sequence"]
        if key not in last or last[key].timestamp <= message.timestamp:
            last[key] = message
    kept = {message.place for message in last.values()}
    streamed = {told.message.place for told in facts.told}
    messages = [message for message in facts.messages if message.place not in streamed or message.place in kept]
    return dataclasses.replace(facts, messages=messages)
