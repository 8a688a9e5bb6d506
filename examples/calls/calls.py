"""One row per call on the topic `calls`, keyed by call_sid, out of many agents' views, exactly once.

A call that waits is in the view of every agent with its skill, and these agents are in different partitions. So the
records are partitioned again by call_sid; then one process has all views of a call in its state. A row is written when
no agent sees the call any more, and written again, under the same key, if another agent turns out to have seen it,
too: the topic is compacted, and the last row of a key holds.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from fold import row, see
from quixstreams import Application, State
from quixstreams.models import JSONDeserializer, TopicConfig

BROKERS = os.environ.get("ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092")
PREFIX = os.environ.get("ASM_BRIDGE_TOPICS__PREFIX", "asm.")
LISTS = ("agent_queue", "hqm")  # a call on hold has been answered


def load(value: bytes) -> Any:
    """The record in a value, with or without a Schema Registry's five bytes."""
    return json.loads(value[5:] if value[:1] == b"\0" else value)


def collect(record: Mapping[str, Any], state: State) -> Iterable[dict[str, Any]]:
    """The row of the record's call, if it is complete."""
    views = state.get("views", {})
    see(views, record)
    state.set("views", views)
    if (complete := row(record["call_sid"], views)) is not None:
        yield complete


def application() -> Application:
    """Reads, deals out by call_sid, folds, writes: offsets, states and rows in one transaction."""
    app = Application(
        broker_address=BROKERS,
        consumer_group=f"{PREFIX}example-calls",
        processing_guarantee="exactly-once",
        commit_interval=1.0,
        auto_offset_reset="earliest",
        consumer_extra_config={"isolation.level": "read_committed"},
        # A killed process leaves its transaction open for so long, and readers wait for its end (default: a minute).
        producer_extra_config={"transaction.timeout.ms": 10_000},
        state_dir=os.environ.get("STATE_DIR", "state"),
    )
    queued = app.topic(f"{PREFIX}queued-calls", value_deserializer=JSONDeserializer(loads=load))
    calls = app.topic(
        f"{PREFIX}calls",
        value_serializer="json",
        config=TopicConfig(8, 1, extra_config={"cleanup.policy": "compact"}),
    )
    records = app.dataframe(queued)
    records = records[records["list"].isin(LISTS)]
    rows = records.group_by("call_sid").apply(collect, stateful=True, expand=True)
    rows.to_topic(calls, key=lambda value: value["call_sid"])
    return app


def check() -> None:
    """Ends with what is wrong if there is nothing to read: Quix Streams would create the topic, with one partition."""
    name = f"{PREFIX}queued-calls"
    try:
        topics = AdminClient({"bootstrap.servers": BROKERS}).list_topics(timeout=10).topics
    except KafkaException as error:
        sys.exit(f"Kafka at {BROKERS} does not answer: {error}")
    if name not in topics:
        sys.exit(f"there is no topic {name} at {BROKERS}: does a bridge run, with this prefix (topics.prefix)?")


if __name__ == "__main__":
    check()
    application().run()
