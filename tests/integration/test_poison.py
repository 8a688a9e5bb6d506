"""Records that aiokafka cannot decode, in every topic that the bridge or a command reads, end no process."""

import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import read_to_end
from bridge.testing.brokers import Broker
from tests.support.chaos.facts import Produced
from tests.support.chaos.harness import PARTITIONS, TOKENS, Lab, lab
from tests.support.poison import send_with_header_name

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]
NAME = b"gr\xf6sse"
AGENT = "agent-0"
EVENT = b'{"activated_conversation_event": {"conversation": {"conversation_sid": "77"}}}'


async def poison(the_lab: Lab) -> list[Produced]:
    """Writes unreadable header names into registry, inbox, dead letters and states, and states under keys of no agent.

    Returns the events of the inbox, which are sound but for the name of a header.
    """
    events = []
    async with AIOKafkaProducer(bootstrap_servers=the_lab.bootstrap_servers) as producer:
        entry = json.dumps({"token": f"file:{TOKENS}#{AGENT}", "labels": {"site": "köln"}}).encode()
        await send_with_header_name(producer, f"{the_lab.prefix}sessions", 0, AGENT.encode(), entry, NAME)
        home = partition_for(AGENT, PARTITIONS)
        for topic, value in (("dead-letters", EVENT), ("inject-outcomes", b"{}")):
            await send_with_header_name(producer, the_lab.prefix + topic, home, AGENT.encode(), value, NAME)
        for partition in range(PARTITIONS):
            topic, state = f"{the_lab.prefix}agent-state", b'{"agent_id": "agent-1", "stream_id": "stolen"}'
            await producer.send_and_wait(topic, state, b"\xff\xfe", partition)
            await producer.send_and_wait(topic, state, b"", partition)
            await send_with_header_name(producer, topic, partition, b"foreign", b"\xff", NAME)
        topic = f"{the_lab.prefix}inject"
        offset = await send_with_header_name(producer, topic, home, AGENT.encode(), EVENT, NAME)
        events.append(Produced(AGENT, home, offset, f"{home}/{offset}", AGENT.encode(), EVENT, "77"))
        # Without a key it becomes a dead letter, headers and all; in a foreign partition it is moved.
        await send_with_header_name(producer, topic, 3, None, EVENT, NAME)
        away = (home + 1) % PARTITIONS
        offset = await send_with_header_name(producer, topic, away, AGENT.encode(), EVENT.replace(b"77", b"78"), NAME)
        events.append(Produced(AGENT, away, offset, f"{away}/{offset}", AGENT.encode(), EVENT, "78"))
    return events


async def outcomes_of(the_lab: Lab) -> dict[str, str]:
    """The outcome of each entry of the inbox that has one."""
    partitions = [(f"{the_lab.prefix}inject-outcomes", partition) for partition in range(PARTITIONS)]
    connection = {"bootstrap_servers": the_lab.bootstrap_servers}
    records = [json.loads(one.value or b"") async for one in read_to_end(connection, partitions)]
    return {record["entry"]: record["outcome"] for record in records if record}


async def test_no_bytes_end_a_process_or_a_command(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Despite unreadable header names and states under keys that are not UTF-8, a running bridge and a new one deliver
    the events beside them, and each command that reads these topics exits with 0.
    """
    options = ("--sessions", "2", "--change-rate", "0")
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *options) as the_lab:
        await the_lab.bridge()
        agents = await the_lab.register_all()
        await the_lab.sim.settle(agents, rounds=1)
        the_lab.produced += await poison(the_lab)
        await the_lab.inject(AGENT, "79")
        await the_lab.completed()
        assert await the_lab.bridges["bridge"].stop() == 0
        await the_lab.bridge("second")
        the_lab.produced += await poison(the_lab)
        await the_lab.inject(AGENT, "80")
        await the_lab.completed()
        outcomes = await outcomes_of(the_lab)
        assert {outcomes[produced.entry] for produced in the_lab.produced} == {"delivered"}
        log = (tmp_path / "second.log").read_text()
        assert log.count("record.header_name_unreadable") < 10
        assert "Traceback" not in log + (tmp_path / "bridge.log").read_text()
        assert 'kafka_errors_total{operation="header_name"}' in (await the_lab.ask("second", "metrics"))[1]
        for arguments in (
            ["check"],
            ["sessions", "list", "--json"],
            ["sessions", "export"],
            ["dead-letters", "list", "--json"],
            ["dead-letters", "resend", "--all", "--dry-run"],
            ["tail", "--until-end"],
            ["tail", "--until-end", "--json", "agent-state", "sessions", "dead-letters", "inject"],
        ):
            code, out, err = await the_lab.command(*arguments)
            assert (code, "Traceback" in err) == (0, False), f"{arguments}: {err}"
            assert "?" * len(NAME) not in out
