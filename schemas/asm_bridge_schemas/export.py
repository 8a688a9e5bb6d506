"""JSON Schemas (2020-12) of what the bridge publishes and takes: ``python -m asm_bridge_schemas.export DIRECTORY``.

Those in ``schemas/json`` are made so. Each stands alone: what it refers to is in its ``$defs``.
"""

import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from asm_bridge_schemas import asm, protojson
from asm_bridge_schemas.commands import EVENT_KINDS, SessionEntry
from asm_bridge_schemas.records import AgentState, Published, dataschema

Schema = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, Schema]:
    """File name -> JSON Schema, of every record and input."""
    records = (*get_args(Published), AgentState)
    made = [_record(cls) for cls in records] + [_session_entry(), _event()]
    return {f"{schema['title']}.json": schema for schema in made}


def export(directory: Path) -> list[Path]:
    """Writes the schemas into ``directory``, which is made if missing; the files written."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, schema in schemas().items():
        paths.append(directory / name)
        paths[-1].write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")
    return paths


def _record(cls: type[msgspec.Struct]) -> Schema:
    return _document(cls, msgspec.json.schema(cls)["$defs"])


def _session_entry() -> Schema:
    """Nulls stand for defaults, and a sid may be a number."""
    definitions = msgspec.json.schema(SessionEntry)["$defs"]
    properties = definitions["SessionEntry"]["properties"]
    for name, schema in properties.items():
        properties[name] = schema if "anyOf" in schema else _nullable(schema)
    properties["asm_session_sid"]["anyOf"].append({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1})
    return _document(SessionEntry, definitions)


def _nullable(schema: Schema) -> Schema:
    default = schema.pop("default")
    return {"anyOf": [schema, {"type": "null"}], "default": default}


def _event() -> Schema:
    """An entry of the inbox: exactly one kind of event, under either of its names, that is not null."""
    definitions: dict[str, Schema] = {}
    _define(asm.Event, definitions)
    names = [name for kind in EVENT_KINDS for name in (kind, protojson.camel(kind))]
    definitions["Event"]["oneOf"] = [{"required": [name], "properties": {name: {"type": "object"}}} for name in names]
    return _document(asm.Event, definitions)


def _define(cls: type[msgspec.Struct], definitions: dict[str, Schema]) -> None:
    """Adds the schemas of a message and of the messages in it."""
    schema = definitions[cls.__name__] = protojson.schema(cls)
    for name in sorted(set(re.findall(r"#/\$defs/(\w+)", json.dumps(schema))) - definitions.keys()):
        _define(getattr(asm, name), definitions)


def _document(cls: type[msgspec.Struct], definitions: dict[str, Schema]) -> Schema:
    """The schema of ``cls`` on top, and the definitions that it refers to below."""
    for definition in definitions.values():
        if "description" in definition:  # a docstring: before Python 3.13 with the indentation of the code
            definition["description"] = inspect.cleandoc(definition["description"])
    top = definitions.pop(cls.__name__)
    below = {"$defs": definitions} if definitions else {}
    return {"$schema": _DIALECT, "$id": dataschema(cls), **top, **below}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m asm_bridge_schemas.export DIRECTORY")
    export(Path(sys.argv[1]))
