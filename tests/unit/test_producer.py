"""The producer of a partition, with a client that refuses."""

from typing import Any

import pytest
from aiokafka.errors import IllegalOperation

from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Outgoing
from bridge.kafka.errors import KafkaError
from bridge.kafka.producer import PartitionProducer


class FencedClient:
    """Behaves as aiokafka's producer does after its transaction has failed in the background."""

    def create_batch(self) -> Any:
        return self

    def append(self, **_: object) -> object:
        return self

    async def send_batch(self, *_: object, **__: object) -> None:
        raise IllegalOperation("Can't send messages while not in transaction")

    async def send_offsets_to_transaction(self, *_: object) -> None:
        raise IllegalOperation("Not in the middle of a transaction")


async def test_a_transaction_that_failed_meanwhile_is_kafkas_error() -> None:
    """An owner that is fenced between two batches of a commit loses its partition; its process goes on."""
    client: Any = FencedClient()
    producer = PartitionProducer(Clients({}, "group", str), client, 0)
    with pytest.raises(KafkaError):
        await producer.send([Outgoing("agent-status", b"a", b"{}", [], None, None)])
    with pytest.raises(KafkaError):
        await producer.add_offset(1, "")
