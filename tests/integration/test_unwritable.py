"""What was sent, and cannot be committed, is not sent again (promise 9), and one record that Kafka refuses holds up no
other."""

import asyncio
import json
import secrets
import signal
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Facts, Message
from tests.support.chaos.harness import PARTITIONS, TOKENS, Lab, lab, until
from tests.support.chaos.streams import numbered
from tests.support.chaos.topics import configure
from tests.support.repetitions import without_repetitions

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]


@pytest.fixture(params=["exactly_once", "at_least_once"])
def delivery(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Running(NamedTuple):
    """A lab with a bridge that watches three agents whose pictures do not change; ``spare``: one that it does not."""

    lab: Lab
    agents: list[str]
    spare: str
    log: Path

    async def register_as(self, name: str) -> None:
        """Lets the spare agent be watched under a name of its own."""
        await self.lab.register(name, token=f"file:{TOKENS}#{self.spare}")

    async def configure(self, topic: str, **configs: int | str) -> None:
        """Changes settings of a topic, named with underscores."""
        await configure(self.lab, topic, **{name.replace("_", "."): value for name, value in configs.items()})

    async def sent(self, *markers: str) -> list[int]:
        """How often the service took the events of these markers."""
        events = json.dumps(await self.lab.sim.get("events"))
        return [events.count(f'"{marker}"') for marker in markers]

    async def is_not_ready(self, reason: str) -> None:
        """Waits until the reason is shown."""

        async def shown() -> bool:
            return reason in (await self.lab.ask("bridge", "readyz"))[1]

        await until(shown, f"{reason!r} is shown")

    async def settled(self) -> Facts:
        """The facts once every event has its outcome, and the bridge is ready and has handed over."""
        await self.lab.completed()
        await self.lab.sim.settle(self.agents, rounds=1)
        await self.lab.ready()
        assert await self.lab.bridges["bridge"].stop() == 0
        return await self.lab.facts()

    def logged(self, *events: str) -> list[int]:
        """How often each of the events was logged."""
        text = self.log.read_text()
        return [text.count(f'"event": "{event}"') for event in events]


@pytest_asyncio.fixture
async def running(broker: Broker, topics_prefix: str, tmp_path: Path, delivery: str) -> AsyncIterator[Running]:
    options = ("--sessions", "4", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge(KAFKA__COMPRESSION="none", KAFKA__DELIVERY=delivery)
        agents = [agent["agent_id"] for agent in await the_lab.sim.get("agents")]
        for agent in agents[:3]:
            await the_lab.register(agent)
        await the_lab.sim.settle(agents[:3], rounds=1)
        yield Running(the_lab, agents[:3], agents[3], tmp_path / "bridge.log")


def unwritable(facts: Facts) -> list[Message]:
    """The dead letters of records that Kafka refused."""
    return [letter for letter in facts.dead_letters if letter.header("asm_error_code") == "unwritable"]


def outcomes(facts: Facts) -> dict[str, str]:
    """The outcome of each injection."""
    completed = (told.record for told in facts.told if told.record["type"] == "InjectionCompleted")
    return {record["injection_id"]: record["outcome"] for record in completed}


async def test_an_event_whose_outcome_is_refused_is_sent_once(running: Running, delivery: str) -> None:
    """The topic of the outcomes takes nothing for a while: the partition says so, sends neither this event again nor
    the next one, and publishes what it knows as soon as that is possible; the log has one line for it."""
    the_lab, agent = running.lab, running.agents[0]
    await running.configure("inject-outcomes", max_message_bytes=200)
    await the_lab.inject(agent, "771")
    await running.is_not_ready("inject-outcomes refuses every record")
    assert await running.sent("771") == [1]
    await the_lab.inject(agent, "772")
    await asyncio.sleep(15)
    assert await running.sent("771", "772") == [1, 0]
    await running.configure("inject-outcomes", max_message_bytes=2**21)
    facts = await running.settled()
    assert await running.sent("771", "772") == [1, 1]
    if delivery == "at_least_once":
        facts = without_repetitions(facts)
    assert_kept(facts)
    first = next(one.record for one in facts.told if one.record["type"] == "InjectionCompleted")
    assert (first["outcome"], first["attempts"], first["possibly_repeated"]) == ("delivered", 1, False)
    assert running.logged("partition.lost", "record.refused") == [1, 0]
    assert unwritable(facts) == []


async def test_a_record_that_a_topic_does_not_take_any_more_is_shortened(running: Running) -> None:
    """Its limit was lowered while the bridge ran: the record is refused once, and shortened then, so that the event is
    sent once, and it and its neighbours are finished."""
    await running.configure("conversations", max_message_bytes=100_000)
    long = {"customer_name": secrets.token_hex(200_000)}
    await running.lab.inject(running.agents[0], "771", ce_id="long", conversation=long)
    for number, agent in enumerate(running.agents):
        await running.lab.inject(agent, f"88{number}", ce_id=str(number))
    facts = await running.settled()
    assert await running.sent("771", "880", "881", "882") == [1, 1, 1, 1]
    assert outcomes(facts) == dict.fromkeys(("long", "0", "1", "2"), "delivered")
    assert running.logged("record.shortened", "partition.lost", "record.refused") == [1, 0, 0]
    assert unwritable(facts) == []


def long_id(neighbour: str) -> str:
    """The id of an agent in the neighbour's partition that hardly fits into a small record."""
    home = partition_for(neighbour, PARTITIONS)
    return next(name for name in iter(lambda: secrets.token_hex(500), "") if partition_for(name, PARTITIONS) == home)


LIMIT = 2500
"""More than a usual record takes, and less than one with the long id, which it has four times."""


@pytest.mark.parametrize("topic", ["agent-status", "conversations", "inject-outcomes"])
async def test_a_record_that_no_form_makes_fit_holds_up_no_other(running: Running, topic: str) -> None:
    """It is missing in its topic, and its dead letter, which is read as the record was, closes the gap in its stream.
    The events are sent once; all else of its agent is published, and all of its neighbour."""
    neighbour, long = running.agents[0], long_id(running.agents[0])
    if topic != "agent-status":
        await running.register_as(long)
        await running.lab.sim.settle([running.spare], rounds=2)
    await running.configure(topic, max_message_bytes=LIMIT)
    if topic == "agent-status":
        await running.register_as(long)
    for agent, marker in ((long, "771"), (neighbour, "881"), (long, "772"), (neighbour, "882")):
        await running.lab.inject(agent, marker, ce_id=marker)
    await until(lambda: all_told(running, {"771", "772", "881", "882"}), "all are told", 60)
    facts = await running.lab.facts()
    assert await running.sent("771", "772", "881", "882") == [1] * 4
    letters = unwritable(facts)
    assert letters
    assert {letter.key for letter in letters} == {long.encode()}
    told = {f"{one.record['stream_id']}:{one.record['sequence']}": one.record for one in facts.told}
    told |= {letter.header("ce_id") or "": json.loads(letter.value or b"") for letter in letters}
    streams: dict[str, list[int]] = {}
    for record in told.values():
        streams.setdefault(record["stream_id"], []).append(record["sequence"])
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in streams.values())
    assert len(told) == len(facts.told) + len(letters)
    assert all(not list(numbered(s)) for s in facts.streams.values() if s[0].record["agent_id"] != long)
    assert running.logged("partition.lost", "record.refused") == [0, 1]


async def all_told(running: Running, injections: set[str]) -> bool:
    """Whether each of the injections has its outcome, in its topic or in a dead letter."""
    facts = await running.lab.facts()
    letters = (json.loads(letter.value or b"") for letter in unwritable(facts))
    missing = {one["injection_id"] for one in letters if one["type"] == "InjectionCompleted"}
    return injections <= outcomes(facts).keys() | missing


async def test_a_state_that_no_form_makes_fit_ends_its_stream_at_a_takeover(running: Running) -> None:
    """While its owner lives, all goes on; the next one begins a new stream of that agent, so that no number is there
    twice, and goes on with the others'."""
    the_lab, neighbour, long = running.lab, running.agents[0], long_id(running.agents[0])
    await running.configure("agent-state", max_message_bytes=LIMIT)
    await running.register_as(long)
    for number in range(3):
        await the_lab.inject(long, f"77{number}", ce_id=f"77{number}")
        await the_lab.inject(neighbour, f"88{number}", ce_id=f"88{number}")
        await the_lab.completed()
    facts = await running.settled()
    assert outcomes(facts) == dict.fromkeys(
        [f"{kind}{number}" for kind in ("77", "88") for number in range(3)], "delivered"
    )
    assert await running.sent("770", "771", "772", "880", "881", "882") == [1] * 6
    assert facts.states[long] is None
    assert running.logged("partition.lost", "record.refused") == [0, 1]
    await running.configure("agent-state", max_message_bytes=2**21)
    the_lab.launch()
    await the_lab.ready()
    await the_lab.inject(long, "773", ce_id="773")
    facts = await running.settled()
    streams = {
        agent: [s for s in facts.streams.values() if s[0].record["agent_id"] == agent] for agent in (long, neighbour)
    }
    assert {agent: len(found) for agent, found in streams.items()} == {long: 2, neighbour: 1}
    assert not [problem for stream in facts.streams.values() for problem in numbered(stream)]
    assert await running.sent("770", "771", "772", "773") == [1] * 4


@pytest.mark.parametrize("topic", ["agent-status", "conversations", "inject-outcomes"])
async def test_records_that_are_too_old_for_a_topic_get_kafkas_time(
    broker: Broker, topics_prefix: str, tmp_path: Path, topic: str, delivery: str
) -> None:
    """A commit that takes longer than a topic's limit for times loses nothing; observed_at stays."""
    options = ("--sessions", "6", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge(KAFKA__COMMIT_INTERVAL="2s", KAFKA__DELIVERY=delivery)
        running = Running(the_lab, [], "", tmp_path / "bridge.log")
        await running.configure(topic, message_timestamp_before_max_ms=1000)
        agents = [agent["agent_id"] for agent in await the_lab.sim.get("agents")]
        markers = [f"77{number}" for number in range(6)]
        for agent, marker in zip(agents, markers, strict=True):  # one at least is not committed within a second
            await the_lab.register(agent)
            await the_lab.inject(agent, marker, ce_id=marker)
            await asyncio.sleep(0.4)
        facts = await running._replace(agents=agents).settled()
    assert outcomes(facts) == dict.fromkeys(markers, "delivered")
    assert redated(facts, topic) > 0
    assert not [problem for stream in facts.streams.values() for problem in numbered(stream)]
    assert running.logged("partition.lost", "record.redated", "record.refused") == [0, 1, 0]


def redated(facts: Facts, topic: str) -> int:
    """How many records of the topic have another time than their observed_at."""
    times = [(one.message.timestamp, one.record["observed_at"]) for one in facts.told if one.message.topic == topic]
    return sum(abs(stamp - datetime.fromisoformat(at).timestamp() * 1000) > 1 for stamp, at in times)


async def test_a_compacted_topic_of_dead_letters_takes_those_without_a_key(running: Running) -> None:
    """Kafka refuses a record without a key there (INVALID_RECORD): the dead letter has an empty one, and the event
    beside it is delivered."""
    the_lab, agent = running.lab, running.agents[0]
    await running.configure("dead-letters", cleanup_policy="compact")
    home = partition_for(agent, PARTITIONS)
    await the_lab.inject_raw(None, b"no agent's", partition=home)
    await the_lab.inject(agent, "771", ce_id="771")
    facts = await running.settled()
    assert outcomes(facts) == {"771": "delivered"}
    assert [(letter.key, letter.value) for letter in facts.dead_letters] == [(b"", b"no agent's")]
    assert running.logged("partition.lost", "record.refused") == [0, 1]


async def test_an_event_that_cannot_be_moved_gets_its_outcome(running: Running) -> None:
    """The inbox takes less than it did: the event in a wrong partition is undeliverable, and the one behind it is
    moved and delivered."""
    the_lab, agent = running.lab, running.agents[0]
    away = (partition_for(agent, PARTITIONS) + 1) % PARTITIONS
    bridge = the_lab.bridges["bridge"]
    bridge.signal(signal.SIGSTOP)
    await the_lab.inject(agent, "771", ce_id="long", partition=away, conversation={"customer_name": "x" * 50_000})
    await the_lab.inject(agent, "772", ce_id="short", partition=away)
    await running.configure("inject", max_message_bytes=10_000)
    bridge.signal(signal.SIGCONT)
    facts = await running.settled()
    assert outcomes(facts) == {"long": "undeliverable", "short": "delivered"}
    (letter,) = unwritable(facts)
    assert (letter.key, letter.value) == (agent.encode(), the_lab.produced[0].value)
    assert letter.header("asm_origin") == f"{facts.inbox}/{the_lab.produced[0].entry}"
    assert running.logged("partition.lost", "record.refused") == [0, 1]
