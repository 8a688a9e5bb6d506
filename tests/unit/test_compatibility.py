"""Old readers read new records, new readers old ones; which change would break whom."""

import json
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
from asm_bridge_schemas.export import schemas
from asm_bridge_schemas.registry import registered_schemas
from tests.support.mutations import MUTATIONS, Mutation, mutated
from tests.support.samples import sample

RELEASED = Path(asm_bridge_schemas.__file__).parents[1] / "released"
MAJOR = VERSION.partition(".")[0]
VERSIONS = sorted(path.name for path in RELEASED.glob(f"{MAJOR}.*"))
DEFINITIONS = record_definitions()


def by_title(found: dict[str, Schema]) -> dict[str, Schema]:
    return {schema["title"]: schema for schema in found.values()}


TODAY = by_title(schemas(DEFINITIONS))
REGISTERED = registered_schemas(DEFINITIONS)


@cache
def released(version: str) -> dict[str, Schema]:
    return read(RELEASED / version)


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_is_broken(version: str) -> None:
    """Today's schemas against each release of this major version. What fails here needs another way, or a new major;
    while 1.0.0 has not been released (schemas/released/README.md), it needs a new baseline."""
    assert breaks(released(version), TODAY) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_change_breaks_whom_it_breaks(mutation: Mutation) -> None:
    """Changing, removing and adding a field, a value, a null: the verdict names exactly those who would fail."""
    found = breaks(TODAY, by_title(schemas(mutated(DEFINITIONS, mutation))))
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
    found = breaks(TODAY, by_title(schemas(mutated(DEFINITIONS, removed))))
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
