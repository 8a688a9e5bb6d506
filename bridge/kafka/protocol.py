"""Requests of Kafka's protocol that aiokafka lacks, or has in older versions only."""

from collections.abc import Iterable
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Array,
    Boolean,
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)


class ProtocolRequest(Request[RequestStruct]):  # type: ignore[misc]
    """A request of one version: sending it raises ``IncompatibleBrokerVersion`` or ``NotImplementedError`` where the
    broker does not know the request, or that version of it.
    """

    API_KEY = -1  # each instance has its own

    def __init__(self, struct: type[RequestStruct], *values: Any) -> None:
        self.API_KEY = struct.API_KEY
        self._CLASSES = (struct,)
        self._values = values

    def build(self, request_struct_class: type[RequestStruct]) -> RequestStruct:
        return request_struct_class(*self._values)


def topics_with_rights(names: Iterable[str]) -> ProtocolRequest:
    """Describes topics, with the rights to them (KIP-430). Creates none."""
    return ProtocolRequest(_METADATA_8, list(names), False, False, True)


def topics_with_ids(names: Iterable[str]) -> ProtocolRequest:
    """Describes topics, with their ids (KIP-516). Creates none."""
    return ProtocolRequest(_METADATA_10, [(bytes(16), name, {}) for name in names], False, False, False, {})


def group_with_rights(group_id: str) -> ProtocolRequest:
    """Describes a group, with the rights to it (KIP-430): aiokafka reads the answer as an older one, without them."""
    return ProtocolRequest(_GROUPS_3, [group_id], True)


def transaction(transactional_id: str) -> ProtocolRequest:
    """Describes a transaction (KIP-664)."""
    return ProtocolRequest(_TRANSACTIONS_0, [transactional_id], {})


# -- the layouts


class Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        found: bytes = data.read(16)
        return found


def _struct(
    key: int, version: int, request: Iterable[Any], answer: Iterable[Any] | type[Response], *, flexible: bool = False
) -> Any:
    """The layout of a request; ``answer``: the fields of its answer, or aiokafka's class of it; ``flexible``: with the
    header of versions that have tags (KIP-482).
    """
    kind: dict[str, Any] = {"API_KEY": key, "API_VERSION": version}
    if not isinstance(answer, type):
        answer = type("Answer", (Response,), kind | {"SCHEMA": Schema(*answer)})
    kind |= {"RESPONSE_TYPE": answer, "SCHEMA": Schema(*request), "FLEXIBLE_VERSION": flexible}
    return type("Struct", (RequestStruct,), kind)


_TAGS = ("tags", TaggedFields)
_TEXT, _COMPACT_TEXT = String("utf-8"), CompactString("utf-8")


def _metadata(version: int) -> Any:
    compact = version >= 9
    array, text, tags = (CompactArray, _COMPACT_TEXT, [_TAGS]) if compact else (Array, _TEXT, [])
    ids = [("topic_id", Uuid)] if version >= 10 else []
    partition = [
        ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
        ("replicas", array(Int32)), ("isr", array(Int32)), ("offline_replicas", array(Int32)), *tags,
    ]  # fmt: skip
    broker = [("node_id", Int32), ("host", text), ("port", Int32), ("rack", text), *tags]
    topic = [
        ("error_code", Int16), ("topic", text), *ids, ("is_internal", Boolean), ("partitions", array(*partition)),
        ("authorized_operations", Int32), *tags,
    ]  # fmt: skip
    request = [
        ("topics", array(*ids, ("name", text), *tags) if compact else array(text)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        *tags,
    ]
    answer = [
        ("throttle_time_ms", Int32),
        ("brokers", array(*broker)),
        ("cluster_id", text),
        ("controller_id", Int32),
        ("topics", array(*topic)),
        ("authorized_operations", Int32),
        *tags,
    ]
    return _struct(3, version, request, answer, flexible=compact)


_METADATA_8, _METADATA_10 = _metadata(8), _metadata(10)
_GROUPS_3 = _struct(
    15, 3, [("groups", Array(_TEXT)), ("include_authorized_operations", Boolean)], DescribeGroupsResponse_v3
)
_TRANSACTION = (
    ("error_code", Int16), ("transactional_id", _COMPACT_TEXT), ("state", _COMPACT_TEXT), ("timeout_ms", Int32),
    ("start_time_ms", Int64), ("producer_id", Int64), ("producer_epoch", Int16),
    ("topics", CompactArray(("topic", _COMPACT_TEXT), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS,
)  # fmt: skip
_TRANSACTIONS_0 = _struct(
    65,
    0,
    [("transactional_ids", CompactArray(_COMPACT_TEXT)), _TAGS],
    [("throttle_time_ms", Int32), ("transactions", CompactArray(*_TRANSACTION)), _TAGS],
    flexible=True,
)
_FETCHED = (
    ("partition", Int32), ("error_code", Int16), ("highwater_offset", Int64), ("last_stable_offset", Int64),
    ("log_start_offset", Int64),
    ("aborted_transactions", CompactArray(("producer_id", Int64), ("first_offset", Int64), _TAGS)),
    ("preferred_read_replica", Int32), ("message_set", CompactBytes), _TAGS,
)  # fmt: skip
_TO_FETCH = (
    ("partition", Int32), ("current_leader_epoch", Int32), ("fetch_offset", Int64), ("last_fetched_epoch", Int32),
    ("log_start_offset", Int64), ("max_bytes", Int32), _TAGS,
)  # fmt: skip
FETCH_13 = _struct(
    1,
    13,
    [
        ("replica_id", Int32), ("max_wait_time", Int32), ("min_bytes", Int32), ("max_bytes", Int32),
        ("isolation_level", Int8), ("session_id", Int32), ("session_epoch", Int32),
        ("topics", CompactArray(("topic_id", Uuid), ("partitions", CompactArray(*_TO_FETCH)), _TAGS)),
        ("forgotten_topics_data", CompactArray(("topic_id", Uuid), ("partitions", CompactArray(Int32)), _TAGS)),
        ("rack_id", _COMPACT_TEXT), _TAGS,
    ],
    [
        ("throttle_time_ms", Int32), ("error_code", Int16), ("session_id", Int32),
        ("topics", CompactArray(("topic_id", Uuid), ("partitions", CompactArray(*_FETCHED)), _TAGS)), _TAGS,
    ],
    flexible=True,
)  # fmt: skip
"""The layout of fetches by topic id (KIP-516); ``RESPONSE_TYPE`` is that of their answers."""
