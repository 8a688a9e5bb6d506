"""What a reader in any language must know about each topic: its key, partitions, retention and timestamps.

The bridge's settings may change the numbers; these are its defaults. The records of a topic are in ``records.TOPICS``.
"""

from typing import Literal, NamedTuple

PARTITIONS = 8
"""Setting topics.partitions."""
RETENTION_DAYS = 7
"""Setting topics.retention."""
HEARTBEAT_SECONDS = 10
"""Setting records.heartbeat_interval."""
_MIB = 1024 * 1024
_AGENT = "the agent_id, in UTF-8"
_OBSERVED = "observed_at, rounded to the millisecond. Clock: bridge"


class Topic(NamedTuple):
    """``key`` and ``timestamp``: of each record; ``keyed_by``: the key's name, however it is described; ``taken``: the
    message that is written by others than the bridge; ``tombstones``: what a record with a null value means."""

    description: str
    key: str = _AGENT
    keyed_by: str = "agent_id"
    timestamp: str = _OBSERVED
    cleanup: Literal["delete", "compact"] = "delete"
    partitions: int = PARTITIONS
    max_bytes: int = 2 * _MIB
    by_broker: bool = False
    taken: str | None = None
    tombstones: str | None = None

    @property
    def config(self) -> dict[str, int | str | list[str]]:
        """The topic's settings in Kafka, as far as they matter to its readers and writers."""
        kept = {"retention.ms": RETENTION_DAYS * 24 * 3600 * 1000} if self.cleanup == "delete" else {}
        stamped = {"message.timestamp.type": "LogAppendTime"} if self.by_broker else {}
        return {"cleanup.policy": [self.cleanup], **kept, "max.message.bytes": self.max_bytes, **stamped}

    @property
    def facts(self) -> str:
        """All that holds for each record of the topic, as a list in Markdown."""
        kept = f"each record for {RETENTION_DAYS} days (setting `topics.retention`)"
        if self.cleanup == "compact":
            kept = "the newest record of each key; how soon older ones go is up to Kafka"
        partitions = "1, always" if self.partitions == 1 else f"{self.partitions} (setting `topics.partitions`)"
        facts = {
            "Key": self.key,
            "Partitions": partitions,
            "Cleanup": f"{self.cleanup}. The topic keeps {kept}",
            "Timestamp": f"{'LogAppendTime' if self.by_broker else 'CreateTime'}: {self.timestamp}",
            "Null values": self.tombstones or "none",
        }
        return "\n".join(f"- {name}: {fact}." for name, fact in facts.items())


TOPICS = {
    "agent-status": Topic("What an agent does: statuses, sessions, and whether it is watched and observed."),
    "queued-calls": Topic("Calls in the lists that an agent sees. Several agents may see the same call."),
    "agent-messages": Topic("Messages and alerts for an agent."),
    "conversations": Topic("An agent's conversations, and the conversation events that were delivered for it."),
    "inject-outcomes": Topic(
        "The outcome of each record of asm.inject that has a key of at most 1 KiB: one each, in the agent's "
        "partition. Find yours by `injection_id`, the ce_id that you sent, and `source`; without a ce_id by `entry`, "
        "the record's partition/offset on asm.inject."
    ),
    "agent-state": Topic(
        "The latest picture of each agent, for a reader that joins late. A state is written in the transaction of the "
        "records that lead to it, one per agent and transaction, and says by `sequence` which of them it contains.",
        timestamp="when the transaction was written, cut off after the milliseconds. Clock: bridge",
        cleanup="compact",
        max_bytes=8 * _MIB,
        tombstones="the agent is no longer watched, and no event for it is waiting; its `AgentWatchEnded` came before",
    ),
    "heartbeats": Topic(
        f"One per partition every {HEARTBEAT_SECONDS} s (setting `records.heartbeat_interval`): silence on the other "
        "topics is then not an outage. If none comes for three intervals, no bridge owns the partition, or its owner "
        "cannot write.",
        keyed_by="partition",
        key="the number of the partition that it is about, and in which it is, as ASCII digits: `3`",
        timestamp="observed_until, rounded to the millisecond. Clock: bridge",
    ),
    "dead-letters": Topic(
        "Records that could not be handled: the original key, value and headers, with the reason in three more "
        "headers. They have no sequence and, except for the original's, no CloudEvents headers. Each event that is "
        "`rejected` or `undeliverable` has one, in the transaction of its outcome, whose `reason` is the "
        "asm_error_code; one that is `expired` or a `duplicate` has none. A record of asm.inject without a usable "
        "key has a dead letter, but no outcome. A dead letter is in its agent's partition; without a usable key, in "
        "that of the original (or in 0, if the bridge does not use that one). An `unwritable` record of the bridge's "
        "own, which a rule of Kafka's refuses, is here whole, with all its headers; its topic has a shortened one "
        "with the same numbers, or none, if even that is refused: its number is then only in the dead letter.",
        keyed_by="original_key",
        key="that of the original; none if it had none, or one longer than 1 KiB",
        timestamp="when it was written. Clock: the machine that the bridge runs on",
        tombstones="the original value was null, or longer than 512 KiB, or an entry of asm.sessions, which may hold a "
        "secret. Without a key either, the value is empty instead",
    ),
    "inject": Topic(
        "Events for an agent's next request. You write here, to any partition: the bridge moves an event to its "
        "agent's. Each one with a key gets one record on asm.inject-outcomes.",
        timestamp="when it arrived; times to live count from it. Clock: broker",
        by_broker=True,
        taken="CanonicalEvent",
        tombstones="not an event: a dead letter, and `undeliverable`",
    ),
    "sessions": Topic(
        "The registry of watched agents: one entry each. You write here. Changes take effect within a second; an entry "
        "that cannot be read becomes a dead letter, and the agent's last good one stays in force.",
        timestamp="the writer's",
        cleanup="compact",
        partitions=1,
        taken="SessionEntry",
        tombstones="the agent is no longer to be watched",
    ),
}
"""Topic, without its prefix -> what holds for it."""
