"""The JSON Schemas of records and inputs, by name, which refer to each other (``#/$defs/...``)."""

import inspect
import json
import re
from enum import IntEnum
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from asm_bridge_schemas import asm, protojson
from asm_bridge_schemas.commands import EVENT_KINDS, SessionEntry
from asm_bridge_schemas.event_fields import EVENT_FIELDS
from asm_bridge_schemas.records import SINCE, TOPICS, Books

Schema = dict[str, Any]

_REFERENCE = re.compile(r'"#/(?:\$defs|definitions)/(\w+)"')
_OPAQUE = {
    "title": Books.__name__,
    "description": inspect.cleandoc(Books.__doc__ or ""),
    "type": "object",
    "additionalProperties": True,
}


_CANONICAL = """
    An event for an agent's next request, in the one form that producers should write: exactly one of the six kinds,
    with snake_case names, identifiers as digits, enums by name and times in RFC 3339.

    It is the vendor's `Event`. The vendor shows its fields and explains none of them: the descriptions say what the
    names say.
    """


def records_by_topic() -> dict[str, list[str]]:
    """Topic, without the prefix -> the names of its records."""
    topics: dict[str, list[str]] = {}
    for cls, topic in TOPICS.items():
        topics.setdefault(topic, []).append(cls.__name__)
    return topics


def record_definitions() -> dict[str, Schema]:
    """Name -> schema of every record, of the objects in them, and of the enums, which refer to each other."""
    definitions: dict[str, Schema] = {}
    for cls in TOPICS:
        definitions |= msgspec.json.schema(cls)["$defs"]
    definitions[Books.__name__] = _OPAQUE
    records = {cls.__name__ for cls in TOPICS}
    enums: dict[str, Schema] = {}
    for name, definition in definitions.items():
        _describe(definition)
        if "properties" in definition:
            # msgspec writes every field; what an older record may lack is marked.
            definition["required"] = [name for name, one in definition["properties"].items() if SINCE not in one]
            for field, schema in definition["properties"].items():
                schema.pop("default", None)  # so that it does not look optional
                definition["properties"][field] = _name_enums(schema, enums)
            if name in records:
                definition["properties"]["type"] = {
                    "description": "The record's name.",
                    "type": "string",
                    "const": name,
                }
    return {**definitions, **enums}


def canonical_event() -> dict[str, Schema]:
    """An event in the one form that the docs name: snake_case, identifiers as digits, enums by name, RFC 3339 times."""
    definitions: dict[str, Schema] = {}
    _define_canonically(asm.Event, definitions)
    event = definitions.pop("Event")
    event["title"] = "CanonicalEvent"
    event["description"] = inspect.cleandoc(_CANONICAL)
    one_kind = {"oneOf": [{"required": [kind]} for kind in EVENT_KINDS]}
    event |= {"if": one_kind, "else": False}  # and not oneOf alone, of which generators make one type a kind
    return {"CanonicalEvent": event, **definitions}


def referred(schema: Schema, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The definitions that a schema refers to, directly or not, by name."""
    needed: dict[str, Schema] = {}
    pending = [schema]
    while pending:
        for name in sorted(set(_REFERENCE.findall(json.dumps(pending.pop()))) - needed.keys()):
            needed[name] = definitions[name]
            pending.append(definitions[name])
    return dict(sorted(needed.items()))


def _describe(definition: Schema) -> None:
    """A docstring as prose: before Python 3.13 it has the indentation of the code."""
    if "description" in definition:
        definition["description"] = inspect.cleandoc(definition["description"]).replace("``", "`")


def _name_enums(schema: Any, enums: dict[str, Schema]) -> Any:
    """The schema with each enum that has a name (``title``) as a reference to it."""
    if isinstance(schema, list):
        return [_name_enums(item, enums) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "title" in schema:
        enums[schema["title"]] = named = {"type": "string", **schema}
        if "anyOf" in named:  # each of the alternatives has the type: generators intersect it with what stands beside
            del named["type"]
        return {"$ref": f"#/$defs/{schema['title']}"}
    return {key: value if key == "examples" else _name_enums(value, enums) for key, value in schema.items()}


def session_entry() -> dict[str, Schema]:
    """The schemas of a registry entry, in which null means the default, and a sid may be a number."""
    definitions: dict[str, Schema] = msgspec.json.schema(SessionEntry)["$defs"]
    entry = definitions["SessionEntry"]
    _describe(entry)
    properties = entry["properties"]
    for name, schema in properties.items():
        properties[name] = schema if "anyOf" in schema else _nullable(schema)
    properties["asm_session_sid"]["anyOf"].append({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1})
    return definitions


def _nullable(schema: Schema) -> Schema:
    about: Schema = {name: schema.pop(name) for name in ("default", "description", "examples") if name in schema}
    return {"anyOf": [schema, {"type": "null"}], **about}


def event() -> dict[str, Schema]:
    """An entry of the inbox: exactly one kind of event, under either of its names, that is not null."""
    definitions: dict[str, Schema] = {}
    _define(asm.Event, definitions)
    names = [name for kind in EVENT_KINDS for name in (kind, protojson.camel(kind))]
    definitions["Event"]["oneOf"] = [{"required": [name], "properties": {name: {"type": "object"}}} for name in names]
    return definitions


def _define(cls: type[msgspec.Struct], definitions: dict[str, Schema]) -> None:
    """Adds the schemas of a message and of the messages in it."""
    schema = definitions[cls.__name__] = protojson.schema(cls)
    _describe(schema)
    for name in sorted(set(_REFERENCE.findall(json.dumps(schema))) - definitions.keys()):
        _define(getattr(asm, name), definitions)


def _define_canonically(cls: type[msgspec.Struct], definitions: dict[str, Schema]) -> None:
    properties = {
        name: _about(name, _canonical(hint, definitions))
        for name, hint in get_type_hints(cls, include_extras=True).items()
    }
    definitions[cls.__name__] = {
        "title": cls.__name__,
        "description": f"The vendor's `{cls.__name__}`. What is left out is at its default: empty, 0, the first name.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _about(name: str, schema: Schema) -> Schema:
    """The schema of a field with what is known of it; a reference has that where it leads."""
    if "$ref" in schema:
        return schema
    field = EVENT_FIELDS[name]
    personal = {"x-pii": True} if field.personal or name in asm.OMITTABLE else {}
    examples = {} if field.example is None else {"examples": [field.example]}
    return {"description": field.meaning, **examples, **personal, **schema}


def _canonical(hint: Any, definitions: dict[str, Schema]) -> Schema:
    base, marks = protojson.unwrap(hint)
    for mark in marks:
        if mark is asm.Wire.INT64:
            return {"type": "string", "pattern": "^-?[0-9]{1,19}$"} if base is str else {"type": "integer"}
        if mark is asm.Wire.TIMESTAMP:
            return {"type": "string", "format": "date-time"}
        if isinstance(mark, type) and issubclass(mark, IntEnum):
            definitions[mark.__name__] = {
                "title": mark.__name__,
                "description": f"The vendor's `{mark.__name__}`.",
                "type": "string",
                "enum": [member.name for member in mark],
                "examples": [mark(1).name],
            }
            return {"$ref": f"#/$defs/{mark.__name__}"}
    if get_origin(base) is list:
        return {"type": "array", "items": _canonical(get_args(base)[0], definitions)}
    if get_origin(base) is dict:
        return {"type": "object", "additionalProperties": _canonical(get_args(base)[1], definitions)}
    if base is bool or base is str:
        return {"type": "boolean" if base is bool else "string"}
    if base.__name__ not in definitions:
        definitions[base.__name__] = {}
        _define_canonically(base, definitions)
    return {"$ref": f"#/$defs/{base.__name__}"}
