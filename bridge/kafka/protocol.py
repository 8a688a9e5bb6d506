"""Requests of Kafka's protocol that aiokafka lacks, or has in older versions only."""

from collections.abc import Iterable
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String


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


def _struct(key: int, version: int, request: Iterable[Any], answer: Iterable[Any] | type[Response]) -> Any:
    """The layout of a request; ``answer``: the fields of its answer, or aiokafka's class of it."""
    kind = {"API_KEY": key, "API_VERSION": version}
    if not isinstance(answer, type):
        answer = type("Answer", (Response,), kind | {"SCHEMA": Schema(*answer)})
    return type("Struct", (RequestStruct,), kind | {"RESPONSE_TYPE": answer, "SCHEMA": Schema(*request)})


_TEXT = String("utf-8")
_PARTITION = (
    ("error_code", Int16), ("partition", Int32), ("leader", Int32), ("leader_epoch", Int32),
    ("replicas", Array(Int32)), ("isr", Array(Int32)), ("offline_replicas", Array(Int32)),
)  # fmt: skip
_BROKER = (("node_id", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT))
_TOPIC = (
    ("error_code", Int16), ("topic", _TEXT), ("is_internal", Boolean), ("partitions", Array(*_PARTITION)),
    ("authorized_operations", Int32),
)  # fmt: skip
_METADATA_8 = _struct(
    3,
    8,
    [
        ("topics", Array(_TEXT)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    ],
    [
        ("throttle_time_ms", Int32),
        ("brokers", Array(*_BROKER)),
        ("cluster_id", _TEXT),
        ("controller_id", Int32),
        ("topics", Array(*_TOPIC)),
        ("authorized_operations", Int32),
    ],
)
_GROUPS_3 = _struct(
    15, 3, [("groups", Array(_TEXT)), ("include_authorized_operations", Boolean)], DescribeGroupsResponse_v3
)


def topics_with_rights(names: Iterable[str]) -> ProtocolRequest:
    """Describes topics, with the rights to them (KIP-430). Creates none."""
    return ProtocolRequest(_METADATA_8, list(names), False, False, True)


def group_with_rights(group_id: str) -> ProtocolRequest:
    """Describes a group, with the rights to it (KIP-430): aiokafka reads the answer as an older one, without them."""
    return ProtocolRequest(_GROUPS_3, [group_id], True)
