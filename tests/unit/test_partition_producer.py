"""The producer of a partition, with a client that refuses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalOperation, InvalidTxnState, TopicAuthorizationFailedError, for_code
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka.clients import MAX_BATCH_BYTES, Clients
from bridge.kafka.errors import KafkaError, describe, is_refusal
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partition_producer import PartitionProducer


class FencedClient:
    """Behaves as aiokafka's producer does after its transaction has failed in the background."""

    _txn_manager: Any = None

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


class RefusingClient(FencedClient):
    """What aiokafka's producer does when a right is missing, or a record is too large."""

    def __init__(self, ack: Exception, first: Exception | None = None) -> None:
        self._txn_manager: Any = SimpleNamespace(error_transaction=lambda _: None, fatal_error=lambda _: None)
        self._ack, self._first = ack, first

    async def send_batch(self, *_: object, **__: object) -> Any:
        if self._first is not None:
            self._txn_manager.error_transaction(self._first)
        ack = asyncio.get_running_loop().create_future()
        ack.set_exception(self._ack)
        return ack


async def test_the_first_error_of_a_transaction_is_raised() -> None:
    """A missing right is the cause; ``InvalidTxnState`` is what the broker says of the batch that follows."""
    denied = TopicAuthorizationFailedError({"asm.inject-outcomes"})
    client: Any = RefusingClient(InvalidTxnState(), denied)
    producer = PartitionProducer(Clients({}, "group", str), client, 0)
    with pytest.raises(TopicAuthorizationFailedError) as raised:
        await producer.send([Outgoing("inject-outcomes", b"a", b"{}", [], None, None)])
    assert describe(raised.value) == "not authorised to write asm.inject-outcomes"


@pytest.mark.parametrize("code", [10, 18, 32, 44, 87])
async def test_a_refused_record_names_its_topic(code: int) -> None:
    """Kafka's answer does not: it is about a batch."""
    kind = for_code(code)
    client: Any = RefusingClient(kind())
    producer = PartitionProducer(Clients({}, "group", "asm.{}".format), client, 0)
    with pytest.raises(KafkaError, match=rf"^asm\.conversations refuses a record: {kind.__name__}$") as raised:
        await producer.send([Outgoing("conversations", b"a", b"{}", [], None, None)])
    assert is_refusal(raised.value)


class GatheringClient(FencedClient):
    """Keeps the batches that it is given."""

    def __init__(self) -> None:
        self.batches: list[BatchBuilder] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(MAX_BATCH_BYTES, 0, is_transactional=1)

    async def send_batch(self, batch: BatchBuilder, *_: object, **__: object) -> Any:  # type: ignore[override]
        self.batches.append(batch)
        ack = asyncio.get_running_loop().create_future()
        ack.set_result(None)
        return ack


async def test_records_are_gathered_up_to_what_their_topic_takes() -> None:
    """A topic that takes less than usual gets smaller batches, none of them empty and no record left out."""
    client: Any = GatheringClient()
    clients = Clients({}, "group", str)
    clients.limits.update({"conversations": {"max.message.bytes": str(50_000)}})
    message = Outgoing("conversations", b"a", b"x" * 20_000, [])
    producer = PartitionProducer(clients, client, 0)
    await producer.send([message] * 5)
    assert [batch.record_count() for batch in client.batches] == [2, 2, 1]
    assert all(batch.size() <= 50_000 for batch in client.batches)
    await producer.send([message._replace(topic="agent-status")] * 5)
    assert client.batches[3].record_count() == 5


class TransactionalClient(GatheringClient):
    """Keeps the calls for its transactions, too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.times: set[int] = set()

    async def begin_transaction(self) -> None:
        self.calls.append("begin")

    async def abort_transaction(self) -> None:
        self.calls.append("abort")

    def create_batch(self) -> Any:
        return self

    def append(self, **record: Any) -> object:
        self.times.add(record["timestamp"])
        return self


async def test_a_trial_is_aborted_and_has_the_time_of_now() -> None:
    """A search may take longer than a topic lets times be old, so that no record is accused for its age."""
    client: Any = TransactionalClient()
    producer = PartitionProducer(Clients({}, "group", str), client, 0)
    assert await producer.takes([Outgoing("agent-status", b"a", b"{}", [], 5000)] * 2, 60.0)
    assert (client.calls, client.times) == (["begin", "abort"], {60_000})
