"""Which change of the contract breaks whom: pure functions over the released documents and today's: the schemas, the
AsyncAPI document (topics, keys, headers) and the table of status groups.

Everybody ignores fields, headers and records that they do not know. Then a change may break

- ``readers``: consumers made from the released schemas, which read new records;
- ``replays``: consumers made from today's, which read records that were written before;
- ``producers``: those made from the released schemas, which send to the bridge.

A change that breaks any of them needs a new major version. ``python -m asm_bridge_schemas.compatibility RELEASED
TODAY`` compares two directories that ``schemas export`` wrote, prints what breaks, and fails if anything does.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from asm_bridge_schemas.definitions import Schema

Who = Literal["readers", "replays", "producers"]

TOPICS, GROUPS = "asyncapi", "status-groups"
_INPUTS = ("SessionEntry", "Event", "CanonicalEvent")
_ANNOTATIONS = frozenset({"title", "description", "examples", "default", "$schema", "$id", "$defs", "definitions"})
_LOWER, _UPPER = ("minimum", "minItems", "minLength"), ("maximum", "maxItems", "maxLength")


_Problem = tuple[str, str]
"""(path, what is wrong)."""


class Break(NamedTuple):
    """``where``: ``AgentStatusChanged.paused``."""

    who: Who
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.who}: {self.where} {self.what}"


def breaks(released: Mapping[str, Schema], today: Mapping[str, Schema]) -> list[Break]:
    """Returns what the change from one set of documents to the other breaks. Both are by name (``read``); each schema
    is complete in itself.

    Unions (a topic's, ``Published``) are compared by the names of their records, which have schemas of their own.
    """
    found: list[Break] = []
    for name, old in released.items():
        new = today.get(name)
        if new is None:
            found.append(Break("producers" if name in _INPUTS else "readers", name, "is gone"))
            continue
        if old.get("$id") != new.get("$id"):
            found.append(Break("readers", name, f"has the id {new.get('$id')}"))
        if name == TOPICS:
            found += _of_topics(old, new)
        elif name == GROUPS:
            moved = sorted(status for status, group in old.items() if new.get(status) != group)
            found += [Break("readers", f"{name}.{status}", f"is {new.get(status)}") for status in moved]
        elif name in _INPUTS:
            found += [Break("producers", where, what) for where, what in unreadable(new, old, name)]
        elif "oneOf" in old:
            gone = {one["$ref"] for one in old["oneOf"]} - {one["$ref"] for one in new.get("oneOf", [])}
            found += [Break("readers", name, f"has no {ref.rpartition('/')[2]} any more") for ref in sorted(gone)]
        else:
            found += [Break("readers", where, what) for where, what in unreadable(old, new, name, records=True)]
            found += [Break("replays", where, what) for where, what in unreadable(new, old, name)]
    return found


def _of_topics(old: Schema, new: Schema) -> Iterator[Break]:
    """What two AsyncAPI documents say beside the payloads: of topics, keys and headers."""
    taken = set()
    for name, before in old["channels"].items():
        after, who = new["channels"].get(name), _who(old, name)
        if who == "producers":
            taken.update(before["messages"])
        if after is None:
            yield Break(who, f"asm.{name}", "is gone")
            continue
        is_now = _facts(after)
        for fact, value in _facts(before).items():
            if is_now[fact] != value:
                yield Break(who, f"asm.{name}", f"has the {fact} {is_now[fact]}")
        if _kept(after) < _kept(before):
            yield Break(who, f"asm.{name}", "keeps records for a shorter time")
        if "Tombstone" in after["messages"].keys() - before["messages"].keys():
            yield Break(who, f"asm.{name}", "may have null values")
        if _who(new, name) != who:
            yield Break(who, f"asm.{name}", "has another direction")
    for name, before in old["components"]["messages"].items():
        who, after = "producers" if name in taken else "readers", new["components"]["messages"].get(name)
        yield from _of_message(name, before, after, old, new, who) if after else [Break(who, name, "is no message")]


def _of_message(name: str, before: Schema, after: Schema, old: Schema, new: Schema, who: Who) -> Iterator[Break]:
    for fact in ("name", "contentType"):
        if before.get(fact) != after.get(fact):
            yield Break(who, name, f"has the {fact} {after.get(fact)}")
    if (key := _key(after)) != _key(before):
        yield Break(who, name, f"has the key {key}")
    released, today = _headers(before, old), _headers(after, new)
    where = f"{name}.headers"
    if who == "producers":
        unread = released.get("properties", {}).keys() - today.get("properties", {}).keys()
        yield from (Break(who, f"{where}.{header}", "is not read") for header in sorted(unread))
        yield from (Break(who, path, what) for path, what in unreadable(today, released, where))
        return
    yield from (Break(who, path, what) for path, what in unreadable(released, today, where, records=True))
    yield from (Break("replays", path, what) for path, what in unreadable(today, released, where))


def _who(document: Schema, channel: str) -> Who:
    """Those who use a topic: the document is written from the bridge's side."""
    reference = {"$ref": f"#/channels/{channel}"}
    actions = {one["action"] for one in document["operations"].values() if one["channel"] == reference}
    return "producers" if "receive" in actions else "readers"


def _facts(channel: Schema) -> dict[str, Any]:
    kafka = channel["bindings"]["kafka"]
    settings = {name: kafka["topicConfiguration"].get(name) for name in ("cleanup.policy", "message.timestamp.type")}
    return {"address": channel["address"], "number of partitions": kafka["partitions"], **settings}


def _kept(channel: Schema) -> float:
    """For how many milliseconds a topic keeps a record at least."""
    kept: float = channel["bindings"]["kafka"]["topicConfiguration"].get("retention.ms", float("inf"))
    return kept


def _key(message: Schema) -> tuple[str, str]:
    key = message["bindings"]["kafka"]["key"]
    return key["type"], key["title"]


def _headers(message: Schema, document: Schema) -> Schema:
    """A message's own headers, or else those of its traits."""
    headers: Schema = message.get("headers", {})
    for trait in () if headers else message.get("traits", ()):
        headers = document["components"]["messageTraits"][trait["$ref"].rpartition("/")[2]]["headers"]
    return headers


def unreadable(reader: Schema, writer: Schema, where: str, *, records: bool = False) -> Iterator[tuple[str, str]]:
    """Returns what fits ``writer`` but not ``reader``: (where, what is wrong). It is empty if the reader accepts
    everything written.

    ``records``: a field that the reader knows must still be written, and a value that it knows by name must still be
    one of those, whether it needs them or not.
    """
    for path, what in _Comparison(reader, writer, records).values(reader, writer):
        yield where + path, what


class _Comparison:
    """Compares two schemas, each with its own definitions."""

    def __init__(self, reader: Schema, writer: Schema, records: bool) -> None:
        self._reader_root, self._writer_root, self._records = reader, writer, records
        self._same = all(reader.get(folder) == writer.get(folder) for folder in ("$defs", "definitions"))
        self._known: dict[tuple[str, str], list[_Problem]] = {}

    def values(self, reader: Schema, writer: Schema) -> list[_Problem]:
        """The problems, each with the path to it from here."""
        if self._same and reader == writer:
            return []
        pair = (reader.get("$ref", ""), writer.get("$ref", ""))
        if not all(pair):
            return self._any(reader, writer)
        if pair not in self._known:
            self._known[pair] = []  # of an object that holds itself
            self._known[pair] = self._any(reader, writer)
        return self._known[pair]

    def _any(self, reader: Schema, writer: Schema) -> list[_Problem]:
        """For each of the writer's alternatives, the problems with the reader's that fits it best."""
        readers = _alternatives(reader, self._reader_root)
        problems: list[_Problem] = []
        writers = _alternatives(writer, self._writer_root)
        for one in writers:
            problems += self._best(readers, one)
        if self._records and (named := _named(writers)):
            problems += [("", f"is never {value}") for value in sorted(_named(readers) - named)]
        return problems

    def _best(self, readers: list[Schema], writer: Schema) -> list[_Problem]:
        best: list[_Problem] | None = None
        for reader in readers:
            found = list(self._plain(reader, writer))
            if not found:
                return []
            best = found if best is None or len(found) < len(best) else best
        return best or []

    def _plain(self, reader: Schema, writer: Schema) -> Iterator[_Problem]:
        """The problems of schemas without alternatives."""
        missing = _types(writer) - _types(reader)
        if missing:
            yield "", f"may be {' or '.join(sorted(missing))}"
            return
        values, known = _constants(writer), _constants(reader)
        if known is not None:
            if values is None:
                yield "", "may have any value"
            elif unknown := sorted(values - known):
                yield "", f"may be {', '.join(unknown)}"
        yield from _beyond_limits(reader, writer, values)
        if "object" in _types(writer):
            yield from self._objects(reader, writer)
        if "items" in reader and "items" in writer:
            yield from _below("[]", self.values(reader["items"], writer["items"]))

    def _objects(self, reader: Schema, writer: Schema) -> Iterator[_Problem]:
        read, written = reader.get("properties", {}), writer.get("properties", {})
        needed, always = set(reader.get("required", ())), set(writer.get("required", ()))
        for name, schema in read.items():
            if name not in written:
                if self._records or name in needed:
                    yield f".{name}", "is not written"
                continue
            if name in needed and name not in always:
                yield f".{name}", "may be missing"
            yield from _below(f".{name}", self.values(schema, written[name]))
        others = reader.get("additionalProperties", True)
        # An object without named fields is a map: it has others.
        written_others = writer.get("additionalProperties", "properties" not in writer)
        if others is False:
            yield from ((f".{name}", "is not known") for name in sorted(written.keys() - read.keys()))
            if written_others is not False:
                yield "{}", "is not known"
        elif isinstance(others, dict) and written_others is not False:
            yield from _below("{}", self.values(others, {} if written_others is True else written_others))


def _below(path: str, problems: list[_Problem]) -> Iterator[_Problem]:
    return ((path + below, what) for below, what in problems)


def _beyond_limits(reader: Schema, writer: Schema, values: set[str] | None) -> Iterator[_Problem]:
    for name in ("pattern", "format"):
        if name in reader and reader[name] != writer.get(name) and values is None:
            yield "", f"may have another {name}"
    if "pattern" in reader:
        texts = [text for text in map(json.loads, sorted(values or ())) if isinstance(text, str)]
        yield from (("", f'may be "{text}"') for text in texts if not re.search(reader["pattern"], text))
    for names, sign in ((_LOWER, 1), (_UPPER, -1)):
        for name in names:
            if name in reader and (name not in writer or sign * writer[name] < sign * reader[name]):
                yield "", f"may be beyond its {name}"


def _alternatives(schema: Schema, root: Schema) -> list[Schema]:
    """The schema without references, and without ``anyOf`` and ``oneOf``: what stands beside these holds for each."""
    if "$ref" in schema:
        folder, _, name = schema["$ref"].removeprefix("#/").rpartition("/")
        beside = {key: value for key, value in schema.items() if key != "$ref" and key not in _ANNOTATIONS}
        return _alternatives({**root[folder][name], **beside}, root)
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword, ())
        if branches and not all(branch.keys() == {"required"} for branch in branches):
            beside = {key: value for key, value in schema.items() if key != keyword}
            return [found for one in branches for found in _alternatives({**beside, **_with(beside, one)}, root)]
    return [schema]


def _with(beside: Schema, branch: Schema) -> Schema:
    """A branch whose ``properties`` only narrow those that stand beside it keeps the others."""
    if "properties" in beside and "properties" in branch:
        return {**branch, "properties": {**beside["properties"], **branch["properties"]}}
    return branch


_ALL_TYPES = frozenset({"null", "boolean", "integer", "a number with a fraction", "string", "array", "object"})


def _types(schema: Schema) -> frozenset[str]:
    if "type" not in schema:
        values = [json.loads(value) for value in _constants(schema) or ()]
        return frozenset(_type(value) for value in values) if values else _ALL_TYPES
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return frozenset({"integer", "a number with a fraction"} if "number" in named else ()) | (set(named) - {"number"})


def _type(value: Any) -> str:
    kinds = {bool: "boolean", int: "integer", str: "string", type(None): "null", list: "array", dict: "object"}
    return kinds.get(type(value), "a number with a fraction")


def _constants(schema: Schema) -> set[str] | None:
    """The values that it allows, as JSON; None for any."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {json.dumps(value) for value in values}


def _named(alternatives: list[Schema]) -> set[str]:
    """The values that are named, also those of a list that may grow."""
    return set().union(*(_constants(one) or () for one in alternatives))


def read(directory: Path) -> dict[str, Schema]:
    """The documents in a directory, by name: that of the file without its ending, and the title of a schema."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m asm_bridge_schemas.compatibility RELEASED TODAY")
    broken = breaks(read(Path(sys.argv[1])), read(Path(sys.argv[2])))
    sys.exit("\n".join(map(str, broken)) if broken else 0)
