"""The commits of a process's partitions, and recovery after a failure."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
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


async def test_what_a_lost_journal_could_not_write_the_next_one_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that was sent is not sent again after its partition was lost: the next journal is given its outcome."""
    held = list[object]()

    class LostJournal:
        problem = None
        unwritten = {7: "delivered"}

        def __init__(self, *given: object, **_: object) -> None:
            held.append(given[-1])

        async def recover(self) -> bool:
            raise PartitionLost("asm.inject-outcomes refuses every record")

        async def close(self) -> None:
            pass

    monkeypatch.setattr(module, "Journal", LostJournal)
    monkeypatch.setattr(module, "_OUTAGE", Backoff(0.0, 0.001))
    group: Any = FakeGroup()
    unused: Any = None
    shared: Any = SimpleNamespace(
        partitions=8, topics=None, clients=unused, encoder=unused, policy=SimpleNamespace(clock=unused)
    )
    owner = asyncio.ensure_future(PartitionOwner(3, group, shared).run())
    while group.heartbeats < 4:
        assert not owner.done()
        await asyncio.sleep(0)
    owner.cancel()
    assert held == [{}, *[LostJournal.unwritten] * 3]
