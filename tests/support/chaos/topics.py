"""Deletes and recreates topics, as an administrator does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.support.chaos.harness import Lab, until

_COMPACTED = ("sessions", "agent-state")


@asynccontextmanager
async def _admin(the_lab: Lab) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=the_lab.bootstrap_servers)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def delete(the_lab: Lab, topic: str) -> None:
    """Deletes a topic, named without the prefix."""
    async with _admin(the_lab) as admin:
        await admin.delete_topics([the_lab.prefix + topic])


async def recreate(the_lab: Lab, topic: str, partitions: int, *, exists: bool = True) -> None:
    """Deletes a topic if it ``exists``, and creates it again."""
    if exists:
        await delete(the_lab, topic)
    configs = {"message.timestamp.type": "LogAppendTime", "max.message.bytes": str(2**21)}
    if topic in _COMPACTED:
        configs = {"cleanup.policy": "compact"}
    async with _admin(the_lab) as admin:

        async def created() -> bool:
            new = NewTopic(the_lab.prefix + topic, partitions, 1, topic_configs=configs)
            made = await admin.create_topics([new])
            return bool(made.topic_errors[0][1] == 0)

        await until(created, f"{topic} is created again")
    await the_lab.reconnect()
