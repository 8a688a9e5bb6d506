"""The records' schemas for Kafka Connect: one table per topic, for sinks that write Parquet, Iceberg or to a database.

They are the ``schema.content`` of Kafka's own JsonConverter (Kafka 4.2 or newer, KIP-1054), which reads the values as
they are: neither a Schema Registry nor another encoding is needed. A topic's schema has the fields of all its records,
each optional, in the order in which they appear; the converter ignores what it lacks. Objects of any shape (an event, a
conversation, the bridge's books) have no columns.
"""

import json
from pathlib import Path
from typing import Any

from asm_bridge_schemas.definitions import Schema, record_definitions, records_by_topic

_TYPES = {"string": "string", "boolean": "boolean", "integer": "int64", "number": "double"}
_TIME = "io.debezium.time.ZonedTimestamp"
"""A time in ISO 8601 text, for which Kafka Connect has no type. Debezium's sink makes a timestamp of it; others keep
the text."""


def connect_schemas() -> dict[str, Schema]:
    """Topic, without its prefix -> the schema of its values."""
    definitions = record_definitions()
    tables = {}
    for topic, names in records_by_topic().items():
        columns: dict[str, Schema] = {}
        for name in names:
            for field, column in _columns(definitions[name], definitions).items():
                known = columns.setdefault(field, column)
                assert known == column, f"{topic}: {field} has two types"
        tables[topic] = _struct(topic.replace("-", "_"), columns)
    return tables


def export(directory: Path) -> list[Path]:
    """Writes the schemas, a file for each topic (``agent-status.json``); the files written.

    The directory is made if it is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for topic, schema in connect_schemas().items():
        paths.append(directory / f"{topic}.json")
        paths[-1].write_text(json.dumps(schema, separators=(",", ":")), encoding="utf-8")
    return paths


def _columns(record: Schema, definitions: dict[str, Schema]) -> dict[str, Schema]:
    columns = {field: _column(schema, definitions) for field, schema in record["properties"].items()}
    return {field: column for field, column in columns.items() if column is not None}


def _struct(name: str, columns: dict[str, Schema]) -> Schema:
    fields = [{**column, "field": field} for field, column in columns.items()]
    return {"type": "struct", "name": f"com.tcn.asm.{name}", "optional": True, "fields": fields}


def _column(schema: Any, definitions: dict[str, Schema]) -> Schema | None:
    """The type of a field, None for an object of any shape."""
    if "$ref" in schema:
        return _column(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:  # something or null, or a list of names that may grow
        kinds = [_column(one, definitions) for one in schema["anyOf"] if one != {"type": "null"}]
        assert all(kind == kinds[0] for kind in kinds)
        return kinds[0]
    if schema["type"] == "array":
        items = _column(schema["items"], definitions)
        return items and {"type": "array", "items": items, "optional": True}
    if schema["type"] != "object":
        kind = {"type": _TYPES[schema["type"]], "optional": True}
        return {**kind, "name": _TIME} if schema.get("format") == "date-time" else kind
    if "properties" in schema:
        return _struct(schema["title"], _columns(schema, definitions))
    values = schema.get("additionalProperties")
    if not isinstance(values, dict) or not values:
        return None
    texts = {"type": "string", "optional": False}
    return {"type": "map", "keys": texts, "values": _column(values, definitions), "optional": True}
