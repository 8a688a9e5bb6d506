"""The sizes that the output topics accept; a larger record is shortened according to its kind."""

from collections.abc import Iterator, Mapping

import structlog

from bridge.kafka import internals
from bridge.kafka.outgoing import Outgoing
from bridge.telemetry.logs import Once
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_DEFAULT = 1_048_588
"""Kafka's default of ``max.message.bytes``."""
_MARGIN = 128 * 1024
"""More bytes than the key, the headers and the batch around a value ever need."""


class Limits:
    """``max.message.bytes`` of the topics, by their names without prefix, as read; Kafka's default for the others. No
    batch may be larger than ``segment.bytes`` either.

    The limit applies to a batch as it is sent, so it depends on ``compression``, unless the broker changes that.
    """

    def __init__(self, compression: str | None = None) -> None:
        self._compression = compression
        self._bytes: dict[str, int] = {}
        self._recompressed: set[str] = set()
        self._said = Once()

    def __getitem__(self, topic: str) -> int:
        return self._bytes.get(topic, _DEFAULT)

    def update(self, configs: Mapping[str, Mapping[str, str]]) -> None:
        """``configs``: by topic, as the broker reports them; what it does not report stays as it was."""
        for topic, found in configs.items():
            if (limit := found.get("max.message.bytes", "")).isdecimal():
                self._bytes[topic] = int(limit)
            if (segment := found.get("segment.bytes", "")).isdecimal():
                self._bytes[topic] = min(self[topic], int(segment))
        ours = ("producer", self._compression)
        others = {topic for topic, found in configs.items() if found.get("compression.type", "producer") not in ours}
        self._recompressed = (self._recompressed - configs.keys()) | others

    def fits(self, message: Outgoing) -> bool:
        limit = self._bytes.get(message.topic, _DEFAULT)
        if len(message.value or b"") + _MARGIN <= limit:
            return True
        record = {"timestamp": message.timestamp, "key": message.key, "value": message.value}
        compression = None if message.topic in self._recompressed else self._compression
        return internals.size_in_batch(compression, **record, headers=message.headers) <= limit

    def choose(self, message: Outgoing, smaller: Iterator[Outgoing]) -> Outgoing:
        """The first of ``smaller`` that fits, instead of a message that does not; the message itself if none does."""
        chosen = next((one for one in smaller if self.fits(one)), None)
        if chosen is None:
            return message
        METRICS.kafka_errors.labels("shortened").inc()
        if self._said.is_new((message.topic, message.key)):
            log.warning(
                "record.shortened",
                topic=message.topic,
                key=(message.key or b"").decode(errors="backslashreplace"),
                bytes=len(message.value or b""),
                left=len(chosen.value or b""),
                limit=self[message.topic],
            )
        return chosen
