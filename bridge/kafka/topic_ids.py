"""Reads what a broker knows about topics: their ids (KIP-516), which distinguish a recreated topic from the former one,
and their numbers of partitions.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, for_code

from bridge.kafka.internals import send_request
from bridge.kafka.protocol import topics_with_ids

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
        answer = await send_request(admin, topics_with_ids(names))
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
