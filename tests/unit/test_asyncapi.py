"""The AsyncAPI document says all that a reader needs: nothing is left to guess, or to be looked up in the code."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import fields

from asm_bridge_schemas import asm, records
from asm_bridge_schemas.asyncapi import document
from asm_bridge_schemas.definitions import record_definitions
from asm_bridge_schemas.guide import GUIDE
from asm_bridge_schemas.topics import HEARTBEAT_SECONDS, PARTITIONS, TOPICS
from bridge.kafka import topics
from bridge.kafka.partitioner import partition_for
from bridge.settings import TopicsSettings
from bridge.settings.model import InjectionSettings, RecordsSettings

DOCUMENT = document()
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
MESSAGES: dict[str, Any] = DOCUMENT["components"]["messages"]
CHANNELS: dict[str, Any] = DOCUMENT["channels"]
VENDORS = {
    field.name
    for message in (asm.VoiceStatus, asm.QueuedCallData, asm.TransferMember, asm.AgentSession, asm.CallerSid)
    for field in fields(message)
}
UNITS = r"\b(milliseconds|seconds|number|how many|count|status code|version)\b"


def kinds(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema, and those that it refers to or that are its alternatives."""
    yield schema
    for one in schema.get("anyOf", ()):
        yield from kinds(one)
    if "$ref" in schema:
        yield from kinds(SCHEMAS[schema["$ref"].rpartition("/")[2]])


FIELDS = {
    f"{name}.{field}": (schema, field_schema)
    for name, schema in SCHEMAS.items()
    for field, field_schema in schema.get("properties", {}).items()
}
NUMBERS_AND_TEXTS = {"string", "integer", "number", "boolean"}


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_described(name: str) -> None:
    """Each field has a meaning, and each that is not an object an example; a number says its unit, a time its clock,
    and a field of the vendor's whose it is."""
    definition, field = FIELDS[name]
    all_kinds = list(kinds(field))
    text = " ".join(kind["description"] for kind in all_kinds if "description" in kind)
    own = field.get("description") or text
    types = {kind.get("type") for kind in all_kinds}
    assert text
    if "const" in field:
        return
    if types & NUMBERS_AND_TEXTS:
        assert any(kind.get("examples") for kind in all_kinds)
    if types & {"integer", "number"}:
        assert re.search(UNITS, own, re.IGNORECASE), own
    if any(kind.get("format") == "date-time" for kind in all_kinds):
        assert re.search(r"Clock: (bridge|vendor|broker|the sender's)\.", own), own
    if name.rpartition(".")[2] in VENDORS:
        assert re.search("vendor|operator|your", f"{definition['description']} {text}", re.IGNORECASE)


@pytest.mark.parametrize("name", [name for name in FIELDS if name.partition(".")[0] != "SessionEntry"])
def test_a_field_may_be_null_where_its_text_says_when(name: str) -> None:
    """A field that may be null says when it is, and no other one speaks of null."""
    _, field = FIELDS[name]
    nullable = any(kind.get("type") == "null" for kind in field.get("anyOf", ()))
    assert nullable == bool(re.search(r"\bnull\b", field.get("description", ""), re.IGNORECASE))


def test_only_an_outcome_may_be_without_a_stream() -> None:
    """The numbers of a stream begin at 1, and are null in the outcome of an event for an agent that is not watched."""
    for cls in records.TOPICS:
        for name in ("stream_id", "sequence", "topic_sequence"):
            field = SCHEMAS[cls.__name__]["properties"].get(name)
            if field is None or cls is records.AgentState:
                continue
            found = [kind["type"] for kind in kinds(field) if "type" in kind]
            assert ("null" in found) == (cls is records.InjectionCompleted)
            assert name == "stream_id" or 1 in [kind.get("minimum") for kind in kinds(field)]
            assert "null" not in found or "Null" in field["description"]


def test_a_field_is_the_same_in_every_document() -> None:
    """The AsyncAPI document narrows and widens nothing: its records are those of the JSON Schemas."""
    for name, schema in record_definitions().items():
        assert json.dumps(SCHEMAS.get(name, schema)).replace("#/components/schemas/", "#/$defs/") == json.dumps(schema)
    assert {cls.__name__ for cls in records.TOPICS} <= SCHEMAS.keys()


@pytest.mark.parametrize("name", [name for name, one in SCHEMAS.items() if "anyOf" in one or "enum" in one])
def test_a_list_of_names_says_whether_it_may_grow(name: str) -> None:
    """A list whose alternatives take other text says what that would be; each name of a list of ours is explained."""
    is_open, text = "anyOf" in SCHEMAS[name], SCHEMAS[name]["description"]
    assert is_open == bool(re.search("A later release may add others|A name or number that this list lacks", text))
    known = SCHEMAS[name]["anyOf"][0]["enum"] if is_open else SCHEMAS[name]["enum"]
    assert "vendor's" in text or all(f"{value}:" in text for value in known)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_what_is_described_is_used_and_what_is_used_described() -> None:
    """Each reference leads somewhere, and each message and schema is referred to."""
    used = set(references(DOCUMENT))
    for reference in used:
        part: Any = DOCUMENT
        for key in reference.removeprefix("#/").split("/"):
            part = part[key]
    for folder in ("messages", "schemas"):
        assert {f"#/components/{folder}/{name}" for name in DOCUMENT["components"][folder]} <= used


@pytest.mark.parametrize("name", CHANNELS)
def test_a_topic_says_what_holds_for_its_records(name: str) -> None:
    """Each topic states its key, partitions, cleanup, retention, timestamps and null values in words."""
    stated = dict(re.findall(r"^- ([\w ]+): (.+)\.$", CHANNELS[name]["description"], re.MULTILINE))
    assert stated.keys() == {"Key", "Partitions", "Cleanup", "Timestamp", "Null values"}
    assert "The topic keeps" in stated["Cleanup"]
    assert "Clock: " in stated["Timestamp"] or name == "sessions"
    assert ("Tombstone" in CHANNELS[name]["messages"]) == (TOPICS[name].cleanup == "compact")
    for message in CHANNELS[name]["messages"]:
        assert MESSAGES[message]["bindings"]["kafka"]["key"]["description"]


@pytest.mark.parametrize("topic", topics.TOPICS, ids=lambda topic: topic.name)
def test_a_topic_is_created_as_the_document_says(topic: topics.Topic) -> None:
    """The bridge creates each topic with the partitions and settings that the document names, and writes to those that
    it says it sends."""
    binding = CHANNELS[topic.name]["bindings"]["kafka"]
    said = {
        key: ",".join(value) if isinstance(value, list) else str(value)
        for key, value in binding["topicConfiguration"].items()
    }
    created = topics.configs_of(topic, TopicsSettings())
    assert said == {key: value for key, value in created.items() if key in said}
    assert ("message.timestamp.type" in created) == ("message.timestamp.type" in said)
    assert ("retention.ms" in created) == ("retention.ms" in said)
    assert binding["partitions"] == (TopicsSettings().partitions if topic.partitioned else 1)
    operations = {one["channel"]["$ref"]: one["action"] for one in DOCUMENT["operations"].values()}
    assert operations[f"#/channels/{topic.name}"] == ("send" if topic.output else "receive")


def test_the_document_names_the_settings_defaults() -> None:
    """The interval of heartbeats, the time to live of events and the partitions are those of the settings."""
    assert RecordsSettings().heartbeat_interval == HEARTBEAT_SECONDS
    assert (
        f"every {HEARTBEAT_SECONDS} s (setting `records.heartbeat_interval`)"
        in SCHEMAS["PartitionHeartbeat"]["description"]
    )
    assert InjectionSettings().ttl == 5 * 60
    assert "5 minutes (setting injection.ttl)" in json.dumps(MESSAGES["CanonicalEvent"])


def test_the_guides_partitions_are_true() -> None:
    """The examples of which key is in which partition hold for the partitioner."""
    examples = re.findall(r"`(agent-\d+)` is in (\d+)|(?<=, )`(agent-\d+)` in (\d+)", GUIDE)
    found = {first or third: int(second or fourth) for first, second, third, fourth in examples}
    assert len(found) == 2
    assert found == {key: partition_for(key, PARTITIONS) for key in found}


@pytest.mark.parametrize("name", [name for name, one in MESSAGES.items() if "headers" in one])
def test_a_header_is_described(name: str) -> None:
    """Each header has a meaning and an example; a time its clock."""
    for header in MESSAGES[name]["headers"]["properties"].values():
        assert header["description"]
        assert header["examples"]
        assert "Clock: " in header["description"] or "format" not in header
