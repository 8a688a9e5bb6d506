"""A partition's journal, with a producer that fails on request."""

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from structlog.testing import capture_logs

from asm_bridge_schemas.consume import decode
from asm_bridge_schemas.records import (
    AgentMessageReceived,
    AgentState,
    Books,
    Delivered,
    InjectionCompleted,
    PartitionHeartbeat,
)
from bridge.agents.queue import InjectionQueue
from bridge.agents.step import KnownOutcome, Step
from bridge.clock import Clock, seconds
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import RefusedRecordsError
from bridge.kafka.kafka_clock import Reading
from bridge.kafka.outgoing import Outgoing
from bridge.kafka.partition_producer import PartitionProducer
from bridge.partitions import journal as module
from bridge.partitions import recovery
from bridge.partitions.journal import Journal, PartitionLost
from bridge.partitions.offsets import CommitMetadata
from bridge.settings.model import InjectionSettings
from bridge.telemetry.metrics import METRICS
from tests.support.strategies import EPOCH, injection


class FakeProducer:
    """Raises ``error``, if it is set, at each commit."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.error_of_send: Exception | None = None
        self.poison: Callable[[Outgoing], bool] = lambda _: False
        self.calls: list[str] = []
        self.states: list[AgentState] = []
        self.states_from = 0
        """The first offset of the states."""
        self.foreign: list[bytes] = []
        """The keys of records of another program among the states."""
        self.inbox: str | None = None
        self.sent: list[Outgoing] = []
        self.added: list[str] = []
        self.unanswered = "no answer from Kafka about asm.inject-outcomes"
        self.started_at = 0.0
        self.reading: Reading | None = None

    async def begin(self) -> None:
        self.calls.append("begin")
        self.sent, self.added = [], []

    def add_topics(self, topics: list[str]) -> None:
        self.added += topics

    async def send(self, messages: list[Outgoing]) -> None:
        if found := next((one for one in messages if self.poison(one)), None):
            topic = [one for one in messages if one.topic == found.topic]
            raise RefusedRecordsError(f"asm.{found.topic}", "InvalidRecordError", topic)
        if self.error_of_send is not None:
            raise self.error_of_send
        self.sent += messages

    async def takes(self, messages: Sequence[Outgoing], _: float) -> bool:
        taken = not any(map(self.poison, messages))
        self.calls.append("taken" if taken else "restart")
        return taken

    async def takes_canary(self, canary: Outgoing, at: float) -> bool:
        return await self.takes([canary], at)

    async def restart(self) -> None:
        self.calls.append("restart")

    async def add_offset(self, offset: int, metadata: str) -> None:
        self.offset = offset, metadata

    async def read_clock(self) -> Reading | None:
        return self.reading

    async def commit(self) -> None:
        self.calls.append("commit")
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        pass


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> FakeProducer:
    """A topic of states that is empty, and the producer that every journal gets."""
    fake = FakeProducer()

    async def start(*_: object) -> FakeProducer:
        return fake

    async def states(_: object, partitions: list[tuple[str, int]], begins: dict[Any, int]) -> Any:
        begins[partitions[0]] = fake.states_from
        for key in fake.foreign:
            yield SimpleNamespace(key=key, value=b'{"agent_id": "a", "stream_id": "stolen"}', headers=(), timestamp=0)
        for state in fake.states:
            sent = Encoder("json", "asm.inject").state(state.agent_id, state, 0, fake.inbox)
            yield SimpleNamespace(key=sent.key, value=sent.value, headers=sent.headers, timestamp=0)

    async def limits(_: object) -> None:
        pass

    monkeypatch.setattr(PartitionProducer, "start", start)
    monkeypatch.setattr(module, "read_limits", limits)
    monkeypatch.setattr(recovery, "read_to_end", states)
    return fake


def journal_of(
    committed: int | None = 0,
    held: dict[int, KnownOutcome] | None = None,
    bounds: tuple[int, int] = (0, 100),
    heartbeat: Callable[[], None] = lambda: None,
    metadata: str = "",
    inbox: str | None = None,
    **others: Any,
) -> Journal:
    """``bounds``: of the inbox; ``inbox``: its id; ``committed`` and ``metadata``: what the group remembers;
    ``others``: further arguments of the journal."""

    async def inbox_bounds(_: int) -> tuple[int, int]:
        return bounds

    async def offset(_: object) -> tuple[int | None, str]:
        return committed, metadata

    async def next_heartbeat(_: float) -> None:
        heartbeat()

    clients: Any = SimpleNamespace(connection={}, topic=str, exactly_once=True, committed=offset)
    group: Any = SimpleNamespace(bounds=inbox_bounds, next_heartbeat=next_heartbeat)
    return Journal(3, clients, Encoder("json", "asm.inject"), group, Clock(), held or {}, inbox=inbox, **others)


async def recovered(*given: Any, **others: Any) -> Journal:
    """A journal of these, recovered."""
    journal = journal_of(*given, **others)
    await journal.recover()
    return journal


def delivered(*offsets: int) -> Step:
    """A step in which these events were sent, and accepted by the service."""
    step = Step(AgentState(agent_id="a"), EPOCH)
    queue = InjectionQueue(InjectionSettings())
    for offset in offsets:
        queue.add(step, injection(offset))
    queue.delivered(step, queue.take(EPOCH), "7", 200)
    return step


async def test_a_journal_recovers_only_where_every_output_can_be_written(producer: FakeProducer) -> None:
    """The first commit includes all output topics, although it writes to none of them, so that no event is sent before
    they are writable.
    """
    journal = await recovered()
    assert journal.accepting
    assert {"inject-outcomes", "conversations", "agent-state", "dead-letters", "agent-status"} <= set(producer.added)
    assert producer.sent == []
    producer.error = TopicAuthorizationFailedError({"asm.inject-outcomes"})
    with pytest.raises(PartitionLost, match=r"^not authorised to write asm\.inject-outcomes$"):
        await recovered()


async def test_what_could_not_be_committed_is_known_to_the_next_journal(producer: FakeProducer) -> None:
    """The next journal knows every step that was not committed, in the failed transaction or after it, and none that
    was.
    """
    journal = await recovered()
    for offset in range(4):
        journal.offsets.opened(offset)
    journal.append(delivered(0))
    await journal.commit()
    assert journal.unwritten == {}
    journal.append(delivered(1, 2))
    producer.error = TopicAuthorizationFailedError({"asm.inject-outcomes"})
    with pytest.raises(PartitionLost):
        await journal.commit()
    journal.append(delivered(3))
    assert list(journal.unwritten) == [1, 2, 3]
    assert {known.record.outcome for known in journal.unwritten.values()} == {"delivered"}


async def test_nothing_is_sent_until_what_was_held_is_written(producer: FakeProducer) -> None:
    """The partition takes no poll before the outcomes of the events that were sent are committed; an entry below the
    committed offset had its outcome written after all."""
    held = dict(delivered(4, 5).sent_outcomes())
    journal = await recovered(5, held)
    assert list(journal.held) == [5]
    assert not journal.accepting
    await journal.commit()
    assert not journal.accepting
    journal.offsets.opened(5)
    journal.append(delivered(5))
    producer.error = TopicAuthorizationFailedError({"asm.inject-outcomes"})
    with pytest.raises(PartitionLost):
        await journal.commit()
    assert list(journal.unwritten) == [5]
    producer.error = None
    journal = await recovered(5, journal.unwritten)
    journal.offsets.opened(5)
    journal.append(delivered(5))
    await journal.commit()
    assert journal.accepting


def said(*texts: str) -> Step:
    """A step with a message for each text."""
    step = Step(AgentState(agent_id="a", stream_id="s"), EPOCH)
    for number, text in enumerate(texts):
        step.emit(AgentMessageReceived, message=text, message_timestamp=number)
    return step


async def test_a_refused_record_is_replaced_and_its_neighbours_are_committed(producer: FakeProducer) -> None:
    """One transaction has them all, with every number. Until it is committed no agent is polled; and because each
    restart of the producer fences whoever may have become the owner, it follows a heartbeat after the last of them.
    """
    accepting, problems = list[bool](), list[str | None]()

    def heartbeat() -> None:
        producer.calls.append("heartbeat")
        accepting.append(journal.accepting)
        problems.append(journal.problem)

    journal = await recovered(heartbeat=heartbeat)
    journal.append(said("a", "a poisonous text", "c"))
    producer.poison = lambda one: one.topic == "agent-messages" and b"poison" in (one.value or b"")
    producer.calls.clear()
    await journal.commit()
    assert producer.calls.count("commit") == 1
    last = [call for call in producer.calls if call in ("restart", "heartbeat", "commit")][-3:]
    assert last == ["restart", "heartbeat", "commit"]
    texts = [decode(one.value, one.headers) for one in producer.sent if one.topic == "agent-messages"]
    assert [(one.sequence, one.message) for one in texts if isinstance(one, AgentMessageReceived)] == [
        *((1, "a"), (2, "…"), (3, "c")),
    ]
    assert {"dead-letters", "agent-state"} <= {one.topic for one in producer.sent}
    assert (accepting, problems) == ([False] * 2, ["asm.agent-messages refuses a record: InvalidRecordError"] * 2)
    assert (journal.accepting, journal.problem) == (True, None)


async def test_a_topic_that_takes_nothing_holds_up_its_partition(producer: FakeProducer) -> None:
    """What is known of events that were sent is kept for the next journal, and nothing is left out."""
    journal = await recovered()
    journal.append(delivered(0))
    producer.poison = lambda one: one.topic == "inject-outcomes"
    with pytest.raises(PartitionLost, match=r"^asm\.inject-outcomes refuses every record: InvalidRecordError$") as lost:
        await journal.commit()
    assert isinstance(lost.value.__cause__, RefusedRecordsError)
    assert list(journal.unwritten) == [0]
    assert not journal.accepting


async def test_a_refusal_that_does_not_end_is_given_up(producer: FakeProducer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is refused although each of its parts is taken does not keep its partition for ever."""
    journal = await recovered()
    journal.append(said("a", "b"))
    producer.poison = lambda one: one.topic == "agent-messages"

    async def takes(*_: object) -> bool:
        return True

    monkeypatch.setattr(producer, "takes", takes)
    with pytest.raises(PartitionLost, match="refuses a record"):
        await journal.commit()


async def test_a_timeout_names_the_topic(producer: FakeProducer) -> None:
    """A missing topic, for which aiokafka waits instead of raising an error, is named in the time-out."""
    journal = await recovered()
    journal.append(delivered(0))
    producer.error = TimeoutError()
    with pytest.raises(PartitionLost, match=r"asm\.inject-outcomes"):
        await journal.commit()


def test_an_event_that_was_sent_is_settled_as_it_ended() -> None:
    """The outcome of a sent event says when it was delivered, how often it was sent, and that it was not sent again."""
    (known,) = (known for _, known in delivered(4).sent_outcomes())
    step = Step(AgentState(agent_id="a"), EPOCH + 60)
    queue = InjectionQueue(InjectionSettings())
    queue.settle(step, injection(4, possibly_processed=True), known)
    event, outcome = step.records
    assert isinstance(outcome, InjectionCompleted)
    assert (outcome.outcome, outcome.attempts, outcome.http_status) == ("delivered", 1, 200)
    assert (outcome.possibly_repeated, outcome.asm_session_sid) == (False, "7")
    assert getattr(event, "delivered_at", None) == known.record.completed_at
    assert step.finished == [4]
    assert not queue


def test_a_refused_event_is_settled_with_its_dead_letter() -> None:
    """A refused event keeps the service's refusal in its outcome and dead letter."""
    step, queue = Step(AgentState(agent_id="a"), EPOCH), InjectionQueue(InjectionSettings())
    queue.add(step, injection(4))
    queue.refused(step, queue.take(EPOCH), 400)
    ((_, known),) = step.sent_outcomes()
    step = Step(AgentState(agent_id="a"), EPOCH + 60)
    queue.settle(step, injection(4), known)
    (outcome,) = step.records
    assert isinstance(outcome, InjectionCompleted)
    assert (outcome.outcome, outcome.reason, outcome.http_status) == ("rejected", "refused", 400)
    assert [letter.text for letter in step.dead_letters] == [known.text]


@pytest.mark.parametrize("committed", [None, 13, 2])
async def test_what_was_remembered_of_another_log_is_void(producer: FakeProducer, committed: int | None) -> None:
    """The inbox ends before what the states, or the group, remember of it: it was recreated. Its events are taken from
    its beginning, in doubt; the states say so from then on, and the log says it once."""
    books = Books(inbox_offset=12, inbox_open=[4], delivered=[Delivered(source=None, injection_id="x")])
    producer.states = [AgentState(agent_id="a", stream_id="s", bridge=books), AgentState(agent_id="b", stream_id="t")]
    held = dict(delivered(1).sent_outcomes())
    with capture_logs() as logged:
        journal = await recovered(committed, held, (0, 10))
    assert (journal.offsets.position, journal.held, journal.metadata.clean) == (0, {}, False)
    assert (journal.states["a"].bridge.inbox_offset, journal.states["a"].bridge.inbox_open) == (-1, [])
    assert journal.states["a"].bridge.delivered == books.delivered
    assert [message.topic for message in producer.sent] == ["agent-state", "agent-state"]
    (line,) = (line for line in logged if line["event"] == "inbox.is_another_log")
    assert (line["partition"], line["remembered"], line["end"]) == (3, 12, 10)


async def test_a_mirrored_inbox_is_another_log(producer: FakeProducer) -> None:
    """States and offsets were copied from another cluster: the ids of their inbox differ from this one's, which is read
    from its beginning, although it is longer; a hand-over there says nothing about here.
    """
    books = Books(inbox_offset=12, inbox_open=[4])
    producer.states, producer.inbox = [AgentState(agent_id="a", stream_id="s", bridge=books)], "there"
    clean = CommitMetadata(clean=True, inbox="there").encode()
    assert await journal_of(13, metadata=clean, inbox="there").recover()
    journal = journal_of(13, metadata=clean, inbox="here")
    assert not await journal.recover()
    assert (journal.offsets.position, journal.states["a"].bridge.inbox_offset) == (0, -1)
    journal = journal_of(0, inbox="here")  # only the states were copied
    await journal.recover()
    assert journal.states["a"].bridge.inbox_open == []


async def test_the_same_log_is_gone_on_with(producer: FakeProducer) -> None:
    """A log that ends right after what is remembered is the one that was read, and nothing is written for it."""
    producer.states = [AgentState(agent_id="a", stream_id="s", bridge=Books(inbox_offset=12, inbox_open=[4]))]
    journal = await recovered(4, None, (0, 13))
    assert journal.offsets.position == 4
    assert journal.states["a"].bridge.inbox_open == [4]
    assert producer.sent == []


def states_written(producer: FakeProducer) -> dict[str, int]:
    """The sequence of each state that was written in the last transaction."""
    found = [decode(one.value, one.headers) for one in producer.sent if one.topic == "agent-state"]
    return {state.agent_id: state.sequence for state in found if isinstance(state, AgentState)}


def topic_of_states(producer: FakeProducer) -> str | None:
    """The id of the topic of the states, as the last transaction remembers it."""
    return CommitMetadata.decode(producer.offset[1]).states


async def test_states_are_written_again_into_a_recreated_topic(producer: FakeProducer) -> None:
    """The same journal goes on: all states are in its next transaction, and from then on the metadata of its commits
    have the new topic's id."""
    producer.states = [AgentState(agent_id=agent, stream_id="s", sequence=4) for agent in "ab"]
    journal = await recovered(states_topic="old")
    assert (states_written(producer), topic_of_states(producer)) == ({}, "old")
    journal.rewrite_states("new")
    assert topic_of_states(producer) == "old"
    await journal.commit()
    assert (states_written(producer), topic_of_states(producer)) == ({"a": 4, "b": 4}, "new")


@pytest.mark.parametrize("committed", [5, None])
async def test_the_next_journal_restores_what_a_recreated_topic_lacks(
    producer: FakeProducer, committed: int | None
) -> None:
    """The commits failed while the topic was missing, and the next journal finds it empty, or with a state that was
    written since: each stream goes on from what was committed last, not from what was only appended; also if the inbox
    was recreated with it, whose deletion has deleted the group's offsets."""
    producer.states = [AgentState(agent_id=agent, stream_id="s", sequence=4) for agent in "ab"]
    journal = await recovered(5, states_topic="old", inbox="i")
    journal.append(said("x"))
    await journal.commit()
    metadata = producer.offset[1]
    journal.append(said("x", "y"))
    producer.error_of_send = TimeoutError()
    with pytest.raises(PartitionLost):
        await journal.commit()
    producer.error_of_send = None
    former = journal.remembered
    producer.states = [AgentState(agent_id="b", stream_id="s", sequence=6)]
    with capture_logs() as logged:
        journal = await recovered(committed, metadata=metadata, states_topic="new", former=former, inbox="i")
    assert {agent: state.sequence for agent, state in journal.states.items()} == {"a": 1, "b": 6}
    assert (states_written(producer), topic_of_states(producer)) == ({"a": 1, "b": 6}, "new")
    assert [(line["event"], line["agents"]) for line in logged] == [("states.rewritten", 2)]


async def test_restored_states_of_another_inbox_are_void(producer: FakeProducer) -> None:
    """States and inbox were recreated: the streams go on, and the new inbox is read from its beginning."""
    books = Books(inbox_offset=12, inbox_open=[4])
    producer.states = [AgentState(agent_id="a", stream_id="s", sequence=4, bridge=books)]
    former = (await recovered(13, states_topic="old", inbox="there")).remembered
    producer.states = []
    journal = await recovered(None, states_topic="new", former=former, inbox="here")
    assert journal.states["a"].sequence == 4
    assert (journal.states["a"].bridge.inbox_offset, journal.offsets.position) == (-1, 0)


async def test_lost_states_are_said_once(producer: FakeProducer) -> None:
    """The owner has died before it wrote the states again: the next one says so, and cannot know which events were
    sent. The one after it has nothing to say."""
    producer.states = [AgentState(agent_id="b", stream_id="s", sequence=6)]
    metadata = CommitMetadata(clean=True, states="old").encode()
    with capture_logs() as logged:
        journal = journal_of(5, metadata=metadata, states_topic="new")
        assert not await journal.recover()
        assert await journal_of(
            5, metadata=CommitMetadata(clean=True, states="new").encode(), states_topic="new"
        ).recover()
    assert [(line["event"], line["log_level"], line["partition"]) for line in logged] == [("states.lost", "error", 3)]
    assert topic_of_states(producer) == "new"
    assert journal.states.keys() == {"b"}


async def test_states_that_were_deleted_are_said_and_restored(producer: FakeProducer) -> None:
    """An administrator deletes records of the topic, or sets another cleanup.policy: who remembers the states writes
    them again; who does not says so, once, and the next owner, who finds the new ones, does not."""
    owner = await recovered(states_topic="1")
    owner.append(said("x"))
    await owner.commit()
    metadata = producer.offset[1]
    producer.states_from = 5
    again = await recovered(5, metadata=metadata, states_topic="1", former=owner.remembered)
    assert again.states == owner.states
    assert [m.key for m in producer.sent if m.topic == "agent-state"] == [b"a"]
    for event in (["states.lost"], []):
        with capture_logs() as logged:
            other = journal_of(5, metadata=metadata, states_topic="1")
            assert await other.recover() is False
        assert [line["event"] for line in logged] == event
        metadata = producer.offset[1]


async def test_a_commit_in_doubt_is_not_gone_on_from(producer: FakeProducer) -> None:
    """Kafka did not answer whether the last transaction with records is committed: going on from the one before it
    might give numbers out twice. Without records it gives none out."""
    journal = await recovered(states_topic="old")
    producer.error = TimeoutError()
    with pytest.raises(PartitionLost):
        await journal.commit(clean=True)
    assert journal.remembered is not None
    journal.append(said("x"))
    with pytest.raises(PartitionLost):
        await journal.commit()
    assert journal.remembered is None


async def test_entries_that_were_deleted_unread_are_counted(producer: FakeProducer) -> None:
    """Entries that retention or an administrator deleted before they were read are counted, and logged with their
    offsets.
    """
    before = METRICS.inbox_deleted._value.get()
    with capture_logs() as logged:
        journal = await recovered(4, None, (9, 13))
    assert journal.offsets.position == 9
    assert METRICS.inbox_deleted._value.get() == before + 5
    (line,) = (line for line in logged if line["event"] == "inbox.deleted_unread")
    assert (line["first"], line["end"]) == (4, 9)


@pytest.mark.parametrize("committed", [None, 0])
async def test_nothing_is_moved_again_when_the_groups_offset_is_lost(
    producer: FakeProducer, committed: int | None
) -> None:
    """The group's offsets have expired, or an administrator has set them back: the inbox is read again, and what was
    read before the last entry that is known as completed had been moved to its partition. An offset that is not ours
    is said."""
    producer.states = [AgentState(agent_id="a", stream_id="s", bridge=Books(inbox_offset=7, inbox_open=[5]))]
    with capture_logs() as logged:
        journal = await recovered(committed)
    assert (journal.offsets.position, journal.metadata.relocated_up_to) == (0, 7)
    assert ("inbox.offset_set" in [line["event"] for line in logged]) is (committed == 0)


async def test_what_another_inbox_remembers_moves_nothing(producer: FakeProducer) -> None:
    """The records of a recreated inbox are moved, although their offsets are below those that the states know."""
    producer.states = [AgentState(agent_id="a", stream_id="s", bridge=Books(inbox_offset=7))]
    metadata = CommitMetadata(inbox="old", relocated_up_to=6).encode()
    journal = await recovered(5, None, (0, 100), metadata=metadata, inbox="new")
    assert journal.metadata.relocated_up_to == -1


@pytest.mark.parametrize("key", [b"\xff\xfe", b"", b"another"])
async def test_no_record_among_the_states_ends_a_recovery(producer: FakeProducer, key: bytes) -> None:
    """A record of another program, whatever its key, is skipped, counted and logged; the agents' states are read."""
    producer.states, producer.foreign = [AgentState(agent_id="a", stream_id="s")], [key]
    counter = METRICS.kafka_errors.labels("state")
    before = counter._value.get()
    with capture_logs() as logged:
        journal = await recovered()
    assert {agent_id: state.stream_id for agent_id, state in journal.states.items()} == {"a": "s"}
    assert [line["agent_id"] for line in logged if line["event"] == "state.unreadable"] == [
        key.decode(errors="backslashreplace")
    ]
    assert counter._value.get() == before + 1


async def test_kafkas_clock_is_known_before_a_time_is_published(producer: FakeProducer) -> None:
    """A process that could not read Kafka's clock when it started, because it lacked a right or another process
    started, reads it when it recovers a partition: its first heartbeat has Kafka's time already.
    """
    kafka = time.time() + 7200
    producer.reading = Reading(kafka, time.monotonic())
    until: list[str] = []

    def heartbeat(observed_until: str) -> PartitionHeartbeat:
        until.append(observed_until)
        return PartitionHeartbeat(
            partition=3, observed_until=observed_until, agents=0, in_session=0, lost=0, instance="bridge-1"
        )

    journal = await recovered()
    await journal.commit(heartbeat=heartbeat)
    assert seconds(until[0]) == pytest.approx(kafka, abs=60)
