"""JSON Schemas (2020-12) of what the bridge publishes and takes, and its AsyncAPI document.

``python -m asm_bridge_schemas.export DIRECTORY`` writes them. Each schema stands alone: what it refers to is in its
``$defs``. There is one for each record, one for each topic (``agent-status.json``, ...: ``oneOf``, told apart by
``type``), one for all records (``Published.json``), and those of what the bridge takes: ``SessionEntry.json``,
``Event.json`` (every form that is accepted) and ``CanonicalEvent.json`` (the one form for producers).
"""

import inspect
import json
import re
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from asm_bridge_schemas import asm, protojson
from asm_bridge_schemas.commands import EVENT_KINDS, SessionEntry
from asm_bridge_schemas.records import SINCE, TOPICS, Books, Published
from asm_bridge_schemas.statuses import STATUS_GROUPS

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = re.compile(r'"#/(?:\$defs|definitions)/(\w+)"')
_OPAQUE = {
    "title": Books.__name__,
    "description": inspect.cleandoc(Books.__doc__ or ""),
    "type": "object",
    "additionalProperties": True,
}


def schemas(definitions: dict[str, Schema] | None = None) -> dict[str, Schema]:
    """File name -> JSON Schema. ``definitions``: those of the records, if not today's (``record_definitions``)."""
    definitions = record_definitions() if definitions is None else definitions
    made = [_document(name, definitions, _urn(name)) for name in (cls.__name__ for cls in TOPICS)]
    made += [_union(topic, names, definitions) for topic, names in records_by_topic().items()]
    made += [_union("Published", [cls.__name__ for cls in get_args(Published)], definitions)]
    made += [_document("SessionEntry", session_entry(), _urn("SessionEntry"))]
    made += [_document("Event", _event(), _urn("Event"))]
    made += [_document("CanonicalEvent", canonical_event(), _urn("CanonicalEvent"))]
    return {f"{schema['title']}.json": schema for schema in made}


def export(directory: Path) -> list[Path]:
    """Writes the schemas, the AsyncAPI document and the table of status groups; the files written.

    The directory is made if it is missing.
    """
    from asm_bridge_schemas.asyncapi import document  # it needs the schemas of this module

    directory.mkdir(parents=True, exist_ok=True)
    documents = {**schemas(), "asyncapi.json": document(), "status-groups.json": STATUS_GROUPS}
    paths = []
    for name, content in documents.items():
        paths.append(directory / name)
        paths[-1].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return paths


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
                schema.pop("default", None)  # so that nobody takes it for one that may be left out
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
    event["oneOf"] = [{"required": [kind]} for kind in EVENT_KINDS]
    return {"CanonicalEvent": event, **definitions}


def _union(title: str, names: list[str], definitions: dict[str, Schema]) -> Schema:
    description = "Every record." if title == "Published" else f"A record of the topic {title} (without its prefix)."
    top = {"title": title, "description": description, "oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    return _document(title, {title: top, **definitions}, _urn(title))


def _document(title: str, definitions: dict[str, Schema], identifier: str) -> Schema:
    """The schema ``title`` on top, and the definitions that it refers to below."""
    needed = referred(definitions[title], definitions)
    return {"$schema": _DIALECT, "$id": identifier, **definitions[title], **({"$defs": needed} if needed else {})}


def referred(schema: Schema, definitions: dict[str, Schema]) -> dict[str, Schema]:
    """The definitions that a schema refers to, directly or not, by name."""
    needed: dict[str, Schema] = {}
    pending = [schema]
    while pending:
        for name in sorted(set(_REFERENCE.findall(json.dumps(pending.pop()))) - needed.keys()):
            needed[name] = definitions[name]
            pending.append(definitions[name])
    return dict(sorted(needed.items()))


def _urn(name: str) -> str:
    return f"urn:asm-kafka-bridge:schema:{name}:v1"


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
        enums[schema["title"]] = {"type": "string", **schema}
        return {"$ref": f"#/$defs/{schema['title']}"}
    return {key: value if key == "examples" else _name_enums(value, enums) for key, value in schema.items()}


def session_entry() -> dict[str, Schema]:
    """Nulls stand for defaults, and a sid may be a number."""
    definitions: dict[str, Schema] = msgspec.json.schema(SessionEntry)["$defs"]
    entry = definitions["SessionEntry"]
    _describe(entry)
    properties = entry["properties"]
    for name, schema in properties.items():
        properties[name] = schema if "anyOf" in schema else _nullable(schema)
    properties["asm_session_sid"]["anyOf"].append({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1})
    return definitions


def _nullable(schema: Schema) -> Schema:
    default = schema.pop("default")
    return {"anyOf": [schema, {"type": "null"}], "default": default}


def _event() -> dict[str, Schema]:
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
        name: _canonical(hint, definitions) for name, hint in get_type_hints(cls, include_extras=True).items()
    }
    definitions[cls.__name__] = {
        "title": cls.__name__,
        "description": f"The vendor's `{cls.__name__}`. What is left out is at its default.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


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


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m asm_bridge_schemas.export DIRECTORY")
    export(Path(sys.argv[1]))
