"""Which partitions a process owns, with a group and owners that only record their calls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.kafka.errors import GroupAuthorizationFailedError
from bridge.partitions import assignment as module
from bridge.partitions.assignment import Assignment


class FakeOwner:
    """Quiesces at once, and can be resumed."""

    def __init__(self, partition: int, *given: Any) -> None:
        self.partition = partition
        self.held: dict[int, object] = given[-3]
        self.remembered: object = given[-1]
        self.agents = None
        self.delivered: list[object] = []
        self.suspended = self.ended = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    async def suspend(self) -> None:
        self.suspended = True

    def resume(self) -> bool:
        resumed, self.suspended = self.suspended, False
        return resumed

    def deliver(self, messages: list[object]) -> None:
        self.delivered += messages


class FakeMember:
    """A membership that lasts until it is stopped or fails."""

    def __init__(self, clients: object, revoke: Any, assign: Any, deliver: Callable[[int, list[object]], None]) -> None:
        self.revoke, self.assign, self.deliver = revoke, assign, deliver
        self.confirmed_at = 1.0
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        pass

    async def run(self) -> None:
        await self.end

    async def stop(self) -> None:
        if not self.end.done():
            self.end.set_result(None)


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Assignment, Any, asyncio.Task[None]]]:
    """An assignment that has joined, its member, and the task that runs it."""
    monkeypatch.setattr(module, "ConsumerGroupMember", FakeMember)
    monkeypatch.setattr(module, "PartitionOwner", FakeOwner)
    shared: Any = SimpleNamespace(clients=SimpleNamespace(session_timeout=10.0, group_id="g"), partitions=8)
    assignment = Assignment(shared)
    task = asyncio.create_task(assignment.run())
    await asyncio.sleep(0)
    try:
        yield assignment, assignment.member, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_kept_partitions_go_on_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebalance that no other member can have used keeps the owners of the remaining partitions and ends those of the
    others.
    """
    async with running(monkeypatch) as (assignment, member, _):
        member.assign({0, 1}, False)
        stays, goes = assignment.owners[0], assignment.owners[1]
        await asyncio.sleep(0)
        await member.revoke()
        member.assign({0, 2}, True)
        await asyncio.sleep(0)
        assert assignment.owners.keys() == {0, 2}
        assert assignment.owners[0] is stays
        assert (stays.ended, goes.ended) == (False, True)  # type: ignore[attr-defined]


async def test_partitions_that_another_member_may_have_had_are_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    """After any other rebalance even a partition that stays gets a new owner, which reads it from Kafka. What was sent
    and not written is still known then."""
    async with running(monkeypatch) as (assignment, member, _):
        member.assign({0}, False)
        first = assignment.owners[0]
        await member.revoke()
        first.held = {7: "sent"}  # type: ignore[misc, dict-item]
        member.assign({0}, False)
        assert assignment.owners[0] is not first
        assert dict[Any, Any](assignment.owners[0].held) == {7: "sent"}


@pytest.mark.parametrize("kept", [True, False])
async def test_a_new_owner_knows_what_the_last_one_committed(monkeypatch: pytest.MonkeyPatch, *, kept: bool) -> None:
    """An owner that cannot go on, because it is recovering, leaves its memory to the next one here: the topic of the
    states may have lost it. Unless another member may have owned the partition in between."""
    async with running(monkeypatch) as (assignment, member, _):
        member.assign({0}, False)
        first = assignment.owners[0]
        assert first.remembered is None
        first.remembered = "memory"  # type: ignore[misc, assignment]
        member.assign({0}, kept)  # it has not quiesced
        assert assignment.owners[0] is not first
        assert (assignment.owners[0].remembered is not None) is kept


async def test_records_go_to_the_owner_of_their_partition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of a partition that is no longer owned are dropped, since its next owner reads them."""
    async with running(monkeypatch) as (assignment, member, _):
        member.assign({3}, False)
        member.deliver(3, ["a"])
        member.deliver(4, ["b"])
        assert assignment.owners[3].delivered == ["a"]  # type: ignore[attr-defined]


async def test_a_drained_process_owns_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draining hands every partition over and leaves the group; an assignment that arrives later is ignored."""
    async with running(monkeypatch) as (assignment, member, task):
        member.assign({0, 1}, False)
        owners: list[Any] = list(assignment.owners.values())
        await asyncio.sleep(0)
        await assignment.drain(5)
        member.assign({0}, False)
        await asyncio.wait_for(task, 1)
        assert all(owner.suspended and owner.ended for owner in owners)
        assert not assignment.owners


async def test_a_member_that_kafka_excludes_joins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the membership ends with an error, every owner ends, and another membership begins; what was sent and not
    written is still known then, and the reason is kept.
    """
    async with running(monkeypatch) as (assignment, member, task):
        member.assign({0}, False)
        (owner,) = assignment.owners.values()
        owner.held = {7: "sent"}  # type: ignore[misc, dict-item]
        member.end.set_exception(GroupAuthorizationFailedError("g"))
        async with asyncio.timeout(5):
            while assignment.member is member:
                await asyncio.sleep(0.05)
        assert owner.ended  # type: ignore[attr-defined]
        assert not assignment.owners
        assert not task.done()
        assert assignment.problem == "not authorised to use the group g"
        assert assignment.confirmed_at == 1.0
        second: Any = assignment.member
        second.assign({0}, False)
        assert dict[Any, Any](assignment.owners[0].held) == {7: "sent"}


async def test_whatever_ends_a_membership_another_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error ends no process: the log has its stack, and the process joins again."""
    with capture_logs() as logged:
        async with running(monkeypatch) as (assignment, member, task):
            member.end.set_exception(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"))
            async with asyncio.timeout(5):
                while assignment.member is member:
                    await asyncio.sleep(0.05)
            assert not task.done()
    (line,) = logged
    assert (line["event"], line["exc_info"]) == ("group.left", line["error"])
