"""Reads what a broker knows of topics: their ids (KIP-516), by which a topic that was deleted and created again is told
from the former one, and their numbers of partitions.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from bridge.kafka.internals import send_request

_NO_ID = bytes(16)
_MISSING, _UNAUTHORIZED, _NO_LEADER = 3, 29, 5
"""UNKNOWN_TOPIC_OR_PARTITION, TOPIC_AUTHORIZATION_FAILED, LEADER_NOT_AVAILABLE."""


class SeenTopic(NamedTuple):
    """A topic as a broker knows it; ``partitions`` is 0 where the topic does not exist."""

    id: str
    partitions: int


async def seen_topics(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Mapping[str, SeenTopic] | None:
    """Topics by full name, without those that this client may not describe; None if the broker is too old to report
    ids (before Kafka 2.8). Creates no topic. Raises ``KafkaError``.
    """
    try:
        answer = await send_request(admin, _Metadata(list(names)))
    except (NotImplementedError, IncompatibleBrokerVersion):
        return None
    found = {}
    for code, name, topic_id, _, partitions, *_ in answer.topics:
        if code == _MISSING:
            found[name] = SeenTopic("", 0)
        elif code in (0, _NO_LEADER) and partitions:
            found[name] = SeenTopic(topic_id.hex(), len(partitions))
        elif code not in (_UNAUTHORIZED, _NO_LEADER):
            error: KafkaError = for_code(code)(name)
            raise error
    return found


# -- what aiokafka lacks of the protocol: its requests for metadata are older than the ids


class Uuid(AbstractType[bytes]):  # type: ignore[misc]
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: Any) -> bytes:
        found: bytes = data.read(16)
        return found


_TAGS = ("tags", TaggedFields)
_PARTITION = (
    ("error_code", Int16),
    ("partition", Int32),
    ("leader", Int32),
    ("leader_epoch", Int32),
    ("replicas", CompactArray(Int32)),
    ("isr", CompactArray(Int32)),
    ("offline_replicas", CompactArray(Int32)),
    _TAGS,
)
_BROKER = (
    ("node_id", Int32),
    ("host", CompactString("utf-8")),
    ("port", Int32),
    ("rack", CompactString("utf-8")),
    _TAGS,
)
_TOPIC = (
    ("error_code", Int16),
    ("topic", CompactString("utf-8")),
    ("topic_id", Uuid),
    ("is_internal", Boolean),
    ("partitions", CompactArray(*_PARTITION)),
    ("authorized_operations", Int32),
    _TAGS,
)


class _Answer(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(*_BROKER)),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", CompactArray(*_TOPIC)),
        ("authorized_operations", Int32),
        _TAGS,
    )


class _Struct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", Uuid), ("name", CompactString("utf-8")), _TAGS)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        _TAGS,
    )


class _Metadata(Request[_Struct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_Struct]) -> _Struct:
        return request_struct_class([(_NO_ID, name, {}) for name in self._topics], False, False, False, {})
