"""Watches whether committed records can be read: any open transaction holds back all records after it."""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from bridge.clock import rfc3339
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

PATIENCE = 30.0
"""Seconds for which a last stable offset may stay behind before it is a fault: the bridge's own transactions take one
second at most."""
_LOOK_EVERY = 1.0
_REMEMBERED = 16
"""Releases of a partition that are remembered: its records may be read later."""
_FRESH = 10.0
"""Seconds for which the offsets of a fetch are valid: a paused partition is not fetched."""


class Stuck(NamedTuple):
    """A partition whose last stable offset stays at ``offset``; ``since``: monotonic seconds."""

    offset: int
    since: float


class Release(NamedTuple):
    """Until ``at`` (monotonic seconds) no record from ``offset`` on could be read."""

    offset: int
    at: float


def readable_at(releases: Iterable[Release], offset: int) -> float | None:
    """Since when a record that was held back can be read (monotonic seconds); None for one that was not."""
    return max((release.at for release in releases if release.offset <= offset), default=None)


class StableOffsets:
    """The open transactions that hold back a consumer's partitions, and the last ones that did for a second or more."""

    def __init__(self) -> None:
        self._behind: dict[TopicPartition, Stuck] = {}
        self._reported: set[TopicPartition] = set()
        self._looked_at = float("-inf")
        self._releases: defaultdict[TopicPartition, deque[Release]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def look(self, consumer: AIOKafkaConsumer) -> None:
        """Notes the offsets of the consumer's last fetches, at most once a second while nothing is held back."""
        now = time.monotonic()
        if not self._behind and now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at, fresh = now, (time.time() - _FRESH) * 1000
        found = {
            partition: (consumer.last_stable_offset(partition), consumer.highwater(partition))
            for partition in consumer.assignment()
            if (consumer.last_poll_timestamp(partition) or 0) > fresh
        }
        self.record(found, now)

    def record(self, offsets: dict[TopicPartition, tuple[int | None, int | None]], now: float) -> None:
        """``offsets``: the last stable one and the end of each partition, as just seen."""
        behind: dict[TopicPartition, Stuck] = {}
        for partition, (stable, end) in offsets.items():
            if stable is not None and end is not None and 0 <= stable < end:
                before = self._behind.get(partition)
                behind[partition] = before if before and before.offset == stable else Stuck(stable, now)
        for partition, before in self._behind.items():
            if behind.get(partition) != before and now - before.since >= _LOOK_EVERY:
                self._releases[partition].append(Release(before.offset, now))
        self._behind = behind
        stuck = {partition for partition, one in behind.items() if now - one.since >= PATIENCE}
        for partition in stuck:
            METRICS.stable_offset_behind.labels(*partition).set(now - behind[partition].since)
        for partition in stuck - self._reported:
            log.warning("transaction.open", reason=self._reason(partition, now))
        for partition in self._reported - stuck:
            METRICS.stable_offset_behind.remove(*partition)
        self._reported = stuck

    def releases(self, partition: TopicPartition) -> Sequence[Release]:
        """The last ends of transactions that held the partition back, oldest first."""
        return self._releases.get(partition, ())

    def reasons(self) -> list[str]:
        """Describes the partitions that have been held back for too long: where, and since when."""
        return [self._reason(partition, time.monotonic()) for partition in sorted(self._reported)]

    def clear(self) -> None:
        """The consumer has ended."""
        self.record({}, time.monotonic())

    def _reason(self, partition: TopicPartition, now: float) -> str:
        offset, since = self._behind[partition]
        return held_back(partition, offset, time.time() - (now - since))


def name_of(partition: TopicPartition) -> str:
    return f"{partition.topic}/{partition.partition}"


def held_back(partition: TopicPartition, offset: int, since: float) -> str:
    """``since``: seconds since 1970."""
    return (
        f"{name_of(partition)} cannot be read beyond offset {offset} since {rfc3339(since)}: "
        "a transaction is open there (kafka-transactions.sh find-hanging shows whose)"
    )
