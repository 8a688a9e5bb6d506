"""A partition without transactions: what Kafka takes is there for good, and each record is written once, in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka.errors import InvalidTimestampError, KafkaError
from hypothesis import given
from hypothesis import strategies as st

from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.records import AgentMessageReceived, AgentState
from bridge.agents.step import Step
from bridge.clock import Clock
from bridge.kafka.encoding import Encoder, read_state
from bridge.kafka.errors import InvalidRecordError, NoTransactionsError, RefusedRecordsError
from bridge.kafka.limits import Limits
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partition_producer import PartitionProducer, PlainProducer
from bridge.partitions.journal import Journal, PartitionLost
from tests.support.strategies import EPOCH

ENCODER = Encoder("json", "asm.inject")


class Record(NamedTuple):
    """A record as a broker gets it."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None


class FakeBatch:
    def __init__(self, capacity: int) -> None:
        self.records: list[dict[str, Any]] = []
        self._capacity = capacity

    def append(self, **record: Any) -> object:
        if len(self.records) == self._capacity:
            return None
        self.records.append(record)
        return record

    def record_count(self) -> int:
        return len(self.records)

    def size(self) -> int:
        return 0


class FakeKafka:
    """A broker, and aiokafka's producer for it. It refuses a batch with a record for which ``refuses`` returns an
    error, and takes any other one: also one that follows a batch that it has refused. It answers after a moment."""

    _txn_manager: Any = None

    def __init__(self, refuses: Callable[[Record], KafkaError | None], capacity: int = 1000) -> None:
        self.logs: dict[str, list[Record]] = {}
        self.requests = 0
        self.refuses = refuses
        self.slow: str | None = None
        """A topic whose answers come later than others."""
        self._capacity = capacity
        self._aborts = False

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self._capacity)

    async def send_batch(self, batch: FakeBatch, topic: str, partition: int) -> asyncio.Future[None]:
        assert partition == 3
        loop = asyncio.get_running_loop()
        ack: asyncio.Future[None] = loop.create_future()
        records = [Record(topic, **record) for record in batch.records]
        loop.call_later(0.01 if topic == self.slow else 0, self._answer, ack, records)
        return ack

    def _answer(self, ack: asyncio.Future[None], records: list[Record]) -> None:
        self.requests += 1
        if (error := next(filter(None, map(self.refuses, records)), None)) is not None:
            ack.set_exception(error)
            return
        if not self._aborts:
            self.logs.setdefault(records[0].topic, []).extend(records)
        ack.set_result(None)

    async def begin_transaction(self) -> None:
        self._aborts = True

    async def abort_transaction(self) -> None:
        self._aborts = False


class FakeClients(SimpleNamespace):
    """``transactions``: whether the broker has them, for trials."""

    def __init__(self, kafka: FakeKafka, *, transactions: bool) -> None:
        super().__init__(connection={}, topic=str, exactly_once=False, limits=Limits(), closed=0)
        self._kafka = kafka
        self._transactions = transactions

    async def start_producer(self, _: int) -> FakeKafka:
        return self._kafka

    @asynccontextmanager
    async def trial_producer(self, _: int | str = "check") -> AsyncIterator[FakeKafka]:
        if not self._transactions:
            raise NoTransactionsError
        yield self._kafka

    async def committed(self, _: object) -> tuple[int, str]:
        return 0, ""

    async def close(self, _: object) -> None:
        self.closed += 1


async def journal_of(clients: Any, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A recovered journal without states."""

    async def nothing(*_: object) -> None:
        pass

    async def states(*_: object) -> AsyncIterator[Any]:
        for state in list[Any]():
            yield state

    monkeypatch.setattr("bridge.partitions.journal.read_limits", nothing)
    monkeypatch.setattr("bridge.kafka.partition_producer.read_clock", nothing)
    monkeypatch.setattr("bridge.partitions.recovery.read_to_end", states)
    group: Any = SimpleNamespace(commit=nothing, next_heartbeat=nothing)
    journal = Journal(3, clients, ENCODER, group, Clock())
    await journal.recover()
    return journal


def said(*texts: str) -> Step:
    """A step with a message for each text, in one stream."""
    step = Step(AgentState(agent_id="a", stream_id="s"), EPOCH)
    for number, text in enumerate(texts):
        step.emit(AgentMessageReceived, message=text, message_timestamp=number)
    return step


def read(records: Sequence[Record]) -> list[AgentMessageReceived]:
    found = [decode(record.value, record.headers) for record in records]
    return [record for record in found if isinstance(record, AgentMessageReceived)]


def poison(record: Record) -> KafkaError | None:
    """What is poisonous is refused in the topic of the messages, and what is unfit in every form of it."""
    marker = {"agent-messages": b"poison", "agent-state": b"never"}.get(record.topic, b"never")
    unfit = record.topic == "agent-messages" and b":13" in (dict(record.headers).get("ce_id") or b"")
    return InvalidRecordError() if marker in (record.value or b"") or unfit else None


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 8))
async def test_each_record_is_written_once_and_in_its_order(poisoned: list[bool], capacity: int) -> None:
    """Whatever records are refused, and however they were gathered into batches: every number is there once, in order,
    those that no form makes fit in the dead letters; what is refused is there in another form, in its place, and its
    dead letter has all of it. A record that was taken keeps its time."""
    kafka = FakeKafka(poison, capacity)
    with pytest.MonkeyPatch.context() as monkeypatch:
        journal = await journal_of(FakeClients(kafka, transactions=True), monkeypatch)
        journal.append(said(*("a poisonous text" if one else "well" for one in poisoned)))
        await journal.commit()
    expected = [(number, "…" if one else "well") for number, one in enumerate(poisoned, 1) if number != 13]
    written = kafka.logs.get("agent-messages", [])
    assert [(one.sequence, one.message) for one in read(written)] == expected
    assert {one.timestamp for one in written} <= {round(EPOCH * 1000)}
    letters = [one.sequence for one in read(kafka.logs.get("dead-letters", []))]
    assert letters == [number for number, one in enumerate(poisoned, 1) if one or number == 13]
    (state,) = (read_state(one.key or b"", one.value or b"", one.headers) for one in kafka.logs["agent-state"])
    assert state.sequence == len(poisoned)
    assert (journal.accepting, journal.problem) == (True, None)


async def test_a_refusal_leaves_nothing_under_way() -> None:
    """What other partitions of the batch take later than one refuses it is known to be written, and the producer, which
    has nothing of ours left, stays open for the others."""
    client: Any = FakeKafka(poison)
    client.slow = "conversations"
    clients: Any = FakeClients(client, transactions=False)
    producer = await PartitionProducer.start(clients, 3)
    bad = Outgoing("agent-messages", b"a", b"a poisonous text", [])
    good = Outgoing("conversations", b"a", b"{}", [])
    for _ in range(2):
        with pytest.raises(RefusedRecordsError):
            await producer.send([bad, good])
        assert len(client.logs["conversations"]) == 1
    await producer.close()
    assert clients.closed == 0
    await producer.send([good])
    await producer.close()
    assert clients.closed == 1


async def test_neither_is_a_record_written_twice_by_the_next_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is forgotten with its commit, and a later record is not taken for it."""
    kafka = FakeKafka(poison)
    journal = await journal_of(FakeClients(kafka, transactions=False), monkeypatch)
    step = said("well")
    for _ in range(3):
        step.emit(AgentMessageReceived, message="a poisonous text", message_timestamp=1)
        journal.append(step)
        await journal.commit()
        step = Step(step.state, EPOCH)
    assert [one.sequence for one in read(kafka.logs["agent-messages"])] == [1, 2, 3, 4]
    assert len(kafka.logs["agent-state"]) == 3
    assert journal._producer is not None
    assert getattr(journal._producer, "_written", None) == {}


async def test_a_topic_that_takes_nothing_is_written_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transactions, no small record is written to see whether the topic takes one; nothing is left out."""
    kafka = FakeKafka(lambda record: InvalidRecordError() if record.topic == "agent-messages" else None)
    journal = await journal_of(FakeClients(kafka, transactions=False), monkeypatch)
    journal.append(said("a", "b"))
    with pytest.raises(PartitionLost, match=r"^agent-messages refuses every record: InvalidRecordError$"):
        await journal.commit()
    assert "dead-letters" not in kafka.logs
    assert "agent-state" not in kafka.logs


async def test_a_canary_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried in a transaction that is aborted; a topic that refuses it refuses all."""
    kafka = FakeKafka(poison)
    journal = await journal_of(FakeClients(kafka, transactions=True), monkeypatch)
    journal.append(said("a poisonous text"))
    await journal.commit()
    assert {one.key for log in kafka.logs.values() for one in log} == {b"a"}
    kafka.refuses = lambda record: InvalidRecordError() if record.topic == "agent-messages" else None
    before, journal = kafka.requests, await journal_of(FakeClients(kafka, transactions=True), monkeypatch)
    journal.append(said(*["x"] * 100))
    with pytest.raises(PartitionLost, match="refuses every record"):
        await journal.commit()
    assert kafka.requests == before + 2


async def test_a_time_that_is_refused_in_the_midst_ends_the_trials() -> None:
    """No record is taken for the culprit because a search took long."""
    client: Any = FakeKafka(lambda _: InvalidTimestampError())
    clients: Any = FakeClients(client, transactions=False)
    producer = await PartitionProducer.start(clients, 3)
    assert isinstance(producer, PlainProducer)
    with pytest.raises(RefusedRecordsError):
        await producer.takes([Outgoing("agent-messages", b"a", b"{}", [])], EPOCH)
