"""Commands with a broker, each in a process of its own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker

pytestmark = pytest.mark.kafka
DEADLINE = 30.0


class Bridge:
    """`asm-bridge` with this test's broker and topics."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self.broker, self.prefix = broker, prefix

    async def start(self, *arguments: str, stdout: int = PIPE) -> Process:
        settings = {
            "ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS": self.broker.bootstrap_servers,
            "ASM_BRIDGE_TOPICS__PREFIX": self.prefix,
            "ASM_BRIDGE_TOPICS__PARTITIONS": "4",
        }
        command = (sys.executable, "-m", "bridge", *arguments)
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=stdout, stderr=PIPE, env=os.environ | settings
        )

    async def __call__(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Exit code, standard output and error."""
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), DEADLINE)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    @contextlib.asynccontextmanager
    async def producer(self) -> AsyncIterator[AIOKafkaProducer]:
        client = AIOKafkaProducer(bootstrap_servers=self.broker.bootstrap_servers, acks="all")
        await asyncio.wait_for(client.start(), DEADLINE)
        try:
            yield client
        finally:
            await asyncio.wait_for(client.stop(), DEADLINE)


@pytest.fixture
async def bridge(broker: Broker, topics_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bridge:
    monkeypatch.chdir(tmp_path)
    return Bridge(broker, topics_prefix)


@pytest.fixture
async def topics(bridge: Bridge) -> str:
    """The prefix of existing topics."""
    code, out, err = await bridge("topics", "create")
    assert code == 0, out + err
    return bridge.prefix


async def test_topics_are_created_once(bridge: Bridge) -> None:
    """`topics create` creates the nine topics, the registry with one partition; a second run finds them correct."""
    results = []
    for _ in range(2):
        code, out, err = await bridge("topics", "create", "--json")
        assert code == 0, err
        results.append({one["topic"].removeprefix(bridge.prefix): one for one in json.loads(out)})
    assert len(results[0]) == 10
    assert {one["result"] for one in results[0].values()} == {"created"}
    assert {one["result"] for one in results[1].values()} == {"exists"}
    assert {name: one["partitions"] for name, one in results[1].items() if one["partitions"] != 4} == {"sessions": 1}


async def test_processes_may_create_topics_at_once(bridge: Bridge) -> None:
    """Several processes that start together can create the topics concurrently."""
    runs = await asyncio.gather(*(bridge("topics", "create") for _ in range(3)))
    assert [code for code, _, _ in runs] == [0, 0, 0], runs


async def test_a_wrong_number_of_partitions_is_told(bridge: Bridge, topics: str) -> None:
    """Existing topics are checked and never altered: a wrong number of partitions is reported with what to do, and exit
    code 1.
    """
    code, out, _ = await bridge("topics", "create", "--topics.partitions", "2")
    assert code == 1
    assert "has 4 partitions, not 2: set topics.partitions to 4" in out
    assert (await bridge("topics", "create"))[0] == 0


@pytest.mark.transactions
async def test_topics_with_kafkas_defaults_are_worked_with(bridge: Bridge) -> None:
    """Topics that somebody created with Kafka's defaults are accepted, with a remark on what works less well."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bridge.broker.bootstrap_servers)
    await admin.start()
    try:
        new = [NewTopic(bridge.prefix + name, 4, 1) for name in ("inject", "agent-status")]
        await admin.create_topics(new)
    finally:
        await admin.close()
    for _ in range(2):
        code, out, _ = await bridge("topics", "create", "--json")
        assert code == 0, out
        results = {one["topic"].removeprefix(bridge.prefix): one for one in json.loads(out)}
        assert results["inject"]["result"] == "exists"
        assert results["inject"]["notes"][1].startswith(
            "message.timestamp.type is CreateTime, not LogAppendTime; times"
        )


async def test_a_wrong_setting_of_a_topic_is_told(bridge: Bridge) -> None:
    """A state topic that is not compacted, and so would lose states, is reported."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bridge.broker.bootstrap_servers)
    await admin.start()
    try:
        new = NewTopic(f"{bridge.prefix}agent-state", 4, 1, topic_configs={"cleanup.policy": "delete"})
        await admin.create_topics([new])
    finally:
        await admin.close()
    code, out, _ = await bridge("topics", "create")
    assert code == 1
    assert "cleanup.policy is delete, and must be compact" in out


async def test_without_topics_commands_say_what_to_do(bridge: Bridge) -> None:
    """Without topics each command says how to create them, and creates none."""
    for arguments in (("sessions", "list"), ("tail",), ("inject", "a")):
        code, _, err = await bridge(*arguments, stdin='{"pause_event": {}}')
        assert code == 1
        assert "run `asm-bridge topics create`" in err
        assert "Traceback" not in err


async def test_the_registry(bridge: Bridge, topics: str) -> None:
    """Sessions are added, listed, exported, imported, pruned and removed."""
    add = ("sessions", "add", "agent-7", "--token", "file:agent-7", "--interval", "2s", "--skill", "english")
    assert (await bridge(*add, "--label", "site=manila", "--no-messages"))[:2] == (0, "agent-7: added\n")
    assert (await bridge("sessions", "add", "agent-8"))[:2] == (0, "agent-8: added\n")
    assert (await bridge("sessions", "add", "agent-8"))[:2] == (0, "nothing to change\n")

    _, out, _ = await bridge("sessions", "list", "--json")
    assert [entry["agent_id"] for entry in json.loads(out)] == ["agent-7", "agent-8"]
    assert json.loads(out)[0]["labels"] == {"site": "manila"}
    assert json.loads(out)[0]["interval"] == 2.0
    assert json.loads(out)[0]["get_messages"] is False

    for arguments in ((), ("--json",)):
        _, exported, _ = await bridge("sessions", "export", *arguments)
        assert (await bridge("sessions", "import", "-", "--prune", stdin=exported))[:2] == (0, "nothing to change\n")

    wanted = '[[sessions]]\nagent_id = "agent-8"\nkeep_alive = true\n[[sessions]]\nagent_id = "agent-9"\n'
    would = "agent-7: would be removed\nagent-8: would be updated\nagent-9: would be added\n"
    assert (await bridge("sessions", "import", "-", "--prune", "--dry-run", stdin=wanted))[:2] == (0, would)
    assert (await bridge("sessions", "import", "-", "--prune", stdin=wanted))[1] == would.replace("would be ", "")

    code, out, err = await bridge("sessions", "remove", "agent-9", "agent-10")
    assert (code, out) == (1, "agent-9: removed\n")
    assert "agent-10" in err
    assert [e["agent_id"] for e in json.loads((await bridge("sessions", "list", "--json"))[1])] == ["agent-8"]


async def test_nothing_of_a_wrong_file_is_written(bridge: Bridge, topics: str) -> None:
    """A file with one wrong entry changes nothing, and neither does an empty one with --prune."""
    assert (await bridge("sessions", "add", "agent-7"))[0] == 0
    wrong = '[[sessions]]\nagent_id = "agent-8"\n[[sessions]]\nagent_id = "agent-9"\ntoken = "eyJsecret"\n'
    for text in (wrong, ""):
        code, out, err = await bridge("sessions", "import", "-", "--prune", stdin=text)
        assert (code, out) == (1, "")
        assert "nothing was written" in err
        assert "eyJsecret" not in err
    assert (await bridge("sessions", "export"))[1] == '[[sessions]]\nagent_id = "agent-7"\n'


async def answer(bridge: Bridge, outcome: str, encode: Callable[[Any], bytes], content_type: bytes) -> dict[str, str]:
    """Stands in for the bridge: takes one entry from the inbox and publishes its outcome. Returns the
    entry's headers.
    """
    inbox = f"{bridge.prefix}inject"
    consumer = AIOKafkaConsumer(inbox, bootstrap_servers=bridge.broker.bootstrap_servers, auto_offset_reset="earliest")
    await asyncio.wait_for(consumer.start(), DEADLINE)
    try:
        entry = await asyncio.wait_for(consumer.getone(), DEADLINE)
    finally:
        await consumer.stop()
    assert entry.partition == partition_for(entry.key, 4)
    headers = {name: text.decode() for name, text in entry.headers}
    value = {
        "type": "InjectionCompleted",
        "injection_id": headers["ce_id"],
        "entry": f"{entry.partition}/{entry.offset}",
        "outcome": outcome,
        "reason": None if outcome == "delivered" else "backlog",
        "attempts": 1,
    }
    async with bridge.producer() as producer:
        other = encode(value | {"entry": "0/99", "outcome": "expired"})
        for content in (other, encode(value)):
            await producer.send_and_wait(
                f"{bridge.prefix}inject-outcomes",
                content,
                key=entry.key,
                partition=entry.partition,
                headers=[("content-type", content_type)],
            )
    return headers


@pytest.mark.parametrize(
    ("outcome", "expected", "encode", "content_type"),
    [
        ("delivered", 0, msgspec.json.encode, b"application/json"),
        ("delivered", 0, msgspec.msgpack.encode, b"application/msgpack"),
        ("undeliverable", 1, msgspec.json.encode, b"application/json"),
        ("duplicate", 1, msgspec.json.encode, b"application/json"),
    ],
)
async def test_an_injection_and_its_outcome(
    bridge: Bridge, topics: str, outcome: str, expected: int, encode: Callable[[Any], bytes], content_type: bytes
) -> None:
    """`inject` sends to the agent's partition, waits for the entry's outcome, and exits with 0 only if it
    is delivered.
    """
    event = '{"pauseEvent": {}}'
    sent = bridge("inject", "agent-7", "--id", "id-1", "--source", "crm", "--expires-in", "1m", "--json", stdin=event)
    (code, out, err), headers = await asyncio.gather(sent, answer(bridge, outcome, encode, content_type))
    assert code == expected, err
    assert json.loads(out)["outcome"] == outcome
    assert headers["ce_id"] == "id-1"
    assert headers["ce_source"] == "crm"
    assert headers["expires_at"].endswith("Z")


async def test_an_injection_without_an_outcome(bridge: Bridge, topics: str) -> None:
    """Without a bridge `inject` gives up after --timeout, with the entry's record id and what to check."""
    code, _, err = await bridge("inject", "agent-7", "--timeout", "1s", stdin='{"pause_event": {}}')
    assert code == 1
    assert "no outcome within 1 s" in err
    assert (await bridge("inject", "agent-7", "--no-wait", stdin='{"pause_event": {}}'))[0] == 0


async def lines(process: Process, count: int) -> list[Any]:
    assert process.stdout is not None
    return [json.loads(await asyncio.wait_for(process.stdout.readline(), DEADLINE)) for _ in range(count)]


async def test_tail_shows_what_is_there(bridge: Bridge, topics: str) -> None:
    """`tail --from-beginning` prints the records of the topics, of one agent, and of topics by either name."""
    async with bridge.producer() as producer:
        for agent in ("agent-7", "agent-8"):
            for topic in ("queued-calls", "agent-status"):
                await producer.send_and_wait(f"{topics}{topic}", b'{"type": "X"}', key=agent.encode(), partition=1)
    code, out, err = await bridge("tail", "--json", "--from-beginning", "--agent", "agent-7", "--limit", "2")
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert {record["topic"] for record in found} == {f"{topics}queued-calls", f"{topics}agent-status"}
    assert {record["key"] for record in found} == {"agent-7"}
    assert found[0]["value"] == {"type": "X"}
    names = ("queued-calls", f"{topics}agent-status")
    code, out, _ = await bridge("tail", *names, "--from-beginning", "--for", "2s")
    assert (code, len(out.splitlines())) == (0, 4)
    code, _, err = await bridge("tail", "frob")
    assert code == 1
    assert f"there is no topic frob or {topics}frob" in err


async def test_tail_stops_at_the_end_as_it_was(bridge: Bridge, topics: str) -> None:
    """`tail --until-end` prints what the topics hold when it starts, in every partition, and exits with 0."""
    assert await bridge("tail", "--until-end") == (0, "", "")
    async with bridge.producer() as producer:
        for number in range(6):
            await producer.send_and_wait(f"{topics}agent-status", b"%d" % number, key=b"a", partition=number % 4)
    code, out, err = await bridge("tail", "--until-end", "--from-beginning", "--json")
    assert (code, err) == (0, "")
    assert sorted(json.loads(line)["value"] for line in out.splitlines()) == list(range(6))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_tail_shows_what_arrives_until_a_signal(bridge: Bridge, topics: str, number: signal.Signals) -> None:
    """`tail` prints each record as soon as it arrives; SIGINT and SIGTERM end it with 0."""
    process = await bridge.start("tail", "agent-status", "--json", "--from-beginning")
    async with bridge.producer() as producer:
        for value in (b"1", b"2"):
            await producer.send_and_wait(f"{topics}agent-status", value, key=b"a", partition=0)
            assert [record["value"] for record in await lines(process, 1)] == [int(value)]
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert (process.returncode, err) == (0, b"")


async def test_tail_ends_when_nobody_reads(bridge: Bridge, topics: str) -> None:
    """`tail | head -1` ends without an error, even if nothing more arrives."""
    async with bridge.producer() as producer:
        await producer.send_and_wait(f"{topics}agent-status", b"1", key=b"a", partition=0)
    read, write = os.pipe()
    process = await bridge.start("tail", "agent-status", "--from-beginning", stdout=write)
    os.close(write)
    await asyncio.wait_for(asyncio.to_thread(os.read, read, 1), DEADLINE)
    os.close(read)
    _, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    assert (process.returncode, err) == (0, b"")
