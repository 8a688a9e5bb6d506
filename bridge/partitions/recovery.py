"""The states of a partition's agents, as their last owner has left them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import structlog

from asm_bridge_schemas.records import AgentState
from bridge.headers import INBOX
from bridge.kafka.encoding import read_state
from bridge.kafka.reading import read_to_end
from bridge.partitions.offsets import CommitMetadata, differ
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()


@dataclass(slots=True)
class Recovered:
    """``states`` by agent_id; ``void``: the agents whose states remember offsets of another inbox; ``observed_until``:
    everything observed before this time (seconds since 1970) is published, None if it is unknown; ``begin``: the first
    offset of the topic, which grows only if an administrator, or another cleanup.policy, deletes states.
    """

    states: dict[str, AgentState] = field(default_factory=dict)
    void: set[str] = field(default_factory=set)
    observed_until: float | None = None
    begin: int = 0


class Remembered(NamedTuple):
    """The states of all agents of a partition, and the metadata, as of the last commit."""

    states: Mapping[str, AgentState]
    metadata: CommitMetadata


async def read_states(connection: Mapping[str, Any], topic: str, partition: int, inbox: str | None) -> Recovered:
    """``inbox``: the id of the inbox, None if it is unknown. Raises as ``read_to_end`` does."""
    states: dict[bytes, AgentState] = {}
    void: set[bytes] = set()
    observed_until: float | None = None
    logged_at = time.monotonic()
    begins: dict[Any, int] = {}
    async for message in read_to_end(connection, [(topic, partition)], begins):
        if time.monotonic() - logged_at >= 1:
            logged_at = time.monotonic()
            log.info("partition.recovering", partition=partition, states=len(states))
        if message.timestamp > 0:  # the time of a commit: everything before it was published
            observed_until = max(observed_until or 0, message.timestamp / 1000)
        key = message.key or b""
        states.pop(key, None)
        void.discard(key)
        if message.value is None:
            continue
        try:
            states[key] = state = read_state(key, message.value, message.headers)
        except msgspec.DecodeError as error:  # another program's: its agent begins a new stream
            METRICS.kafka_errors.labels("state").inc()
            agent_id = key.decode(errors="backslashreplace")
            log.error("state.unreadable", agent_id=agent_id, partition=partition, error=error)  # noqa: TRY400
        else:
            former = dict(message.headers).get(INBOX)
            if state.bridge.inbox_offset >= 0 and inbox and former is not None and former != inbox.encode():
                void.add(key)
    by_agent = {state.agent_id: state for state in states.values()}
    begin = max(begins.values(), default=0)
    return Recovered(by_agent, {states[key].agent_id for key in void}, observed_until, begin)


def read_metadata(
    offset: int | None, text: str, former: Remembered | None, partition: int, *, known: bool
) -> CommitMetadata:
    """What the commit of the inbox's ``offset`` says in its ``text``; ``known``: whether there are states."""
    if offset is None:  # the inbox was deleted, and its offsets with it
        if former is not None:
            return former.metadata
        return CommitMetadata(clean=not known)  # the partition never had an owner, or the group's offsets have expired
    if not text:  # every commit of ours has a text
        log.warning("inbox.offset_set", partition=partition, offset=offset)
    return CommitMetadata.decode(text)


def have_gone(recovered: Recovered, metadata: CommitMetadata, topic: str | None) -> bool:
    """Whether states were deleted since the commit with this ``metadata``; ``topic``: the id of their topic."""
    deleted = metadata.states is not None and recovered.begin > metadata.states_from
    return deleted or differ(topic, metadata.states)


def restore(
    recovered: Recovered,
    former: Remembered | None,
    metadata: CommitMetadata,
    inbox: str | None,
    partition: int,
) -> CommitMetadata:
    """Adds the states that the topic has lost since the last commit, which had this ``metadata``: those of ``former``,
    because no other process has owned the partition. Without them agents begin new streams.

    Returns the metadata that is still valid.
    """
    if former is None:
        METRICS.kafka_errors.labels("another_log").inc()
        log.error("states.lost", partition=partition, found=len(recovered.states))
        return msgspec.structs.replace(metadata, clean=False)
    lost = former.states.keys() - recovered.states.keys()
    recovered.states |= {agent_id: former.states[agent_id] for agent_id in lost}
    if differ(metadata.inbox, inbox):
        recovered.void |= lost
    return metadata
