"""Helpers for every consumer: records decoded by their headers, and proof that none is missing. Pure, without Kafka.

    >>> from asm_bridge_schemas.consume import Sequences, decode
    >>> value = b'{"type":"AgentProfileChanged","agent_id":"agent-7","stream_id":"s1","sequence":1,'
    >>> value += b'"topic_sequence":1,"asm_session_sid":null,"observed_at":"2026-11-23T09:30:00.000250Z",'
    >>> value += b'"skills":["english"]}'
    >>> headers = [("ce_type", b"com.tcn.asm.agent_profile_changed.v1"), ("content-type", b"application/json")]
    >>> record = decode(value, headers)
    >>> record.skills
    ['english']
    >>> sequences = Sequences()
    >>> sequences.see(record), sequences.see(record)
    ('next', 'repeated')

``picture`` folds the records into the latest picture of each agent.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from asm_bridge_schemas.cloudevents import media_type
from asm_bridge_schemas.frame import unframed
from asm_bridge_schemas.records import TOPICS, AgentState, PartitionHeartbeat, Published, ce_type

Headers = Mapping[str, bytes | str | None] | Iterable[tuple[str, bytes | str | None]]
"""A Kafka record's headers, as its client hands them over. A gateway may have changed the case of their names."""

_JSON, _MSGPACK = "application/json", "application/msgpack"
_ANY: Any = Published | AgentState | PartitionHeartbeat
_DECODERS: dict[tuple[str, str | None], Any] = {
    (content_type, name): decoder(of_type)
    for content_type, decoder in ((_JSON, msgspec.json.Decoder), (_MSGPACK, msgspec.msgpack.Decoder))
    for name, of_type in [(None, _ANY), *((ce_type(cls), cls) for cls in TOPICS)]
}
"""By content-type and ce_type. A record without ce_type is recognized by the ``type`` in its value."""


class Unknown(NamedTuple):
    """A record that this release cannot read, and why: count it, and continue."""

    ce_type: str | None
    reason: str


Decoded = Published | AgentState | PartitionHeartbeat | Unknown | None
"""What ``decode`` returns. ``Sequences`` and ``Pictures`` accept all of it, and use what concerns them."""


def decode(value: bytes | None, headers: Headers | None = None) -> Decoded:
    """The record in a Kafka message's value; None for a tombstone.

    Reads JSON and MessagePack, as ``content-type`` says, also with a Schema Registry's frame. Whatever it cannot read
    is ``Unknown``: a type that a later release added, a dead letter, another program's record. It never raises.
    """
    if value is None:
        return None
    texts = _texts(headers)
    name = texts.get("ce_type")
    decoder = _DECODERS.get((media_type(texts.get("content-type")) or _JSON, name))
    if decoder is None:
        return Unknown(name, f"content-type {texts.get('content-type')!r}, ce_type {name!r} is not known")
    try:
        record: Published | AgentState | PartitionHeartbeat = decoder.decode(unframed(value))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError, LookupError) as error:
        return Unknown(name, f"{type(error).__name__}: {error}")
    return record


def _texts(headers: Headers | None) -> dict[str, str]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return {
        str(name).lower(): value if isinstance(value, str) else bytes(value).decode(errors="backslashreplace")
        for name, value in pairs
        if value is not None
    }


_NUMBERED = frozenset(TOPICS[cls] for cls in get_args(Published))
Seen = Literal["next", "ahead", "late", "repeated", "unnumbered"]
"""``next``: the number after the highest one. ``ahead``: numbers before it have not been seen yet. ``late``: one of
those. ``repeated``: seen before, or covered by an ``AgentState``. ``unnumbered``: it belongs to no stream."""


class Missing(NamedTuple):
    """The numbers ``first`` to ``last`` of a stream that have not been seen."""

    agent_id: str
    stream_id: str
    first: int
    last: int


class Sequences:
    """Which numbers of each stream have been seen: by ``sequence`` for a reader of all topics, or, with
    ``topic="queued-calls"``, by ``topic_sequence`` for a reader of that one; records of other topics are unnumbered.
    So is everything but a numbered record: a state, a heartbeat, a tombstone, what cannot be read.

    Kafka keeps no order between topics, so a reader of several meets numbers ``ahead`` and then those that were
    ``late``: what is ``missing`` is known once all topics have been read to one time (see ``PartitionHeartbeat``).
    Within one topic, ``ahead`` means that records are missing.

    ``from_start=False``: for a reader whose topics no longer hold the beginning of each stream; the first number seen
    is taken for the beginning. Better is ``join`` with the agent's ``AgentState``.

    A stream takes a few dozen bytes for as long as this object lives.
    """

    def __init__(self, *, topic: str | None = None, from_start: bool = True) -> None:
        if topic is not None and topic not in _NUMBERED:
            raise ValueError(f"{topic!r} is no topic with numbered records: use one of {', '.join(sorted(_NUMBERED))}")
        self._topic = topic
        self._from_start = from_start
        self._streams: dict[tuple[str, str], list[list[int]]] = {}
        """(agent_id, stream_id) -> the intervals seen, [first, last], in order and apart."""

    def join(self, state: AgentState) -> None:
        """Begin after this state: the numbers up to ``state.sequence`` count as seen. Only for all topics.

        Raises ``ValueError`` for a reader of one topic: a state does not say how many of its records that topic has.
        """
        if self._topic is not None:
            raise ValueError("an AgentState has no topic_sequence: use from_start=False for a single topic")
        if state.stream_id is None or state.sequence < 1:
            return
        key = state.agent_id, state.stream_id
        later = [[max(first, state.sequence + 1), last] for first, last in self._streams.get(key, [])]
        later = [one for one in later if one[0] <= one[1]]
        if later and later[0][0] == state.sequence + 1:
            self._streams[key] = [[1, later[0][1]], *later[1:]]
        else:
            self._streams[key] = [[1, state.sequence], *later]

    def see(self, record: Decoded) -> Seen:
        """Notes a record's number, and returns what it means."""
        if not isinstance(record, Published):
            return "unnumbered"  # a state repeats the number of a record, which must be seen itself
        number = record.sequence if self._topic is None else record.topic_sequence
        other_topic = self._topic is not None and TOPICS[type(record)] != self._topic
        if record.stream_id is None or number is None or other_topic:
            return "unnumbered"
        seen = self._streams.setdefault((record.agent_id, record.stream_id), [])
        after = bisect_right(seen, number, key=lambda interval: interval[0])
        if after and number <= seen[after - 1][1]:
            return "repeated"
        is_highest = after == len(seen)
        is_first = not seen and (number == 1 or not self._from_start)
        follows = is_first or bool(after and seen[after - 1][1] == number - 1)
        _add(seen, after, number)
        if not is_highest:
            return "late"
        return "next" if follows else "ahead"

    def missing(self) -> list[Missing]:
        """The numbers below each stream's highest one that have not been seen."""
        gaps = []
        for (agent_id, stream_id), seen in self._streams.items():
            until = 0 if self._from_start else seen[0][0] - 1
            for first, last in seen:
                if first > until + 1:
                    gaps.append(Missing(agent_id, stream_id, until + 1, first - 1))
                until = last
        return gaps


def _add(seen: list[list[int]], after: int, number: int) -> None:
    """Adds a number that no interval holds; ``after``: how many intervals begin before it."""
    joins_left = after > 0 and seen[after - 1][1] == number - 1
    joins_right = after < len(seen) and seen[after][0] == number + 1
    if joins_left and joins_right:
        seen[after - 1][1] = seen.pop(after)[1]
    elif joins_left:
        seen[after - 1][1] = number
    elif joins_right:
        seen[after][0] = number
    else:
        seen.insert(after, [number, number])
