"""The bridge and a real Schema Registry, which goes down and comes back; Confluent's own deserializer reads it all."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient as ConfluentClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from asm_bridge_schemas.definitions import record_definitions
from asm_bridge_schemas.frame import schema_id, unframed
from asm_bridge_schemas.registry import registered_schemas, text
from bridge.kafka.schema_registry import SchemaRegistryClient
from bridge.settings import SchemaRegistrySettings
from bridge.testing.brokers import Broker
from tests.support.apicurio import Apicurio, needs_apicurio
from tests.support.chaos.checker import assert_kept
from tests.support.chaos.facts import Message
from tests.support.chaos.harness import Lab, lab, until
from tests.support.mutations import MUTATIONS, mutated

pytestmark = [pytest.mark.kafka, pytest.mark.transactions, needs_apicurio, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def registry() -> Iterator[Apicurio]:
    """Running; it refuses what is not compatible with a subject's last version."""
    apicurio = Apicurio()
    apicurio.start()
    try:
        httpx.put(f"{apicurio.url}/config", json={"compatibility": "BACKWARD"}).raise_for_status()
        yield apicurio
    finally:
        apicurio.stop()


async def test_records_are_framed_through_outages_of_the_registry(
    broker: Broker, registry: Apicurio, topics_prefix: str, tmp_path: Path
) -> None:
    """Without it nothing is published and /readyz says why; once the ids are known its absence does no harm. States
    with and without a frame are recovered, whatever the bridge is that wrote them; no stream breaks."""
    async with lab(
        broker.bootstrap_servers, topics_prefix, tmp_path, "--sessions", "8", "--change-rate", "1"
    ) as the_lab:
        await the_lab.bridge("plain")
        agents = await the_lab.register_all(interval=0.2)
        await _injected(the_lab, agents)
        assert await the_lab.bridges["plain"].stop() == 0

        await asyncio.to_thread(registry.kill)
        the_lab.launch("framed", SCHEMA_REGISTRY__URL=registry.url)
        unframed_before = await _waits(the_lab, "framed")
        await asyncio.to_thread(registry.restart)
        await the_lab.ready("framed")
        await _injected(the_lab, agents)
        await the_lab.inject_raw(agents[0].encode(), b"{")

        await asyncio.to_thread(registry.kill)
        await _injected(the_lab, agents)
        the_lab.kill("framed")
        the_lab.launch("framed")
        await _waits(the_lab, "framed")
        await asyncio.to_thread(registry.restart)
        await the_lab.ready("framed")
        await _injected(the_lab, agents)
        assert await the_lab.bridges["framed"].stop() == 0
        framed_before = len((await the_lab.facts()).messages)

        await the_lab.bridge("plain")
        await _injected(the_lab, agents)
        await the_lab.sim.settle(agents)
        assert await the_lab.bridges["plain"].stop() == 0
        facts = await the_lab.facts()

    assert_kept(facts)
    assert len(facts.streams) == len(agents)
    assert {message.key for message in facts.dead_letters} == {agents[0].encode()}
    assert [message.value for message in facts.dead_letters] == [b"{"]
    written = [m for m in facts.messages if m.topic not in ("inject", "dead-letters") and m.value is not None]
    framed = [m for m in written if schema_id(m.value or b"") is not None]
    assert unframed_before < framed_before < len(facts.messages)
    assert {m.topic for m in framed} >= {
        "agent-status",
        "queued-calls",
        "conversations",
        "agent-state",
        "inject-outcomes",
    }
    _are_one_block(framed, written)
    assert _read_by_confluent(framed, registry, topics_prefix) == [json.loads(unframed(m.value or b"")) for m in framed]


async def test_the_registry_gives_our_verdicts(registry: Apicurio) -> None:
    """Apicurio judges changes of a record (a field removed, added, retyped or required, a value more or less) as
    tests/unit/test_compatibility.py does; it also refuses a field that becomes nullable, which breaks readers in any
    case."""
    definitions = record_definitions()
    today = registered_schemas(definitions)
    wrong = []
    async with aclosing(SchemaRegistryClient(SchemaRegistrySettings(url=registry.url))) as client:
        for topic, schema in today.items():
            await client.register(f"verdicts.{topic}-value", text(schema))
        for mutation in MUTATIONS:
            new = registered_schemas(mutated(definitions, mutation))
            changed = [topic for topic in today if new[topic] != today[topic]]
            verdicts = [await client.is_compatible(f"verdicts.{topic}-value", text(new[topic])) for topic in changed]
            if all(verdicts) is mutation.breaks_registry:
                wrong.append((mutation.name, dict(zip(changed, verdicts, strict=True))))
    assert wrong == [("a field that may be null", {"agent-status": False})]


async def _injected(the_lab: Lab, agents: list[str]) -> None:
    """An event for each agent, with its outcome."""
    for agent_id in agents:
        await the_lab.inject(agent_id, str(9_007_199_254_740_993 + len(the_lab.produced)))
    await the_lab.completed()


async def _waits(the_lab: Lab, name: str) -> int:
    """Waits until the bridge says that it waits for the registry; how many records there are then."""

    async def says_why() -> bool:
        status, said = await the_lab.ask(name, "readyz")
        return status == 503 and "check schema_registry.url" in said

    await until(says_why, "/readyz names the registry")
    return len((await the_lab.facts()).messages)


def _are_one_block(framed: list[Message], written: list[Message]) -> None:
    """In each partition what one bridge framed stands together: none of its records is without a frame."""
    for place in {(m.topic, m.partition) for m in framed}:
        offsets = [m.offset for m in framed if (m.topic, m.partition) == place]
        between = [m for m in written if (m.topic, m.partition) == place and offsets[0] <= m.offset <= offsets[-1]]
        assert len(between) == len(offsets)


def _read_by_confluent(messages: list[Message], registry: Apicurio, prefix: str) -> list[Any]:
    """The values as confluent-kafka's deserializer gives them; it validates each by its schema."""
    deserializer = JSONDeserializer(None, schema_registry_client=ConfluentClient({"url": registry.url}))
    return [deserializer(m.value, SerializationContext(prefix + m.topic, MessageField.VALUE)) for m in messages]
