"""The tables that Kafka Connect makes of the records."""

import json
from typing import Any

import msgspec
import pytest

from asm_bridge_schemas import records
from asm_bridge_schemas.connect import connect_schemas
from tests.support.samples import sample

TABLES = connect_schemas()
WITHOUT_COLUMNS = {"event", "conversation", "bridge"}


def mismatches(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """What of a value Kafka's JsonConverter would refuse, or leave out."""
    if value is None:
        return [] if schema["optional"] else [path]
    kinds: dict[str, Any] = {
        "string": str, "boolean": bool, "int64": int, "double": (int, float), "array": list, "map": dict, "struct": dict
    }  # fmt: skip
    if not isinstance(value, kinds[schema["type"]]):
        return [path]
    if schema["type"] == "array":
        return [found for item in value for found in mismatches(schema["items"], item, f"{path}[]")]
    if schema["type"] == "map":
        return [found for item in value.values() for found in mismatches(schema["values"], item, f"{path}{{}}")]
    if schema["type"] == "struct":
        fields = {field["field"]: field for field in schema["fields"]}
        found = [f"{path}.{name}" for name in value.keys() - fields.keys()]
        return found + [
            text for name, field in fields.items() for text in mismatches(field, value.get(name), f"{path}.{name}")
        ]
    return []


@pytest.mark.parametrize("cls", records.TOPICS, ids=lambda cls: cls.__name__)
def test_a_record_fits_the_table_of_its_topic(cls: type[msgspec.Struct]) -> None:
    """Every field of a record has a column of its type, but for the objects of any shape."""
    value = json.loads(msgspec.json.encode(sample(cls)))
    found = mismatches(TABLES[records.TOPICS[cls]], value, "")
    assert {name.lstrip(".") for name in found} == WITHOUT_COLUMNS & value.keys()


def test_every_column_may_be_null() -> None:
    """A record of another type than those with a column has null there, and so has one of an earlier release."""
    assert TABLES.keys() == set(records.TOPICS.values())
    for table in TABLES.values():
        assert all(field["optional"] for field in table["fields"])


def test_times_are_marked() -> None:
    """A time is text whose name lets a sink make a timestamp of it; other text has no name."""
    names = {
        field["field"]: field.get("name") for field in TABLES["queued-calls"]["fields"] if field["type"] == "string"
    }
    marked = {field for field, name in names.items() if name == "io.debezium.time.ZonedTimestamp"}
    assert marked == {"observed_at", "start_date", "hold_date"}
    assert {names[field] for field in names.keys() - marked} == {None}
