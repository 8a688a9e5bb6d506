"""The vendor's messages compared with its tables, and the JSON Schemas with the records and inputs."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import jsonschema
import msgspec
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

import asm_bridge_schemas
from asm_bridge_schemas import asm, protojson, records
from asm_bridge_schemas.commands import DEAD_LETTER_CODES, EVENT_KINDS, CommandError, read_event, read_session_entry
from asm_bridge_schemas.export import export
from asm_bridge_schemas.export import schemas as generated
from tests.support.protobuf import ENUMS, MESSAGES, SHAPES, Shape, messages, printed
from tests.support.samples import sample

COMMITTED = Path(asm_bridge_schemas.__file__).parents[1] / "json"
SCHEMAS = generated()


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(SCHEMAS[f"{name}.json"])


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_the_vendors(name: str) -> None:
    """Each message has the vendor's fields, with the vendor's types."""
    hints = get_type_hints(getattr(asm, name), include_extras=True)
    assert {field: written(hint) for field, hint in hints.items()} == {
        field: of_type.replace("FieldMask", "StringValue") for field, of_type in MESSAGES[name].items()
    }


def written(hint: Any) -> str:
    """A Struct's annotation in the notation of the vendor's table; a mask is text in JSON, as a StringValue is."""
    base, marks = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    optional = NoneType in get_args(base)
    base = get_args(base)[0] if optional else base
    oneof = next((f" (oneof {mark.name})" for mark in marks if isinstance(mark, asm.OneOf)), "")
    if asm.Wire.INT64 in marks:
        return "Int64Value" if optional else "int64"
    if asm.Wire.TIMESTAMP in marks:
        return "Timestamp"
    for mark in marks:
        if isinstance(mark, type) and issubclass(mark, IntEnum):
            return f"enum {mark.__name__}"
    if get_origin(base) is list:
        return f"repeated {written(get_args(base)[0])}"
    if get_origin(base) is dict:
        return f"map<string, {written(get_args(base)[1])}>"
    if base is str and optional and not oneof:
        return "StringValue"
    name = "string" if base is str else base.__name__
    return f"{name}{oneof}"


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_the_vendors(name: str) -> None:
    """Each enum has the vendor's names and numbers, UNAVALIABLE included."""
    assert {member.name: member.value for member in getattr(asm, name)} == ENUMS[name]


def test_defaults_are_protobufs() -> None:
    """A field that is not sent has protobuf's default: an enum its first name, an identifier "0"."""
    call = asm.QueuedCallData()
    assert (call.call_sid, call.call_type, call.start_date, call.skills) == ("0", "INBOUND", None, [])
    for name, fields in MESSAGES.items():
        message = getattr(asm, name)()
        for field, of_type in fields.items():
            if of_type.startswith("enum "):
                assert getattr(message, field) == next(iter(ENUMS[of_type[5:]]))


def test_committed_schemas_are_those_of_the_code(tmp_path: Path) -> None:
    """schemas/json and schemas/asyncapi.json are what the code generates: run `make schemas` if this fails."""
    files = {path.name: path.read_text(encoding="utf-8") for path in export(tmp_path / "new")}
    committed = [*COMMITTED.iterdir(), COMMITTED.parent / "asyncapi.json"]
    assert files == {path.name: path.read_text(encoding="utf-8") for path in committed}


def test_schemas_are_exported_by_command(tmp_path: Path) -> None:
    """``python -m asm_bridge_schemas.export DIRECTORY`` writes a schema for every record and input."""
    subprocess.run(
        [sys.executable, "-m", "asm_bridge_schemas.export", str(tmp_path)], check=True, cwd=COMMITTED.parents[1]
    )
    names = {cls.__name__ for cls in records.TOPICS} | {"SessionEntry", "Event", "CanonicalEvent", "Published"}
    topics = set(records.TOPICS.values())
    assert {path.stem for path in tmp_path.iterdir()} == names | topics | {"asyncapi", "status-groups"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_valid_and_stands_alone(name: str) -> None:
    """Each schema is JSON Schema 2020-12 with an id, a title and a description, and refers to nothing
    outside itself.
    """
    schema = SCHEMAS[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert f"{schema['title']}.json" == name
    assert schema["$id"] == f"urn:asm-kafka-bridge:schema:{schema['title']}:v1"
    assert schema["description"]
    for reference in references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for item in value.values() for found in references(item)]
    return [found for item in value for found in references(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_a_record_fits_its_schema(cls: type[msgspec.Struct]) -> None:
    """A published record validates and is the same when read back; without any one of its fields it does
    not validate.
    """
    body = msgspec.json.encode(sample(cls))
    assert msgspec.json.decode(body, type=cls) == sample(cls)
    validator(cls.__name__).validate(json.loads(body))
    for name in json.loads(body):
        assert not validator(cls.__name__).is_valid({k: v for k, v in json.loads(body).items() if k != name})


@pytest.mark.parametrize("cls", get_args(records.Published), ids=lambda cls: cls.__name__)
def test_a_record_says_its_type(cls: type[msgspec.Struct]) -> None:
    """A record's tag says which record it is."""
    assert msgspec.json.decode(msgspec.json.encode(sample(cls)), type=records.Published) == sample(cls)


@pytest.mark.parametrize("name", [*(cls.__name__ for cls in records.TOPICS), "Published", "CanonicalEvent"])
def test_a_generator_finds_a_name_for_every_list(name: str) -> None:
    """Every list of names has a title, and nothing stands beside alternatives that generators would intersect with them
    (`make generators` runs some)."""
    for one in objects(SCHEMAS[f"{name}.json"]):
        assert "enum" not in one or "title" in one
        assert not {"anyOf", "oneOf"} & one.keys() or not {"type", "properties", "enum"} & one.keys()
        alternatives = [kind for kind in one.get("anyOf", ()) if kind != {"type": "null"}]
        assert len(alternatives) < 2 or "title" in one


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a schema, itself included; examples are none."""
    if isinstance(value, dict):
        yield value
        value = [item for key, item in value.items() if key != "examples"]
    if isinstance(value, list):
        for item in value:
            yield from objects(item)


def test_a_list_that_may_grow_takes_what_a_later_release_adds() -> None:
    """A reason that this release does not know is valid; so is a status that the vendor's list lacks, by its name or in
    digits, as the bridge passes both on."""
    lost = json.loads(msgspec.json.encode(sample(records.AgentObservationLost)))
    assert validator("AgentObservationLost").is_valid({**lost, "reason": "asleep"})
    status = json.loads(msgspec.json.encode(sample(records.AgentStatusChanged)))
    for newer in ("4711", "ASLEEP"):
        answer = protojson.read(asm.GetStatusRes, json.dumps({"voice_status": {"status_desc": newer}}).encode())
        assert answer.voice_status is not None
        assert answer.voice_status.status_desc == newer
        assert validator("AgentStatusChanged").is_valid({**status, "status_desc": newer})


def test_the_documents_table_of_dead_letters_is_complete() -> None:
    """docs/subscribe.md and the AsyncAPI document say what each code of a dead letter means, in the same words."""
    document = (COMMITTED.parents[1] / "docs" / "subscribe.md").read_text(encoding="utf-8")
    table = document.partition("| `asm_error_code` |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.MULTILINE))
    assert rows == DEAD_LETTER_CODES


def test_cloudevents_types_are_the_contracts() -> None:
    """ce_type is com.tcn.asm. with the record's name in snake_case and its version."""
    assert records.ce_type(records.AgentStatusChanged) == "com.tcn.asm.agent_status_changed.v1"
    assert len({records.ce_type(cls) for cls in records.TOPICS}) == len(records.TOPICS)


@settings(max_examples=40, deadline=None)
@given(message=messages("Event"), shape=st.sampled_from(SHAPES))
def test_the_event_schema_takes_what_the_bridge_takes(message: Message, shape: Shape) -> None:
    """The schema accepts any valid event in any form that the bridge accepts, and both refuse one without an event."""
    value = printed(message, shape)
    assert validator("Event").is_valid(value) == accepted(read_event, json.dumps(value).encode(), None)


def accepted(reader: Any, *value: Any) -> bool:
    try:
        reader(*value)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize(
    "value",
    [
        *[{kind: {}} for kind in EVENT_KINDS],
        {"pauseEvent": {}, "event_time": "12", "state": 99},
        {"pauseEvent": {}, "resume_event": None},
        {"pauseEvent": {}, "resume_event": {}},
        {"pause_event": {}, "pauseEvent": {}},
        {"pause_event": None},
        {"pause_event": []},
        {"pause_event": {}, "events": []},
        {"pause_event": {}, "state": "SLEEPING"},
        {"sent_message_event": {"response_time_seconds": 1.5}},
        {"sent_message_event": {"conversation": {"date_created": "1s", "end_time": "2024-05-01T12:00:00+02:00"}}},
        {"sent_message_event": {"conversation": {"date_created": "soon"}}},
        {},
        [],
    ],
    ids=json.dumps,
)
def test_the_event_schema_refuses_what_the_bridge_refuses(value: Any) -> None:
    """The schema refuses the events that the bridge would refuse."""
    assert validator("Event").is_valid(value) == accepted(read_event, json.dumps(value).encode(), None)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"asm_session_sid": 9007199254740993, "token": "file:agent-7#key", "interval": 1, "labels": {"site": "manila"}},
        {"asm_session_sid": "12", "token": None, "interval": None, "skills": None, "labels": None, "keep_alive": None},
        {"asm_session_sid": "twelve"},
        {"token": "a-literal-token"},
        {"token": "file:../up"},
        {"token": "env:AGENT_7"},
        {"token": 7},
        {"interval": 0},
        {"interval": "1s"},
        {"skills": "english"},
        {"labels": {"site": 1}},
        {"agent_id": "agent-7"},
        [],
    ],
    ids=json.dumps,
)
def test_the_entry_schema_agrees_with_the_bridge(value: Any) -> None:
    """A registry entry validates exactly if the bridge accepts it."""
    assert validator("SessionEntry").is_valid(value) == accepted(read_session_entry, json.dumps(value).encode())
