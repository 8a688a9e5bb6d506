"""Requests to the group's coordinator while it is not ready."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from bridge.kafka.clients import Clients
from bridge.testing.brokers.cluster import Cluster
from bridge.testing.brokers.maven import why_not

pytestmark = pytest.mark.kafka

PARTITION = TopicPartition("inject", 0)


@pytest.mark.skipif(why_not() is not None, reason=f"three brokers need the maven one: {why_not()}")
async def test_no_answer_is_not_no_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that has moved or is still loading raises an error instead of returning no offset, which would make
    the inbox be read again from its beginning (found by chaos seeds 26 and 29).
    """
    cluster = Cluster()
    try:
        connection = {"bootstrap_servers": await asyncio.to_thread(cluster.start)}
        await _commit(connection)
        assert sorted([await _told_by(node, connection, monkeypatch) for node in (1, 2, 3)]) == [
            "7 kept",
            "error",
            "error",
        ]
    finally:
        await asyncio.to_thread(cluster.stop)


async def _told_by(node: int, connection: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    async def coordinator(*_: object) -> int:
        return node

    monkeypatch.setattr(AIOKafkaAdminClient, "find_coordinator", coordinator)
    try:
        offset, metadata = await Clients(connection, "group", str).committed(PARTITION)
    except KafkaError:
        return "error"
    return f"{offset} {metadata}"


async def _commit(connection: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(**connection)
    await admin.start()
    await admin.create_topics([NewTopic(PARTITION.topic, 1, 1)])
    await admin.close()
    consumer = AIOKafkaConsumer(**connection, group_id="group", enable_auto_commit=False)
    await consumer.start()
    consumer.assign([PARTITION])
    await consumer.commit({PARTITION: OffsetAndMetadata(7, "kept")})
    await consumer.stop()
