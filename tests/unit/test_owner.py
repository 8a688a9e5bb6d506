"""The commits of a process's partitions, and recovery after a failure."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from bridge.backoff import Backoff
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaUnavailableError, RefusedRecordsError, TopicAuthorizationFailedError
from bridge.partitions import owner as module
from bridge.partitions.journal import PartitionLost
from bridge.partitions.owner import Failures, PartitionOwner, Shared, linger


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_steps_are_gathered_no_longer_than_the_commit_interval(delivery: str) -> None:
    """In exactly_once since the first of them; in at_least_once until a time that all partitions share, whenever their
    first steps came, so that the producer they share writes for all in one request."""
    unused: Any = None
    clients = Clients({}, "group", str, exactly_once=delivery == "exactly_once")
    shared = Shared(1, 0.5, 10.0, "host:1", clients, *[unused] * 5)
    now = time.monotonic()
    ends = [now + linger(shared, now - waited, now) for waited in (0.0, 0.2, 0.4)]
    assert all(now - 0.1 <= end <= now + 0.6 for end in ends)
    expected = [0.0, -0.2, -0.4] if delivery == "exactly_once" else [0.0, 0.0, 0.0]
    assert [end - ends[0] for end in ends] == pytest.approx(expected, abs=0.05)


class FakeGroup:
    """A group whose heartbeats arrive at once, except the fourth, which never arrives."""

    def __init__(self) -> None:
        self.heartbeats = 0

    async def next_heartbeat(self) -> None:
        self.heartbeats += 1
        if self.heartbeats > 3:
            await asyncio.Event().wait()


async def test_whatever_fails_the_partition_is_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error ends neither the owner nor its process: the partition is recovered after the next heartbeat,
    and the log has the traceback, once for the same error.
    """

    async def fails(_: PartitionOwner) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")

    monkeypatch.setattr(PartitionOwner, "_own", fails)
    group: Any = FakeGroup()
    unused: Any = None
    with capture_logs() as logged:
        owner = asyncio.ensure_future(PartitionOwner(3, group, unused).run())
        while group.heartbeats < 4:
            assert not owner.done()
            await asyncio.sleep(0)
        owner.cancel()
    assert [line["event"] for line in logged] == ["partition.lost"] * 4
    assert [bool(line["exc_info"]) for line in logged] == [True, False, False, False]


def test_a_cause_that_persists_is_backed_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal up to 30 s, an outage, which ends by itself, up to 5 s; the first time, and another cause, at once; and
    each is new once."""
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    denied = PartitionLost("not authorised to write asm.inject-outcomes")
    denied.__cause__ = TopicAuthorizationFailedError("asm.inject-outcomes")
    failures = Failures()
    recorded = [failures.record(denied, 1.0) for _ in range(8)]
    assert [new for new, _ in recorded] == [True] + 7 * [False]
    assert [delay for _, delay in recorded] == [0, 2, 4, 8, 16, 30, 30, 30]
    outage = [failures.record(TimeoutError(), 1.0) for _ in range(8)]
    assert [outage[0], outage[-1]] == [(True, 0), (False, 5)]
    assert failures.record(TimeoutError(), 3600.0) == (False, 0)


async def test_a_refused_record_makes_the_limits_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A topic may take less than it did at the start: after a refusal its limit is read before the next attempt, so
    that the record is shortened then and its neighbours are written."""
    read = list[object]()

    async def refused(_: PartitionOwner) -> None:
        raise PartitionLost("asm.conversations refuses a record") from RefusedRecordsError()

    async def limits(clients: object) -> None:
        read.append(clients)
        raise KafkaUnavailableError("not now")

    monkeypatch.setattr(PartitionOwner, "_own", refused)
    monkeypatch.setattr(module, "read_limits", limits)
    monkeypatch.setattr(module, "_REFUSED", Backoff(0.0, 0.001))
    group: Any = FakeGroup()
    shared: Any = SimpleNamespace(clients="clients")
    owner = asyncio.ensure_future(PartitionOwner(3, group, shared).run())
    while group.heartbeats < 4:
        assert not owner.done()
        await asyncio.sleep(0)
    owner.cancel()
    assert read == ["clients"] * 3


class FakeJournal:
    """A journal that has read the inbox up to offset 10, and commits nothing."""

    problem: str | None = None
    while_read: Callable[[], object] = staticmethod(lambda: None)
    """What happens while the states are read."""
    unwritten: Mapping[int, object] = MappingProxyType({7: "delivered"})
    oldest_at = 0.0

    def __init__(self, *given: Any, inbox: str | None, states_topic: str | None, former: object, **_: object) -> None:
        self.given, self.inbox = given[-1], inbox
        self.states_topic, self.former = states_topic, former
        self.remembered = object()
        self.held: Mapping[int, object] = {}
        self.offsets = SimpleNamespace(position=10)
        self.wake = asyncio.Event()
        self.commits = self.rewritten = 0
        self.lost = False

    async def recover(self) -> bool:
        self.while_read()
        return True

    async def commit(self, **_: object) -> dict[str, object]:
        self.commits += 1
        if self.lost:
            raise PartitionLost("asm.inject-outcomes refuses every record")
        return {}

    def rewrite_states(self, topic: str | None) -> None:
        self.states_topic = topic
        self.rewritten += 1

    async def close(self) -> None:
        pass


class FakeAgents:
    """No agents: whatever they are asked, the answer is yes."""

    def __init__(self, *_: object) -> None: ...

    def __len__(self) -> int:
        return 0

    def __getattr__(self, _: str) -> Callable[..., bool]:
        return lambda *_: True

    async def events_answered(self) -> None: ...


class Owned:
    """The owner of a partition whose inbox ends at ``end``, its journals, and the ids of the topics."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journals: list[FakeJournal] = []
        self.ids, self.end = {"inject": "1", "agent-state": "1"}, 10
        monkeypatch.setattr(module, "Journal", self._journal)
        monkeypatch.setattr(module, "PartitionAgents", FakeAgents)
        monkeypatch.setattr(module, "_SWEEP", 0.01)
        group: Any = SimpleNamespace(
            next_heartbeat=self._nothing, end_offset=self._end, read_from=lambda *_: None, releases=lambda _: ()
        )
        names = ("clients", "encoder", "registry", "reschedule", "policy")
        parts = {name: SimpleNamespace(clock=None, exactly_once=True) for name in names}
        topics = SimpleNamespace(look=self._nothing, id=self.ids.get)
        given: Any = {"partitions": 8, "commit_interval": 0.0, "heartbeat_interval": 10.0, "instance": "host:1"}
        self.journals_before_clock: list[int] = []
        trials: Any = SimpleNamespace(before_publishing=self._clock_known)
        self.owner = PartitionOwner(3, group, Shared(**given, **parts, topics=topics, clock_trials=trials))

    async def _clock_known(self) -> None:
        self.journals_before_clock.append(len(self.journals))

    def _journal(self, *given: Any, **others: Any) -> FakeJournal:
        self.journals.append(FakeJournal(*given, **others))
        return self.journals[-1]

    async def _nothing(self) -> None: ...

    async def _end(self, _: int) -> int:
        return self.end

    async def two_commits(self, *, journals: int = 1) -> None:
        """Waits until so many journals have been made, and the last of them has been committed twice more."""
        async with asyncio.timeout(10):
            while len(self.journals) < journals:
                await asyncio.sleep(0.001)
            journal, before = self.journals[-1], self.journals[-1].commits
            while journal.commits < before + 2:
                await asyncio.sleep(0.001)


@pytest_asyncio.fixture
async def owned(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Owned]:
    """A partition that has an owner at work."""
    owned = Owned(monkeypatch)
    running = asyncio.ensure_future(owned.owner.run())
    await owned.two_commits()
    yield owned
    running.cancel()
    await asyncio.wait([running])


async def test_kafkas_clock_is_tried_before_a_journal_publishes_a_time(owned: Owned) -> None:
    """In at_least_once each journal begins after Kafka's clock was tried, so that its first heartbeat does not have the
    time of a machine whose clock is wrong."""
    owned.journals[0].lost = True
    await owned.two_commits(journals=2)
    assert owned.journals_before_clock == [0, 1]


async def test_what_a_lost_journal_could_not_write_the_next_one_knows(owned: Owned) -> None:
    """An event that was sent is not sent again after its partition was lost: the next journal is given its outcome."""
    owned.journals[0].lost = True
    await owned.two_commits(journals=2)
    assert [journal.given for journal in owned.journals] == [{}, FakeJournal.unwritten]


async def test_a_recreated_inbox_is_read_by_another_journal(owned: Owned) -> None:
    """The partition of an inbox that gets another id is recovered at once, and remembers that id from then on."""
    owned.ids["inject"] = "2"
    await owned.two_commits(journals=2)
    assert [journal.inbox for journal in owned.journals] == ["1", "2"]


async def test_an_inbox_that_begins_again_is_read_by_another_journal(owned: Owned) -> None:
    """An inbox whose broker has lost its disk keeps its id: an offset that has been read comes again, and the end is
    before what was read. One that comes again for another reason is no cause to recover.
    """
    record: Any = SimpleNamespace(offset=0)
    owned.owner.deliver([record])
    await owned.two_commits()
    assert len(owned.journals) == 1
    owned.end = 1
    owned.owner.deliver([record])
    await owned.two_commits(journals=2)


async def test_recreated_states_are_written_again(owned: Owned) -> None:
    """The topic of the states gets another id: it has lost them, and the journal writes each of them again, once."""
    owned.ids["agent-state"] = "2"
    await owned.two_commits()
    await owned.two_commits()
    assert [journal.rewritten for journal in owned.journals] == [1]


async def test_the_next_journal_knows_what_the_last_one_committed(owned: Owned) -> None:
    """The topic of the states may have lost it."""
    owned.journals[0].lost = True
    await owned.two_commits(journals=2)
    assert [journal.former for journal in owned.journals] == [None, owned.journals[0].remembered]


async def test_a_topic_of_states_that_is_recreated_while_it_is_read_is_read_again(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that has read the states of the new topic, which is empty, watches no agent: it takes them for those of
    the old topic. The next one is given what was committed before."""
    monkeypatch.setattr(FakeJournal, "while_read", lambda _: owned.ids.update({"agent-state": "2"}))
    owned.journals[0].lost = True
    await owned.two_commits(journals=3)
    assert [journal.states_topic for journal in owned.journals] == ["1", "1", "2"]
    assert [journal.former for journal in owned.journals[1:]] == [owned.journals[0].remembered] * 2
    assert owned.journals[1].commits == 0


async def test_an_idle_partition_wakes_up_seldom(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """While no event waits, whose deadline might pass, and no heartbeat is near, the pauses are longer."""
    pauses = list[float]()

    async def fires(_: asyncio.Event, within: float) -> bool:
        pauses.append(within)
        await asyncio.sleep(0.001)
        return False

    monkeypatch.setattr(module, "_IDLE_SWEEP", 1e9)
    monkeypatch.setattr(module, "fires", fires)
    agents: Any = owned.owner.agents
    longest = []
    for waiting, next_heartbeat in ((True, float("inf")), (False, time.monotonic() + 10), (False, float("inf"))):
        agents.waiting, owned.owner._next_heartbeat = waiting, next_heartbeat
        await owned.two_commits()
        pauses.clear()
        await owned.two_commits()
        longest.append(max(pauses))
    assert [pause > module._SWEEP for pause in longest] == [False, False, True]


async def test_an_owner_begins_with_the_memory_of_the_one_before(owned: Owned) -> None:
    """Its first journal knows what was committed; after that, what it has committed itself is remembered."""
    memory: Any = object()
    owner = PartitionOwner(3, owned.owner._group, owned.owner._shared, remembered=memory)
    assert owner.remembered is memory
    running = asyncio.ensure_future(owner.run())
    await owned.two_commits(journals=2)
    assert owned.journals[1].former is memory
    assert owner.remembered is owned.journals[1].remembered
    running.cancel()
    await asyncio.wait([running])
