"""The form of the records' schemas that a Schema Registry keeps and checks: one for each topic, draft-07 and closed.

The checkers of the registries understand draft-07 (of 2020-12 Apicurio's fails), and call each field that is added to
an open object incompatible, because old data may have anything there. So every object is closed here; a field that is
added later is not ``required`` (see ``SINCE``), and old records fit the new schema. A reader validates with the schema
that a record was written with, as the deserializers do unless told otherwise.

A topic with several records has one schema with all of them (``oneOf``, distinguished by ``type``), and what they refer
to is in its ``definitions``. The alternative, a subject for each record and references to them, does not fit: the frame
names the topic's schema in either case, every reader would need the right to read all those subjects and a request for
each, a subject of a record would have to be registered before the topic's, and not every reader follows references
(Flink and Kafka Connect read the one text that the id stands for). Confluent's deserializers and Apicurio's read both.
"""

import json
from pathlib import Path
from typing import Any

from asm_bridge_schemas.definitions import Schema, record_definitions, records_by_topic, referred

_DIALECT = "http://json-schema.org/draft-07/schema#"
_STRING = {"type": "string"}


def registered_schemas(definitions: dict[str, Schema] | None = None) -> dict[str, Schema]:
    """Topic, without its prefix -> what is registered under the subject ``<topic>-value``.

    ``definitions``: those of the records, if not today's (``record_definitions``).
    """
    definitions = record_definitions() if definitions is None else definitions
    definitions = {name: _registered(schema) for name, schema in definitions.items()}
    return {topic: _document(topic, names, definitions) for topic, names in records_by_topic().items()}


def text(schema: Schema) -> str:
    """A schema as it is registered: the same text from each process, so that it has one id."""
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def export(directory: Path) -> list[Path]:
    """Writes the schemas, a file for each topic (``agent-status.json``); the files written.

    The directory is made if it is missing. A file's text is what is registered.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for topic, schema in registered_schemas().items():
        paths.append(directory / f"{topic}.json")
        paths[-1].write_text(text(schema), encoding="utf-8")
    return paths


def _document(topic: str, names: list[str], definitions: dict[str, Schema]) -> Schema:
    head = {"$schema": _DIALECT}  # no $id: a urn there confuses the resolver of Java's validator
    if len(names) == 1:
        top = definitions[names[0]]
    else:
        records = [{"$ref": f"#/definitions/{name}"} for name in names]
        top = {"title": topic, "description": f"A record of the topic {topic} (without its prefix).", "oneOf": records}
    needed = referred(top, definitions)
    return {**head, **top, **({"definitions": needed} if needed else {})}


def _registered(schema: Any) -> Any:
    """The schema in draft-07, closed, without examples."""
    if isinstance(schema, list):
        return [_registered(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:  # draft-07 ignores what stands beside it
        return {"$ref": schema["$ref"].replace("#/$defs/", "#/definitions/")}
    if all(one.get("type") == "string" for one in schema.get("anyOf", ({},))):  # a list that other text may join
        return {name: schema[name] for name in ("title", "description") if name in schema} | _STRING
    new = {name: value if name == "enum" else _registered(value) for name, value in schema.items()}
    new.pop("examples", None)
    if schema.get("type") == "object" and "properties" in schema:
        new["additionalProperties"] = False
    return new
