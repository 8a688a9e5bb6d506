"""Events for operators, derived once per second from two samples of the bridge at no cost to the hot path."""

import time
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from asm_bridge_schemas.records import AgentObservationLost
from bridge.clock import rfc3339
from bridge.ops.rates import Sample
from bridge.ops.snapshot import Snapshot
from bridge.telemetry.metrics import Observation

Level = Literal["good", "info", "bad"]
_NAMED = 3
"""Agents that one line names; the rest is a number."""


class OpsEvent(msgspec.Struct, frozen=True):
    """A change of state; ``kind`` is a word for programs, ``text`` a sentence for people."""

    at: str
    level: Level
    kind: str
    text: str


class ProcessHealth(msgspec.Struct, frozen=True):
    """The part of a snapshot that is compared with the previous one."""

    not_ready: str | None
    partitions: frozenset[int]
    service_down: bool
    sample: Sample

    @classmethod
    def of(cls, snapshot: Snapshot, sample: Sample) -> "ProcessHealth":
        return cls(snapshot.not_ready, frozenset(snapshot.owned), snapshot.service_down, sample)


def observed(records: Iterable[Observation]) -> list[OpsEvent]:
    """Agents lost and resumed: one event for each reason, not one for each agent, because a whole fleet is lost at
    once."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for record in records:
        groups.setdefault((isinstance(record, AgentObservationLost), record.reason), []).append(record.agent_id)
    return [_observation(lost, reason, agents) for (lost, reason), agents in groups.items()]


def changes(old: ProcessHealth, new: ProcessHealth) -> Iterator[OpsEvent]:
    """The events between two samples."""
    yield from _counted(old.sample, new.sample)
    yield from _partitions(old.partitions, new.partitions)
    if new.service_down and not old.service_down:
        yield event("bad", "service_down", "the service does not answer; one request at a time probes it")
    if old.service_down and not new.service_down:
        yield event("good", "service_up", "the service answers again")
    if new.not_ready is None and old.not_ready is not None:
        yield event("good", "ready", "ready")
    elif new.not_ready is not None and _kind(new.not_ready) != _kind(old.not_ready):
        yield event("bad", "not_ready", f"not ready: {new.not_ready}")


def event(level: Level, kind: str, text: str) -> OpsEvent:
    return OpsEvent(rfc3339(time.time()), level, kind, text)


def _kind(reason: str | None) -> str | None:
    """A reason without its details, which change while the reason stays the same."""
    return reason and reason.partition(":")[0]


def _partitions(old: frozenset[int], new: frozenset[int]) -> Iterator[OpsEvent]:
    if gained := new - old:
        yield event("info", "partitions_owned", f"took over {_plural(len(gained), 'partition')}: {_numbers(gained)}")
    if lost := old - new:
        yield event("info", "partitions_gone", f"gave up {_plural(len(lost), 'partition')}: {_numbers(lost)}")


def _counted(old: Sample, new: Sample) -> Iterator[OpsEvent]:
    if new.total("rebalances_total") > old.total("rebalances_total"):
        yield event("info", "rebalance", "Kafka rebalances the consumer group")
    for _, grown in _grown(old, new, "partitions_lost_total"):
        text = "dropped from memory and read again; see the log"
        yield event("bad", "partition_lost", f"{_plural(grown, 'partition')} {text}")
    for code, grown in _grown(old, new, "dead_letters_total"):
        yield event("bad", "dead_letters", f"{_plural(grown, 'dead letter')}: {code}")
    for _, grown in _grown(old, new, "registry_errors_total"):
        yield event("bad", "registry", f"{_plural(grown, 'registry entry', 'registry entries')} could not be read")


def _grown(old: Sample, new: Sample, name: str) -> Iterator[tuple[str, int]]:
    before = old.by_label(name)
    for label, value in new.by_label(name).items():
        if value > before.get(label, 0.0):
            yield label, int(value - before.get(label, 0.0))


def _observation(lost: bool, reason: str, agents: list[str]) -> OpsEvent:
    names = ", ".join(agents[:_NAMED]) + (f" and {len(agents) - _NAMED} more" if len(agents) > _NAMED else "")
    if lost:
        return event("bad", "agents_lost", f"{_plural(len(agents), 'agent')} lost ({reason}): {names}")
    return event("good", "agents_resumed", f"{_plural(len(agents), 'agent')} observed again (after {reason}): {names}")


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _numbers(partitions: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(partitions)))
