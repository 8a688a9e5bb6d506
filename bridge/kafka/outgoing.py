"""A message on its way to Kafka."""

from collections.abc import Sequence
from typing import NamedTuple


class Outgoing(NamedTuple):
    """A message for ``topic`` (without prefix); ``partition`` is None for the owner's own; times in milliseconds."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None = None
    partition: int | None = None
