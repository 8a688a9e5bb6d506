"""What schemas/asyncapi.json says, held against every record of a run: payload, headers, key, partition, timestamp."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from asm_bridge_schemas.asyncapi import document
from bridge.clock import seconds
from bridge.kafka.partitioner import partition_for
from bridge.testing.brokers import Broker
from tests.support.chaos.facts import Facts, Message, Record
from tests.support.chaos.harness import PARTITIONS, lab

pytestmark = [pytest.mark.kafka, pytest.mark.transactions, pytest.mark.timeout(180)]

DOCUMENT = json.loads(json.dumps(document()))
CHANNELS, MESSAGES = DOCUMENT["channels"], DOCUMENT["components"]["messages"]
SCHEMAS = DOCUMENT["components"]["schemas"]
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_the_document_is_true_of_every_record(broker: Broker, topics_prefix: str, tmp_path: Path) -> None:
    """Every record of a run with a kill, events of several outcomes and changes of the registry is as the document says
    of its topic and its message."""
    arguments = ["--sessions", "8", "--change-rate", "1"]
    async with lab(broker.bootstrap_servers, topics_prefix, tmp_path, *arguments) as the_lab:
        await the_lab.bridge(RECORDS__HEARTBEAT_INTERVAL="1", INJECTION__UNKNOWN_AGENT_GRACE="1")
        entry = {"interval": 0.5, "get_conversations": True, "conversations_interval": 1}
        agents = await the_lab.register_all(**entry)
        await the_lab.sim.settle(agents)
        await the_lab.inject("agent-0", "1", ce_id="one", headers=[("traceparent", TRACE), ("ce_source", b"/test")])
        await the_lab.completed()
        await the_lab.inject("agent-0", "1", ce_id="one", headers=[("ce_source", b"/test")])
        await the_lab.inject("agent-1", "2", partition=(partition_for("agent-1", PARTITIONS) + 1) % PARTITIONS)
        await the_lab.inject("agent-2", "3", headers=[("expires_at", b"2024-05-01T12:00:00Z")])
        await the_lab.inject("nobody", "4")
        await the_lab.inject_raw(b"agent-3", b"not an event")
        await the_lab.inject_raw(None, b"{}")
        await the_lab.sim.post("thaw")
        the_lab.kill()
        await the_lab.bridge()
        await the_lab.completed()
        await the_lab.register("agent-3", labels={"site": "cebu"}, **entry)
        await the_lab.produce("sessions", None, b"agent-4")
        await the_lab.sim.settle([agent for agent in agents if agent != "agent-4"])
        assert await the_lab.bridges["bridge"].stop() == 0
        facts = await the_lab.facts()

    seen = {name_of(message) for message in facts.messages if message.topic != "inject"}
    assert {message.topic for message in facts.messages} == CHANNELS.keys() - {"sessions"}
    assert seen >= {"AgentWatchStarted", "AgentWatchEnded", "AgentProfileChanged", "AgentSessionStarted", "Tombstone"}
    assert seen >= {"AgentStatusChanged", "QueuedCallChanged", "AgentMessageReceived", "ConversationChanged"}
    for message in facts.messages:
        check_place(message)
        if message.topic != "inject":
            check_message(message, name_of(message))
    check_outcomes(facts)
    check_states(facts)


def name_of(message: Message) -> str:
    """The message of its channel that a record is."""
    if message.topic == "dead-letters":
        return "DeadLetter"
    if message.value is None:
        return "Tombstone"
    (name,) = (one for one in CHANNELS[message.topic]["messages"] if MESSAGES[one]["name"] == message.header("ce_type"))
    return str(name)


def check_place(message: Message) -> None:
    """Key and partition."""
    if message.topic == "heartbeats":
        assert message.key == str(message.partition).encode()
    elif message.topic != "inject":  # anybody may write there, to any partition
        assert message.key is None or message.partition == partition_for(message.key, PARTITIONS)


@cache
def validator(name: str) -> jsonschema.Draft7Validator:
    schema = {**MESSAGES[name]["payload"], "components": DOCUMENT["components"]}
    return jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)


def check_message(message: Message, name: str) -> None:
    """Headers, payload and timestamp."""
    traits = DOCUMENT["components"]["messageTraits"]["cloudEvent"]["headers"]
    headers = {key: value.decode() for key, value in message.headers}
    if name == "Tombstone":
        assert not headers
    else:
        jsonschema.Draft7Validator(MESSAGES[name].get("headers", traits)).validate(headers)
    if name in ("Tombstone", "DeadLetter"):
        return
    assert headers.keys() <= MESSAGES[name].get("headers", traits)["properties"].keys()
    record = json.loads(message.value or b"")
    validator(name).validate(record)
    check_texts_of_times(record, SCHEMAS[name])
    at = record["observed_until" if name == "PartitionHeartbeat" else "observed_at"]
    assert headers.get("ce_time") == at
    if name != "AgentState":
        assert message.timestamp == round(seconds(at) * 1000)
    elif at is not None:
        assert message.timestamp >= int(seconds(at) * 1000)


def check_texts_of_times(record: Record, schema: Record) -> None:
    """The texts of the bridge's times sort as the times do."""
    for name, field in schema["properties"].items():
        if "Clock: bridge" in field.get("description", "") and isinstance(record[name], str):
            assert re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{6}Z", record[name]), (name, record[name])


def check_outcomes(facts: Facts) -> None:
    """Each event with a key has one outcome; one that could not be handled has a dead letter with the same code, and
    one that was delivered a record just before."""
    outcomes = {told.record["entry"]: told.record for told in facts.told if told.message.topic == "inject-outcomes"}
    found: dict[str, int] = {}
    letters = {letter.header("asm_origin"): letter for letter in facts.dead_letters}
    for sent in facts.produced:
        letter = letters.pop(f"{facts.inbox}/{sent.entry}", None)
        if sent.key is None:
            assert letter is not None
            assert letter.partition == sent.partition
            continue
        outcome = outcomes.pop(sent.entry)
        found[outcome["outcome"]] = found.get(outcome["outcome"], 0) + 1
        assert outcome["injection_id"] == sent.injection_id
        assert (letter is not None) == (outcome["outcome"] in ("rejected", "undeliverable")) == bool(outcome["reason"])
        assert letter is None or (letter.header("asm_error_code"), letter.value) == (outcome["reason"], sent.value)
        if outcome["outcome"] == "delivered":
            stream = facts.streams[outcome["stream_id"]]
            before = stream[outcome["sequence"] - 2].record
            assert (before["type"], before["injection_id"]) == ("ConversationEventDelivered", sent.injection_id)
    assert not outcomes
    assert not letters
    assert found.keys() == {"delivered", "duplicate", "expired", "undeliverable"}


def check_states(facts: Facts) -> None:
    """Each state is the picture after the record with its number; the last one after the stream's last record."""
    for message in facts.messages:
        state: Any = json.loads(message.value or b"null") if message.topic == "agent-state" else None
        if state and state["stream_id"]:
            assert (
                facts.streams[state["stream_id"]][state["sequence"] - 1].record["observed_at"] == state["observed_at"]
            )
    for state in facts.states.values():
        if state is not None and state["stream_id"]:
            assert state["sequence"] == len(facts.streams[state["stream_id"]])
