"""JSON Schemas (2020-12) of the records that the bridge publishes and accepts, and its AsyncAPI document.

``python -m asm_bridge_schemas.export DIRECTORY`` writes them. Each schema is complete: what it refers to is in its
``$defs``. There is one for each record, one for each topic (``agent-status.json``, ...: ``oneOf``, distinguished by
``type``), one for all records (``Published.json``), and those of the input: ``SessionEntry.json``, ``Event.json``
(every form that is accepted) and ``CanonicalEvent.json`` (the one form for producers).
"""

import json
import sys
from pathlib import Path
from typing import get_args

from asm_bridge_schemas.asyncapi import document
from asm_bridge_schemas.definitions import (
    Schema,
    canonical_event,
    event,
    record_definitions,
    records_by_topic,
    referred,
    session_entry,
)
from asm_bridge_schemas.records import TOPICS, Published
from asm_bridge_schemas.statuses import STATUS_GROUPS

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas(definitions: dict[str, Schema] | None = None) -> dict[str, Schema]:
    """File name -> JSON Schema. ``definitions``: those of the records, if not today's (``record_definitions``)."""
    definitions = record_definitions() if definitions is None else definitions
    made = [_document(name, definitions, _urn(name)) for name in (cls.__name__ for cls in TOPICS)]
    made += [_union(topic, names, definitions) for topic, names in records_by_topic().items()]
    made += [_union("Published", [cls.__name__ for cls in get_args(Published)], definitions)]
    made += [_document("SessionEntry", session_entry(), _urn("SessionEntry"))]
    made += [_document("Event", event(), _urn("Event"))]
    made += [_document("CanonicalEvent", canonical_event(), _urn("CanonicalEvent"))]
    return {f"{schema['title']}.json": schema for schema in made}


def documents() -> dict[str, Schema]:
    """File name -> content: the schemas, the AsyncAPI document and the table of status groups."""
    return {**schemas(), "asyncapi.json": document(), "status-groups.json": STATUS_GROUPS}


def export(directory: Path) -> list[Path]:
    """Writes the documents. Returns the files written. The directory is made if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in documents().items():
        paths.append(directory / name)
        paths[-1].write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return paths


def _union(title: str, names: list[str], definitions: dict[str, Schema]) -> Schema:
    description = "Every record." if title == "Published" else f"A record of the topic {title} (without its prefix)."
    top = {"title": title, "description": description, "oneOf": [{"$ref": f"#/$defs/{name}"} for name in names]}
    return _document(title, {title: top, **definitions}, _urn(title))


def _document(title: str, definitions: dict[str, Schema], identifier: str) -> Schema:
    """The schema ``title`` on top, and the definitions that it refers to below."""
    needed = referred(definitions[title], definitions)
    return {"$schema": _DIALECT, "$id": identifier, **definitions[title], **({"$defs": needed} if needed else {})}


def _urn(name: str) -> str:
    return f"urn:asm-kafka-bridge:schema:{name}:v1"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m asm_bridge_schemas.export DIRECTORY")
    export(Path(sys.argv[1]))
