"""Fetches topics by their ids (KIP-516), so that no record of a recreated topic is mistaken for one of the former
topic: the broker refuses an id that it no longer knows.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from bridge.kafka.protocol import FETCH_13

_ANOTHER_TOPIC = (100, 103)
"""UNKNOWN_TOPIC_ID, INCONSISTENT_TOPIC_ID."""
_MISSING = 3
"""UNKNOWN_TOPIC_OR_PARTITION, upon which aiokafka looks for the topic."""
_PAUSE = 0.25
"""Seconds until the next fetch of a missing topic, which the broker refuses without waiting."""


class FetchById:
    """A consumer's client that fetches each partition from the topic whose id is in ``ids``. Without an id, or from a
    broker before Kafka 3.1, a partition is fetched by its topic's name.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self.ids: dict[TopicPartition, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await self._client.send(node, request, **options)
        asked = {
            TopicPartition(topic, number): self.ids.get(TopicPartition(topic, number))
            for topic, partitions in request.topics
            for number, *_ in partitions
        }
        if None in asked.values():
            return await self._client.send(node, request, **options)
        response = await self._client.send(node, _FetchRequest(request, asked), **options)
        return response if response.API_VERSION < FETCH_13.API_VERSION else await self._named(response, asked)

    async def _named(self, response: Any, asked: dict[TopicPartition, Any]) -> Any:
        """The response in aiokafka's form, with names, and without records of topics that are no longer wanted."""
        names = {(topic_id, partition.partition): partition for partition, topic_id in asked.items()}
        topics: list[tuple[str, list[Any]]] = []
        gone = False
        for topic_id, partitions, _ in response.topics:
            for number, code, end, stable, start, aborted, replica, records, _ in partitions:
                partition = names[topic_id, number]
                if self.ids.get(partition) != topic_id:
                    continue
                if code in _ANOTHER_TOPIC:
                    code, gone = _MISSING, True
                transactions = [one[:2] for one in aborted or ()]
                read = (number, code, end, stable, start, transactions, replica, records)
                topics.append((partition.topic, [read]))
        if gone:
            await asyncio.sleep(_PAUSE)
        return SimpleNamespace(API_VERSION=11, topics=topics)


class _FetchRequest(FetchRequest):  # type: ignore[misc]
    """aiokafka's request, with the ids of its partitions for a broker that accepts them."""

    def __init__(self, request: FetchRequest, ids: dict[TopicPartition, Any]) -> None:
        self.__dict__.update(request.__dict__)
        self._ids = ids

    def prepare(self, versions: dict[int, tuple[int, int]]) -> Any:
        _, newest = versions.get(self.API_KEY, (0, 0))
        return self.build(FETCH_13) if newest >= FETCH_13.API_VERSION else super().prepare(versions)

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is not FETCH_13:
            return super().build(request_struct_class)
        by_id: dict[bytes, list[tuple[Any, ...]]] = {}
        for topic, partitions in self._topics:
            for number, offset, max_bytes in partitions:
                topic_id = self._ids[TopicPartition(topic, number)]
                by_id.setdefault(topic_id, []).append((number, -1, offset, -1, -1, max_bytes, {}))
        topics: list[Any] = [(topic_id, partitions, {}) for topic_id, partitions in by_id.items()]
        limits = (self._max_wait_ms, self._min_bytes, self._max_bytes, self._isolation_level)
        return FETCH_13(-1, *limits, 0, -1, topics, [], self._rack_id, {})
