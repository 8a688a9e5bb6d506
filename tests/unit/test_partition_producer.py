"""The producer of a partition, with a client that refuses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalOperation, InvalidTxnState, TopicAuthorizationFailedError, UnknownError, for_code
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka import partition_producer as module
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


class SilentClient(FencedClient):
    """A producer that Kafka asks again and again for another try."""

    def __init__(self) -> None:
        self._sender = SimpleNamespace(_txn_manager=None, client=None, _retry_backoff=0)
        self._txn_manager = SimpleNamespace(
            error_transaction=lambda _: None, fatal_error=lambda _: None, partitions_to_add=set
        )

    async def send_batch(self, *_: object, **__: object) -> Any:
        return asyncio.get_running_loop().create_future()


async def test_what_kafka_does_not_take_is_named_with_its_last_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a commit waits, and when it is given up, the topic and Kafka's error are known: aiokafka tries a batch
    again without a word while too few replicas are in sync."""
    client: Any = SilentClient()
    producer = PartitionProducer(Clients({}, "group", "asm.{}".format), client, 0)
    monkeypatch.setattr(module, "unreachable", lambda: None)
    nothing = producer.unanswered
    assert nothing is None
    sending = asyncio.ensure_future(producer.send([Outgoing("inject-outcomes", b"a", b"{}", [], None, None)]))
    await asyncio.sleep(0.01)
    assert producer.unanswered == "no answer from Kafka about asm.inject-outcomes"
    handler = sender.SendProduceReqHandler(client._sender, {})
    handler.handle_response(answer_about("asm.inject-outcomes", 19))
    sending.cancel()
    await asyncio.wait([sending])
    unanswered = producer.unanswered or ""
    assert unanswered.startswith("no answer from Kafka about asm.inject-outcomes (NotEnoughReplicasError: ")
    assert "min.insync.replicas" in unanswered
    monkeypatch.setattr(module, "unreachable", lambda: "no connection to Kafka at k:1 (connection refused)")
    assert (producer.unanswered or "").endswith(" (no connection to Kafka at k:1 (connection refused))")


def answer_about(topic: str, code: int) -> Any:
    """Kafka's answer to a batch for the first partition of a topic."""
    return SimpleNamespace(API_VERSION=4, topics=[(topic, [(0, code, 0, -1)])])


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (12, "offset.metadata.max.bytes"),
        (19, "min.insync.replicas"),
        (20, "min.insync.replicas"),
        (23, "another program is in this group"),
        (26, "group.min.session.timeout.ms"),
        (50, "transaction.max.timeout.ms"),
        (81, "group.max.size"),
        (82, "kafka.group_instance_id"),
    ],
)
def test_an_error_that_an_administrator_causes_says_what_to_do(code: int, advice: str) -> None:
    """The text names Kafka's error, also one that aiokafka lacks or wraps in another one, and the setting."""
    error = for_code(code)()
    for raised in (error, KafkaError(repr(error))):
        text = describe(raised)
        assert type(error).__name__ in text
        assert advice in text


@pytest.mark.parametrize("code", [76, 81, 82, 87, 88, 89, 90, 100, 103, 110, 111, 112, 113, 120])
def test_no_error_of_kafka_is_unknown(code: int) -> None:
    """aiokafka calls each code that it lacks UnknownError."""
    assert for_code(code) is not UnknownError
