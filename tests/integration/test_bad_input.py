"""Every kind of bad input is handled as documented, and the good events around it are delivered."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from bridge.clock import rfc3339
from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Facts, Message, Produced, Record
from tests.support.chaos.harness import PARTITIONS, Lab, lab

pytestmark = [pytest.mark.kafka, pytest.mark.transactions]

MAX_BYTES = 512 * 1024
LITERAL = "s3cr3t-" + "token"  # short: a library that logs the first bytes of what it reads shows it whole
AGENTS = 6
LOGGED_OUT = "agent-5"
GOOD_EVENT = b'{"pause_event": {}}'

MALFORMED: dict[str, bytes | None] = {
    "not JSON": b"nope",
    "cut short": b'{"pause_event": {',
    "empty": b"",
    "null value": None,
    "JSON null": b"null",
    "a list": b"[]",
    "no event set": b'{"state": "WAITING"}',
    "not an entry of events": b'{"events": [{"pause_event": {}}]}',
    "two events": b'{"pause_event": {}, "resume_event": {}}',
    "unknown field": b'{"pause_event": {}, "priority": 1}',
    "wrong type": b'{"activated_conversation_event": "yes"}',
    "wrong number": b'{"activated_conversation_event": {"conversation": {"conversation_sid": 1.5}}}',
    "number beyond 64 bits": b'{"send_status_event": {}, "event_time": 9223372036854775808}',
    "deeper than any event": b"[" * 100_000,
    "not UTF-8": b'{"pause_event": {}, "x": "\xff\xfe"}',
}  # fmt: skip
"""Values that are not events, for any agent."""

REGISTRY: dict[str, tuple[str, bytes]] = {
    "literal token": ("literal_token", json.dumps({"token": LITERAL}).encode()),
    "registry not JSON": ("malformed_entry", b"watch agent-1, please"),
    "registry wrong type": ("malformed_entry", b'{"interval": "often"}'),
    "registry unknown field": ("malformed_entry", json.dumps({"bearer": LITERAL}).encode()),
}
"""Registry entries that cannot be taken, one for each of the first agents: code and value."""


@dataclass
class Run:
    """The names and records of the input, and everything that resulted from it."""

    facts: Facts
    sent: dict[str, Produced]
    log: str
    metrics: str
    registered: dict[str, str] = field(default_factory=dict)
    """Name of a bad registry entry -> its origin."""

    def outcome(self, name: str) -> Record:
        (found,) = [t.record for t in self.facts.told if t.record.get("entry") == self.sent[name].entry]
        return found

    def dead_letter(self, name: str) -> Message:
        origin = self.registered.get(name) or f"{self.facts.inbox}/{self.sent[name].entry}"
        (found,) = [letter for letter in self.facts.dead_letters if letter.header("asm_origin") == origin]
        return found


class Senders:
    """Sends bad input by name, with a good event before and after each."""

    def __init__(self, the_lab: Lab) -> None:
        self.lab = the_lab
        self.sent: dict[str, Produced] = {}
        self.registered: dict[str, str] = {}
        self._markers = count(9_007_199_254_740_993)

    def marker(self) -> str:
        return str(next(self._markers))

    async def raw(self, name: str, agent_id: str, value: bytes | None, **options: Any) -> None:
        await self.lab.inject(agent_id, self.marker())
        self.sent[name] = await self.lab.inject_raw(agent_id.encode(), value, **options)
        await self.lab.inject(agent_id, self.marker())

    async def event(self, name: str, agent_id: str, **options: Any) -> None:
        self.sent[name] = await self.lab.inject(agent_id, self.marker(), **options)

    async def registry(self) -> None:
        for number, (name, (_, value)) in enumerate(REGISTRY.items()):
            partition, offset = await self.lab.produce("sessions", value, f"agent-{number}".encode())
            self.registered[name] = f"{self.lab.prefix}sessions/{partition}/{offset}"
        partition, offset = await self.lab.produce("sessions", b"{}", b"\xff-agent")
        self.registered["registry key not UTF-8"] = f"{self.lab.prefix}sessions/{partition}/{offset}"

    async def no_events(self) -> None:
        for number, (name, value) in enumerate(MALFORMED.items()):
            await self.raw(name, f"agent-{number % 5}", value)
        msgpack, expires = [("content-type", b"application/msgpack")], [("expires_at", b"tomorrow")]
        await self.raw("not MessagePack", "agent-1", b"\xc1", headers=msgpack)
        await self.raw("unreadable expires_at", "agent-2", GOOD_EVENT, headers=expires)
        await self.raw("malformed, with an id", "agent-3", b"{", ce_id="mine", headers=[("x-team", b"blue")])

    async def keys(self) -> None:
        strange = b"\xff\xfe-agent"
        home = partition_for(strange.decode(errors="backslashreplace"), PARTITIONS)
        self.sent["key not UTF-8"] = await self.lab.inject_raw(strange, GOOD_EVENT, partition=home)
        self.sent["no key"] = await self.lab.inject_raw(None, GOOD_EVENT, partition=3, headers=[("x-team", b"blue")])
        await self.event("unknown agent", "nobody")
        wrong = {who: (partition_for(who, PARTITIONS) + 1) % PARTITIONS for who in ("agent-1", "agent-2", "nobody")}
        await self.event("foreign partition", "agent-1", partition=wrong["agent-1"])
        await self.event("foreign partition, with an id", "agent-2", partition=wrong["agent-2"], ce_id="foreign")
        await self.raw("foreign and malformed", "agent-2", b"{", partition=wrong["agent-2"])
        await self.event("foreign and unknown", "nobody", partition=wrong["nobody"])

    async def events(self) -> None:
        for status in ("", "-404", "-409", "-412", "-422"):
            await self.event(f"before refuse{status}", "agent-4")
            await self.event(f"refuse{status}", "agent-4", conversation={"reference_id": f"refuse{status}"})
            await self.event(f"after refuse{status}", "agent-4")
        await self.event("first of an id", "agent-0", ce_id="twice")
        await self.event("duplicate", "agent-0", ce_id="twice")
        await self.event("same id, another source", "agent-0", ce_id="twice", headers=[("ce_source", b"/crm")])
        await self.event("same id, another agent", "agent-1", ce_id="twice")
        await self.event("refused, its id again", "agent-1", ce_id="again", conversation={"reference_id": "refuse"})
        await self.event("good, with that id", "agent-1", ce_id="again")
        soon = rfc3339(time.time() + 2).encode()
        await self.event("expired before", "agent-2", headers=[("expires_at", b"2020-01-01T00:00:00Z")])
        await self.event("expired waiting", LOGGED_OUT, headers=[("expires_at", soon)])
        for name, size in (("oversized", MAX_BYTES + 1), ("just not oversized", MAX_BYTES)):
            marker = self.marker()
            value = _event_of(size, marker)
            self.sent[name] = await self.lab.inject_raw(b"agent-3", value, marker=marker)
        await self.event("after oversized", "agent-3")


def _event_of(size: int, marker: str) -> bytes:
    """An event of exactly this many bytes."""
    frame = '{"activated_conversation_event": {"conversation": {"conversation_sid": "%s", "reference_id": "%s"}}}'
    return (frame % (marker, "x" * (size - len(frame % (marker, ""))))).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def run(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Run]:
    """Sends all bad inputs to one bridge among good ones."""
    prefix, directory = f"t{secrets.token_hex(4)}.", tmp_path_factory.mktemp("bad-input")
    async with lab(
        broker.bootstrap_servers, prefix, directory, "--sessions", str(AGENTS), "--change-rate", "0"
    ) as the_lab:
        yield await _everything(the_lab, directory)


async def _everything(the_lab: Lab, directory: Path) -> Run:
    senders = Senders(the_lab)
    await the_lab.sim.post(f"agents/{LOGGED_OUT}/logout")
    await the_lab.bridge(INJECTION__UNKNOWN_AGENT_GRACE="2s", LOG__LEVEL="debug")
    agents = await the_lab.register_all()
    await senders.registry()
    await asyncio.gather(senders.no_events(), senders.keys(), senders.events())
    await the_lab.completed()
    await the_lab.sim.settle(agents, rounds=2)
    metrics = (await the_lab.ask("bridge", "metrics"))[1]
    assert await the_lab.bridges["bridge"].stop() == 0
    log = (directory / "bridge.log").read_text()
    return Run(await the_lab.facts(), senders.sent, log, metrics, senders.registered)


async def test_good_ones_pass_and_each_entry_has_one_outcome(run: Run) -> None:
    """Good events among bad input are delivered in order, and each entry has exactly one outcome."""
    assert_kept(run.facts)
    named = {produced.entry for produced in run.sent.values()}
    good = {produced.entry for produced in run.facts.produced} - named
    delivered = {t.record["entry"] for t in run.facts.told if t.record.get("outcome") == "delivered"}
    assert good <= delivered
    assert len(good) > 30


@pytest.mark.parametrize(
    "name", [*MALFORMED, "not MessagePack", "unreadable expires_at", "malformed, with an id", "foreign and malformed"]
)
async def test_what_is_no_event(run: Run, name: str) -> None:
    """A record that is not an event is undeliverable, and its dead letter has the original value and the reason."""
    outcome, letter = run.outcome(name), run.dead_letter(name)
    assert (outcome["outcome"], outcome["reason"], outcome["attempts"]) == ("undeliverable", "malformed_event", 0)
    assert letter.header("asm_error_code") == "malformed_event"
    assert len(letter.header("asm_error") or "") > 20
    assert letter.value == run.sent[name].value


async def test_a_dead_letter_keeps_the_headers(run: Run) -> None:
    """A dead letter has the sender's headers beside the bridge's own."""
    letter = run.dead_letter("malformed, with an id")
    assert (letter.header("ce_id"), letter.header("x-team")) == ("mine", "blue")
    assert run.outcome("malformed, with an id")["injection_id"] == "mine"


async def test_a_key_that_is_not_utf8(run: Run) -> None:
    """A record whose key is not UTF-8 is undeliverable, and its dead letter has the original key."""
    outcome, letter = run.outcome("key not UTF-8"), run.dead_letter("key not UTF-8")
    assert (outcome["outcome"], outcome["reason"]) == ("undeliverable", "malformed_event")
    assert (letter.key, letter.value) == (b"\xff\xfe-agent", GOOD_EVENT)


async def test_without_a_key(run: Run) -> None:
    """A record without a key becomes a dead letter with its headers, and has no outcome."""
    letter = run.dead_letter("no key")
    assert (letter.key, letter.value) == (None, GOOD_EVENT)
    assert letter.header("asm_error_code") == "malformed_event"
    assert letter.header("x-team") == "blue"


@pytest.mark.parametrize("name", ["unknown agent", "foreign and unknown"])
async def test_an_unknown_agent(run: Run, name: str) -> None:
    """An unknown agent's event is undeliverable after the grace period, and its outcome belongs to no stream."""
    outcome = run.outcome(name)
    assert (outcome["outcome"], outcome["reason"]) == ("undeliverable", "unknown_agent")
    assert (outcome["stream_id"], outcome["sequence"]) == (None, None)
    assert run.dead_letter(name).header("asm_error_code") == "unknown_agent"


@pytest.mark.parametrize("name", ["foreign partition", "foreign partition, with an id"])
async def test_a_foreign_partition(run: Run, name: str) -> None:
    """An event in the wrong partition is delivered under its first record id and time of arrival."""
    outcome = run.outcome(name)
    assert (outcome["outcome"], outcome["entry"]) == ("delivered", run.sent[name].entry)
    assert outcome["injection_id"] == run.sent[name].injection_id


@pytest.mark.parametrize("status", ["", "-404", "-409", "-412", "-422"])
async def test_a_refused_event(run: Run, status: str) -> None:
    """An event that the service refuses is rejected and a dead letter, and the events sent with it are
    delivered once.
    """
    outcome, letter = run.outcome(f"refuse{status}"), run.dead_letter(f"refuse{status}")
    assert (outcome["outcome"], outcome["http_status"]) == ("rejected", int(status.removeprefix("-") or "400"))
    assert letter.value == run.sent[f"refuse{status}"].value
    for neighbour in (f"before refuse{status}", f"after refuse{status}"):
        assert run.outcome(neighbour)["outcome"] == "delivered"


async def test_a_duplicate(run: Run) -> None:
    """A second event with the same source, id and agent is not sent, unless the first was refused."""
    assert run.outcome("first of an id")["outcome"] == "delivered"
    assert (run.outcome("duplicate")["outcome"], run.outcome("duplicate")["attempts"]) == ("duplicate", 0)
    for name in ("same id, another source", "same id, another agent", "good, with that id"):
        assert run.outcome(name)["outcome"] == "delivered"
    assert run.outcome("refused, its id again")["outcome"] == "rejected"
    assert run.outcome("same id, another source")["source"] == "/crm"


@pytest.mark.parametrize("name", ["expired before", "expired waiting"])
async def test_an_expired_event(run: Run, name: str) -> None:
    """An event that cannot be sent in time expires, without a dead letter."""
    outcome = run.outcome(name)
    assert (outcome["outcome"], outcome["reason"]) == ("expired", None)
    assert outcome["completed_at"] < rfc3339(time.time())


async def test_an_oversized_event(run: Run) -> None:
    """An event over 512 KiB is undeliverable, and its dead letter has no value; one of exactly 512 KiB is delivered."""
    outcome, letter = run.outcome("oversized"), run.dead_letter("oversized")
    assert (outcome["outcome"], outcome["reason"]) == ("undeliverable", "too_large")
    assert letter.value is None
    assert len(run.sent["just not oversized"].value or b"") == MAX_BYTES
    assert len(run.sent["oversized"].value or b"") == MAX_BYTES + 1
    assert run.outcome("just not oversized")["outcome"] == "delivered"
    assert run.outcome("after oversized")["outcome"] == "delivered"


@pytest.mark.parametrize("name", [*REGISTRY, "registry key not UTF-8"])
async def test_a_bad_registry_entry(run: Run, name: str) -> None:
    """An invalid registry entry is a dead letter without its value, and the agent's last valid entry stays in force."""
    letter = run.dead_letter(name)
    assert letter.value is None
    assert letter.header("asm_error_code") == REGISTRY.get(name, ("malformed_entry",))[0]
    number = list(REGISTRY).index(name) if name in REGISTRY else 4
    assert run.facts.agents[f"agent-{number}"]["polls"] > 2
    assert letter.key == (f"agent-{number}".encode() if name in REGISTRY else b"\xff-agent")


async def test_no_secret_gets_out(run: Run) -> None:
    """No token, used or refused, appears in a record, a header, a log line or a metric."""
    parts = [repr(message) for message in run.facts.messages]
    for secret in (LITERAL, "sim-token-"):
        assert not [part[:500] for part in parts if secret in part]
        assert secret not in run.log
        assert secret not in run.metrics
