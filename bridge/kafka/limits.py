"""What the output topics take: a record that is larger is shortened by the rule of its kind."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import structlog

from asm_bridge_schemas.records import AgentState
from bridge.kafka import internals
from bridge.kafka.outgoing import Outgoing
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_DEFAULT = 1_048_588
"""Kafka's ``max.message.bytes`` of a topic that has none of its own."""
_MARGIN = 128 * 1024
"""More than the key, the headers and the batch around a value ever take."""
_STEPS = ((65_536, 1024), (16_384, 256), (4096, 64), (4096, 16))
"""Characters of a text and items of a list that are left; ids have up to 4096 bytes."""
_LONGEST_TEXT = 4096
_REMEMBERED = 1000


class Limits:
    """``max.message.bytes`` of the topics, by their names without prefix, as read; Kafka's default for the others.

    The limit is one of a batch as it is sent, so that ``compression`` counts, unless the broker changes it.
    """

    def __init__(self, compression: str | None = None) -> None:
        self._compression = compression
        self._bytes: dict[str, int] = {}
        self._recompressed: frozenset[str] = frozenset()
        self._said: set[tuple[str, bytes | None]] = set()

    def __getitem__(self, topic: str) -> int:
        return self._bytes.get(topic, _DEFAULT)

    def update(self, configs: Mapping[str, Mapping[str, str]]) -> None:
        """``configs``: by topic, as the broker reports them."""
        for topic, found in configs.items():
            if (limit := found.get("max.message.bytes", "")).isdecimal():
                self._bytes[topic] = int(limit)
        ours = ("producer", self._compression)
        self._recompressed = frozenset(
            topic for topic, found in configs.items() if found.get("compression.type", "producer") not in ours
        )

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
        whose = (message.topic, message.key)
        if whose not in self._said:
            if len(self._said) >= _REMEMBERED:
                self._said.clear()
            self._said.add(whose)
            log.warning(
                "record.shortened",
                topic=message.topic,
                key=(message.key or b"").decode(errors="backslashreplace"),
                bytes=len(message.value or b""),
                left=len(chosen.value or b""),
                limit=self[message.topic],
            )
        return chosen


def smaller_records(record: msgspec.Struct) -> Iterator[Any]:
    """The record as plain values, its texts and lists shorter and shorter."""
    plain = msgspec.to_builtins(record)
    for characters, items in _STEPS:
        yield _shortened(plain, characters, items)


def smaller_states(state: AgentState) -> Iterator[Any]:
    """The state with ever fewer of the ids of delivered events, then with short texts, at last without what the next
    owner finds out again: calls and conversations in view."""
    ids = state.bridge.delivered
    for left in (len(ids) // 2, len(ids) // 8, 0):
        state = _with_books(state, delivered=ids[-left:] if left else [])
        yield state
    yield _shortened(msgspec.to_builtins(state), _LONGEST_TEXT)
    state = _with_books(msgspec.structs.replace(state, calls=[]), call_digests=[], conversations={})
    yield _shortened(msgspec.to_builtins(state), _LONGEST_TEXT)


def _with_books(state: AgentState, **fields: Any) -> AgentState:
    return msgspec.structs.replace(state, bridge=msgspec.structs.replace(state.bridge, **fields))


def _shortened(value: Any, characters: int, items: int | None = None) -> Any:
    if isinstance(value, str):
        return value if len(value) <= characters else value[: characters - 1] + "…"
    if isinstance(value, list):
        return [_shortened(one, characters, items) for one in value[:items]]
    if isinstance(value, dict):
        return {key: _shortened(one, characters, items) for key, one in value.items()}
    return value
