"""Old readers read new records, new readers old ones; which change would break whom."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

import asm_bridge_schemas
from asm_bridge_schemas import records
from asm_bridge_schemas.asyncapi import VERSION
from asm_bridge_schemas.compatibility import Break, breaks, read, unreadable
from asm_bridge_schemas.definitions import Schema, record_definitions
from asm_bridge_schemas.export import documents, schemas
from asm_bridge_schemas.registry import registered_schemas
from tests.support.mutations import MUTATIONS, Mutation, mutated
from tests.support.samples import sample

RELEASED = Path(asm_bridge_schemas.__file__).parents[1] / "released"
MAJOR = VERSION.partition(".")[0]
VERSIONS = sorted(path.name for path in RELEASED.glob(f"{MAJOR}.*"))
DEFINITIONS = record_definitions()


def by_name(found: dict[str, Schema]) -> dict[str, Schema]:
    return {name.removesuffix(".json"): content for name, content in json.loads(json.dumps(found)).items()}


TODAY = by_name(documents())
REGISTERED = registered_schemas(DEFINITIONS)


@cache
def released(version: str) -> dict[str, Schema]:
    return read(RELEASED / version)


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_is_broken(version: str) -> None:
    """Today's documents against each release of this major version. What fails here needs another way, or a new major;
    while 1.0.0 has not been released (schemas/released/README.md), it needs a new baseline."""
    assert breaks(released(version), TODAY) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_change_breaks_whom_it_breaks(mutation: Mutation) -> None:
    """Changing, removing and adding a field, a value, a null: the verdict names exactly those who would fail."""
    found = breaks(TODAY, TODAY | by_name(schemas(mutated(DEFINITIONS, mutation))))
    assert {one.who for one in found} == mutation.breaks, found


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_registered_form_gives_the_same_verdict(mutation: Mutation) -> None:
    """A registry asks whether new readers read old records (BACKWARD); there every object is closed, so a removed field
    breaks them, too."""
    new = registered_schemas(mutated(DEFINITIONS, mutation))
    found = [one for topic, old in REGISTERED.items() for one in unreadable(new[topic], old, topic)]
    assert bool(found) is mutation.breaks_registry, found


def test_what_breaks_is_named() -> None:
    """The text of a verdict says who, where and what."""
    (removed,) = (one for one in MUTATIONS if one.name == "a removed field")
    found = breaks(TODAY, TODAY | by_name(schemas(mutated(DEFINITIONS, removed))))
    assert found == [Break("readers", "AgentStatusChanged.paused", "is not written")]
    assert str(found[0]) == "readers: AgentStatusChanged.paused is not written"


def test_a_record_that_goes_breaks_its_readers() -> None:
    """From its topic, or altogether; a new one breaks no reader, as unknown records are ignored."""
    today = TODAY
    fewer = {name: schema for name, schema in today.items() if name != "AgentAlertRaised"}
    union = dict(today["agent-messages"])
    union["oneOf"] = [one for one in union["oneOf"] if not one["$ref"].endswith("AgentAlertRaised")]
    assert breaks(today, fewer) == [Break("readers", "AgentAlertRaised", "is gone")]
    found = breaks(today, {**today, "agent-messages": union})
    assert found == [Break("readers", "agent-messages", "has no AgentAlertRaised any more")]
    assert breaks({**today, "agent-messages": union}, today) == []
    assert breaks(fewer, today) == []


def test_producers_may_go_on_sending_what_they_send() -> None:
    """An input may take more, and never less: a field that a closed form lacks, or that is needed now, breaks them."""
    today = TODAY

    def changed(name: str, definition: str | None, change: Any) -> list[Break]:
        new = json.loads(json.dumps(today[name]))
        change(new if definition is None else new["$defs"][definition])
        return breaks(today, {**today, name: new})

    conversation = "OmniConversation"
    assert changed("CanonicalEvent", conversation, lambda s: s["properties"].update(new={"type": "string"})) == []
    found = changed("CanonicalEvent", conversation, lambda s: s["properties"].pop("customer_name"))
    assert {one.who for one in found} == {"producers"}
    assert changed("SessionEntry", None, lambda s: s["properties"]["interval"].update(anyOf=[{"type": "null"}]))
    assert changed("SessionEntry", None, lambda s: s.update(required=["token"]))


def _channel(name: str) -> Callable[[Schema], Schema]:
    return lambda document: document["channels"][name]  # type: ignore[no-any-return]


def _message(name: str) -> Callable[[Schema], Schema]:
    return lambda document: document["components"]["messages"][name]  # type: ignore[no-any-return]


def _every_header(document: Schema) -> Schema:
    headers: Schema = document["components"]["messageTraits"]["cloudEvent"]["headers"]
    return headers


def _partitions(channel: Schema) -> None:
    channel["bindings"]["kafka"]["partitions"] = 16


def _setting(name: str, value: Any) -> Callable[[Schema], None]:
    return lambda channel: channel["bindings"]["kafka"]["topicConfiguration"].update({name: value})


STATUS, INJECT, STATE = _channel("agent-status"), _channel("inject"), _channel("agent-state")
CHANGES: list[tuple[str, Callable[[Schema], Any], set[str]]] = [
    ("nothing", lambda d: None, set()),
    ("another text", lambda d: STATUS(d).update(description="Else."), set()),
    ("a new topic", lambda d: d["channels"].update(new=STATUS(d)), set()),
    ("a topic that is gone", lambda d: d["channels"].pop("agent-status"), {"readers"}),
    ("an input that is gone", lambda d: d["channels"].pop("inject"), {"producers"}),
    ("another address", lambda d: STATUS(d).update(address="asm.statuses"), {"readers"}),
    ("another number of partitions", lambda d: _partitions(STATUS(d)), {"readers"}),
    ("of an input", lambda d: _partitions(INJECT(d)), {"producers"}),
    ("a topic that becomes compacted", lambda d: _setting("cleanup.policy", ["compact"])(STATUS(d)), {"readers"}),
    ("a shorter retention", lambda d: _setting("retention.ms", 1000)(STATUS(d)), {"readers"}),
    ("a longer retention", lambda d: _setting("retention.ms", 10**12)(STATUS(d)), set()),
    ("another clock", lambda d: _setting("message.timestamp.type", "CreateTime")(INJECT(d)), {"producers"}),
    ("null values", lambda d: STATUS(d)["messages"].update(Tombstone={}), {"readers"}),
    ("another direction", lambda d: d["operations"]["publish-agent-status"].update(action="receive"), {"readers"}),
    ("a message that is gone", lambda d: d["components"]["messages"].pop("DeadLetter"), {"readers"}),
    ("another ce_type", lambda d: _message("AgentState")(d).update(name="com.tcn.asm.agent_state.v2"), {"readers"}),
    ("another form", lambda d: _message("AgentState")(d).update(contentType="application/avro"), {"readers"}),
    (
        "another key",
        lambda d: _message("QueuedCallChanged")(d)["bindings"]["kafka"]["key"].update(title="call_sid"),
        {"readers"},
    ),
    (
        "another key of an input",
        lambda d: _message("CanonicalEvent")(d)["bindings"]["kafka"]["key"].update(type="integer"),
        {"producers"},
    ),
    ("a new header", lambda d: _every_header(d)["properties"].update(ce_new={"type": "string"}), set()),
    ("a header that is gone", lambda d: _every_header(d)["properties"].pop("ce_time"), {"readers"}),
    ("a header that may be missing", lambda d: _every_header(d)["required"].remove("ce_id"), {"readers"}),
    ("a header that is needed now", lambda d: _every_header(d)["required"].append("ce_time"), {"replays"}),
    (
        "another version of CloudEvents",
        lambda d: _every_header(d)["properties"]["ce_specversion"].update(const="2.0"),
        {"readers", "replays"},
    ),
    (
        "a dead letter's header",
        lambda d: _message("DeadLetter")(d)["headers"]["properties"].pop("asm_error"),
        {"readers"},
    ),
    (
        "a header that is not read any more",
        lambda d: _message("CanonicalEvent")(d)["headers"]["properties"].pop("expires_at"),
        {"producers"},
    ),
    (
        "a header that producers must write",
        lambda d: _message("CanonicalEvent")(d)["headers"].update(required=["ce_id"]),
        {"producers"},
    ),
]


@pytest.mark.parametrize(("name", "change", "broken"), CHANGES, ids=[name for name, *_ in CHANGES])
def test_a_topics_change_breaks_whom_it_breaks(name: str, change: Callable[[Schema], Any], broken: set[str]) -> None:
    """Names, keys, headers, partitions and settings of topics are as much relied on as what is in the records."""
    document = json.loads(json.dumps(TODAY["asyncapi"]))
    change(document)
    found = breaks(TODAY, {**TODAY, "asyncapi": document})
    assert {one.who for one in found} == broken, found


def test_a_status_stays_in_its_group_and_a_schema_keeps_its_id() -> None:
    """A status that counts as something else, and another ce_dataschema, break readers; a new status breaks nobody."""
    groups = TODAY["status-groups"]
    assert breaks(TODAY, {**TODAY, "status-groups": {**groups, "NEW": "other"}}) == []
    found = breaks(TODAY, {**TODAY, "status-groups": {**groups, "READY": "break"}})
    assert found == [Break("readers", "status-groups.READY", "is break")]
    state = {**TODAY["AgentState"], "$id": "urn:else"}
    assert breaks(TODAY, {**TODAY, "AgentState": state}) == [Break("readers", "AgentState", "has the id urn:else")]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_old_readers_read_new_records(cls: type[msgspec.Struct], version: str) -> None:
    """What is written today, and what a later release may write beside it, fits the released schemas."""
    value = json.loads(msgspec.json.encode(sample(cls)))
    for name in (cls.__name__, records.TOPICS[cls]):
        jsonschema.Draft202012Validator(released(version)[name]).validate(value)
        jsonschema.Draft202012Validator(released(version)[name]).validate(_deepened(value))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_new_readers_read_old_records(cls: type[msgspec.Struct], version: str) -> None:
    """A record with the fields that the release knew, and no others, is read by the Struct and fits today's schema."""
    value = _known_to(released(version)[cls.__name__], json.loads(msgspec.json.encode(sample(cls))))
    assert isinstance(msgspec.json.decode(json.dumps(value), type=cls), cls)
    jsonschema.Draft202012Validator(TODAY[cls.__name__]).validate(value)


@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_a_struct_ignores_what_it_does_not_know(cls: type[msgspec.Struct]) -> None:
    """A reader in Python, made from this release, reads the records of the next."""
    later = _deepened(json.loads(msgspec.json.encode(sample(cls))))
    assert msgspec.json.decode(json.dumps(later), type=cls) == sample(cls)


def _known_to(schema: Schema, value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name in schema["properties"]}


_OPEN = frozenset({"labels", "event", "conversation", "bridge"})
"""Maps, in which every name means something; and the bridge's books."""


def _deepened(value: Any) -> Any:
    """With a field more in every object."""
    if isinstance(value, list):
        return [_deepened(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: item if name in _OPEN else _deepened(item) for name, item in value.items()} | {"newer": {"a": [1]}}
