"""Changes of the records' definitions, as a developer might make them, and what each of them breaks."""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from asm_bridge_schemas.definitions import Schema

Definitions = dict[str, Schema]


class Mutation(NamedTuple):
    """``breaks``: who is broken (see ``asm_bridge_schemas.compatibility``)."""

    name: str
    apply: Callable[[Definitions], Any]
    breaks: frozenset[str]

    @property
    def breaks_registry(self) -> bool:
        """Whether a Schema Registry refuses it (BACKWARD): new readers must read old records, and those of a closed
        form cannot where a field is gone."""
        return "replays" in self.breaks or self.name in CLOSED


CLOSED = ("a removed field", "a field of a nested object")


def mutated(definitions: Definitions, mutation: Mutation) -> Definitions:
    changed = copy.deepcopy(definitions)
    mutation.apply(changed)
    return changed


def _fields(definitions: Definitions) -> dict[str, Schema]:
    fields: dict[str, Schema] = definitions["AgentStatusChanged"]["properties"]
    return fields


def _labels(definitions: Definitions) -> Schema:
    labels: Schema = definitions["AgentWatchStarted"]["properties"]["labels"]
    return labels


def _required(definitions: Definitions) -> list[str]:
    required: list[str] = definitions["AgentStatusChanged"]["required"]
    return required


def _known(definitions: Definitions, name: str) -> list[str]:
    """The known values of a list that may grow."""
    values: list[str] = definitions[name]["anyOf"][0]["enum"]
    return values


def _added_as_required(definitions: Definitions) -> None:
    _fields(definitions)["mood"] = {"type": "string"}
    _required(definitions).append("mood")


def _removed(definitions: Definitions) -> None:
    del _fields(definitions)["paused"]
    _required(definitions).remove("paused")


def _renamed(definitions: Definitions) -> None:
    _fields(definitions)["is_paused"] = _fields(definitions).pop("paused")
    _required(definitions)[_required(definitions).index("paused")] = "is_paused"


def _nullable(definitions: Definitions) -> None:
    _fields(definitions)["paused"] = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}


def _never_null(definitions: Definitions) -> None:
    _fields(definitions)["previous_duration_ms"] = {"type": "integer", "minimum": 0}


def _rename(values: list[str], value: str) -> None:
    values[values.index(value)] = f"{value}_now"


def _closed(definitions: Definitions) -> None:
    definitions["LossReason"] |= {"type": "string", "enum": definitions["LossReason"].pop("anyOf")[0]["enum"]}


NOBODY: frozenset[str] = frozenset()
READERS = frozenset({"readers"})
REPLAYS = frozenset({"replays"})
BOTH = READERS | REPLAYS
MUTATIONS = [
    Mutation("nothing", lambda d: None, NOBODY),
    Mutation("another description", lambda d: _fields(d)["paused"].update(description="Else."), NOBODY),
    Mutation("an added field that old records lack", lambda d: _fields(d).update(mood={"type": "string"}), NOBODY),
    Mutation("an added field that is required", _added_as_required, REPLAYS),
    Mutation("a removed field", _removed, READERS),
    Mutation("a renamed field", _renamed, BOTH),
    Mutation(
        "a retyped field",
        lambda d: _fields(d).update(paused={"type": "string"}),
        BOTH,
    ),
    Mutation("an integer that becomes a number", lambda d: _fields(d)["status"].update(type="number"), READERS),
    Mutation("a field that may be missing", lambda d: _required(d).remove("paused"), READERS),
    Mutation("a field that may be null", _nullable, READERS),
    Mutation("a field that is never null", _never_null, REPLAYS),
    Mutation("a narrowed enum", lambda d: d["CallList"]["enum"].remove("hqm"), BOTH),
    Mutation("a widened enum", lambda d: d["CallList"]["enum"].append("parked"), READERS),
    Mutation("a widened enum that may grow", lambda d: _known(d, "LossReason").append("asleep"), NOBODY),
    Mutation("a narrowed enum that may grow", lambda d: _known(d, "LossReason").remove("failed"), READERS),
    Mutation("a renamed value of an enum", lambda d: _rename(d["CallList"]["enum"], "hqm"), BOTH),
    Mutation("a renamed value of an enum that may grow", lambda d: _rename(_known(d, "LossReason"), "failed"), READERS),
    Mutation("a renamed status", lambda d: _rename(_known(d, "StatusDesc"), "READY"), READERS),
    Mutation("a list that may no longer grow", _closed, REPLAYS),
    Mutation("a longer text", lambda d: _fields(d)["queue"].update(maxLength=9), REPLAYS),
    Mutation("a lower minimum", lambda d: _fields(d)["sequence"].update(minimum=0), READERS),
    Mutation("another pattern", lambda d: _fields(d)["current_session_id"].update(pattern="^[a-f0-9]+$"), BOTH),
    Mutation("a list of another kind", lambda d: _fields(d)["changed"].update(items={"type": "integer"}), BOTH),
    Mutation("a list that becomes an object", lambda d: _fields(d).update(changed={"type": "object"}), BOTH),
    Mutation("an enum that becomes text", lambda d: d["CallList"].pop("enum"), READERS),
    Mutation("text that becomes an enum", lambda d: _fields(d)["queue"].update(enum=["a"]), REPLAYS),
    Mutation("a map that is closed", lambda d: _labels(d).update(additionalProperties=False), REPLAYS),
    Mutation("a map of other values", lambda d: _labels(d).update(additionalProperties={"type": "integer"}), BOTH),
    Mutation("another type tag", lambda d: _fields(d)["type"].update(const="StatusChanged"), BOTH),
    Mutation(
        "a field of a nested object",
        lambda d: d["TransferMember"]["properties"].pop("is_muted"),
        READERS,
    ),
]
