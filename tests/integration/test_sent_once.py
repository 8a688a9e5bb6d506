"""Promise 9: no event is sent whose outcome could not be written, and none is sent again on the faith that the next
commit will succeed.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker, maven
from tests.support.chaos.facts import Produced, read_topics
from tests.support.chaos.harness import PARTITIONS, Lab, event_of, lab, until
from tests.support.chaos.machine import HarshBroker
from tests.support.chaos.topics import delete, recreate

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

FEW = ("--sessions", "3", "--change-rate", "0")
TOPIC = "inject-outcomes"


@pytest.fixture(scope="module")
def harsh() -> Iterator[HarshBroker]:
    """A broker that asks an authorizer."""
    if why := maven.why_not():
        pytest.skip(f"a broker with rights needs the maven one: {why}")
    broker = HarshBroker()
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


async def sent(the_lab: Lab, *markers: str) -> list[int]:
    """How often the service took the event of each marker."""
    events = json.dumps(await the_lab.sim.get("events"))
    return [events.count(f'"{marker}"') for marker in markers]


async def outcomes(the_lab: Lab) -> dict[str, list[str]]:
    """The outcomes of each entry, with their reasons."""
    found: dict[str, list[str]] = {}
    for message in await read_topics(the_lab.bootstrap_servers, the_lab.prefix, [TOPIC]):
        record = json.loads(message.value or b"")
        found.setdefault(record["entry"], []).append(record["reason"] or record["outcome"])
    return found


async def right_taken(the_lab: Lab, broker: HarshBroker) -> Callable[[], Awaitable[None]]:
    """Takes away the right to write outcomes. Returns what gives it back."""
    right = ("TOPIC", the_lab.prefix + TOPIC, "WRITE")
    await asyncio.to_thread(broker.deny, *right)

    async def back() -> None:
        await asyncio.to_thread(broker.allow, *right)

    return back


async def topic_deleted(the_lab: Lab, _: HarshBroker) -> Callable[[], Awaitable[None]]:
    """Deletes the outcomes' topic. Returns what creates it again."""
    await delete(the_lab, TOPIC)

    async def back() -> None:
        await recreate(the_lab, TOPIC, PARTITIONS, exists=False)

    return back


@pytest.mark.parametrize(
    ("cause", "reason"),
    [(right_taken, "not authorised to write {topic}"), (topic_deleted, "{topic} does not exist")],
    ids=["no right to write outcomes", "outcomes deleted"],
)
async def test_an_event_is_sent_once_whatever_keeps_its_outcome_from_being_written(
    harsh: HarshBroker,
    topics_prefix: str,
    tmp_path: Path,
    cause: Callable[[Lab, HarshBroker], Awaitable[Callable[[], Awaitable[None]]]],
    reason: str,
) -> None:
    """The cause is named, with the topic; from then on neither this event nor the next one of its partition leaves
    before outcomes can be written, which then happens by itself.
    """
    async with lab(harsh.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await asyncio.to_thread(harsh.admit, the_lab)
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.sim.settle(agents, rounds=1)
        mend = await cause(the_lab, harsh)
        await the_lab.inject(agents[0], "771")

        async def named() -> bool:
            return reason.format(topic=topics_prefix + TOPIC) in (await the_lab.ask("bridge", "readyz"))[1]

        await until(named, "the cause is named")
        (before,) = await sent(the_lab, "771")
        await the_lab.inject(agents[0], "772")
        await asyncio.sleep(12)
        assert await sent(the_lab, "771", "772") == [before, 0]
        await mend()
        await the_lab.completed()
        assert await sent(the_lab, "771", "772") == [1, 1]
        assert {len(found) for found in (await outcomes(the_lab)).values()} == {1}
        assert (tmp_path / "bridge.log").read_text().count('"partition.lost"') < 5  # not one for each attempt


async def test_what_is_too_large_is_never_sent(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """An id, a source, a header, a key or a value that is too large for a record of any topic, also once it has been
    moved, ends its own event before it is sent; the events beside it, those with the longest ids that are taken among
    them, are each sent once.
    """
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *FEW) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        agent = agents[0]
        home = partition_for(agent, PARTITIONS)
        large = [
            await the_lab.inject_raw(agent.encode(), event_of("901"), headers=[header])
            for header in (
                ("ce_id", secrets.token_hex(50_000).encode()),
                ("ce_source", secrets.token_hex(150_000).encode()),
                ("x-team", secrets.token_bytes(300_000)),
            )
        ]
        # Hex under gzip is 3.2 MB in a batch that the inbox takes, and would not fit where it is moved to.
        gzip = AIOKafkaProducer(
            bootstrap_servers=the_lab.bootstrap_servers, compression_type="gzip", max_request_size=2**23
        )
        async with gzip:
            value = event_of("902", {"customer_name": secrets.token_hex(1_600_000)})
            for partition in (home, (home + 1) % PARTITIONS):
                at = await gzip.send_and_wait(f"{the_lab.prefix}inject", value, agent.encode(), partition)
                large.append(Produced(agent, partition, at.offset, f"{partition}/{at.offset}", agent.encode(), value))
        the_lab.produced += large[-2:]
        await the_lab.inject_raw(secrets.token_hex(10_000).encode(), event_of("903"))  # a dead letter, without outcome
        longest = [f"{number:04}" + "\x01" * 1020 for number in range(110)]  # each of 6 kB as JSON, 100 are remembered
        for number, ce_id in enumerate(longest):
            await the_lab.inject(agent, f"77{number:03}", ce_id=ce_id)
        for number, other in enumerate(agents):
            await the_lab.inject(other, f"88{number}")
        await the_lab.completed()
        found = await outcomes(the_lab)
        assert [found[one.entry] for one in large] == [["too_large"]] * 5
        assert {tuple(reasons) for entry, reasons in found.items() if entry not in {one.entry for one in large}} == {
            ("delivered",)
        }
        markers = [one.marker for one in the_lab.produced if one.marker is not None]
        assert set(await sent(the_lab, *markers)) == {1}
        assert await sent(the_lab, "901", "902", "903", "77000", "77109", "880", "881", "882") == [0, 0, 0] + [1] * 5
        log = (tmp_path / "bridge.log").read_text()
        assert '"partition.lost"' not in log
        assert await the_lab.bridges["bridge"].stop() == 0
        await the_lab.bridge("second")
        await the_lab.inject(agent, "77999", ce_id=longest[-1])
        await the_lab.completed()
        assert (await outcomes(the_lab))[the_lab.produced[-1].entry] == ["duplicate"]
