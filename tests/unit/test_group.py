"""When a member of the consumer group gives way to a new one."""

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.kafka import internals
from bridge.kafka.errors import (
    AuthenticationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from bridge.kafka.group import ConsumerGroupMember


class FakeConsumer:
    """``failure``: what the next fetches raise; ``heartbeats``: aiokafka's task, which nothing restarts."""

    def __init__(self) -> None:
        self.failure: Exception | None = None
        self.partitions: set[int] | None = {0}
        self._client = SimpleNamespace(_bootstrap_servers="k:1", _sasl_oauth_token_provider=None)
        running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.heartbeats: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coordinator = SimpleNamespace(_coordination_task=running, _heartbeat_task=self.heartbeats)

    async def getmany(self, timeout_ms: int) -> dict[Any, Any]:
        await asyncio.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        return {}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return self.partitions

    def assignment(self) -> set[Any]:
        return set()

    async def stop(self) -> None:
        pass


def member_of(consumer: FakeConsumer, session_timeout: float = 10.0) -> ConsumerGroupMember:
    clients: Any = SimpleNamespace(
        topic=str,
        session_timeout=session_timeout,
        group_instance_id="bridge-1",
        connection={"bootstrap_servers": "k:1"},
        group_consumer=lambda: consumer,
    )
    nothing: Any = None
    return ConsumerGroupMember(clients, nothing, nothing, nothing)


async def test_a_membership_whose_heartbeats_have_ended_is_over() -> None:
    """aiokafka ends its heartbeats for good when the right to the group is taken away, and fetches on: the member ends
    with that error, and another one takes its place.
    """
    consumer = FakeConsumer()
    member = member_of(consumer)
    consumer.failure = GroupAuthorizationFailedError("g")
    consumer.heartbeats.set_exception(consumer.failure)
    with pytest.raises(GroupAuthorizationFailedError):
        await asyncio.wait_for(member.run(), 5)


async def test_a_membership_that_is_not_confirmed_is_over() -> None:
    """After three session time-outs without an answered heartbeat the member ends; each answer begins a new count."""
    member = member_of(FakeConsumer(), session_timeout=0.1)
    running = asyncio.create_task(member.run())
    for _ in range(5):
        await member._confirm(asyncio.get_running_loop().time())
        await asyncio.sleep(0.1)
    assert not running.done()
    with pytest.raises(KafkaError, match="no heartbeat was answered"):
        await asyncio.wait_for(running, 5)


async def test_the_reason_why_the_inbox_cannot_be_read_is_kept_while_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A right to the inbox that was taken away is the member's problem until a fetch succeeds, and costs no membership
    while the inbox can be seen.
    """
    monkeypatch.setattr("bridge.kafka.group._UNSEEN", 0.1)
    consumer = FakeConsumer()
    member = member_of(consumer)
    consumer.failure = TopicAuthorizationFailedError("asm.inject")
    running = asyncio.create_task(member.run())
    await until(lambda: member.problem == "not authorised to read asm.inject")
    await asyncio.sleep(1.2)
    assert not running.done()
    consumer.failure = None
    await until(lambda: member.problem is None)
    running.cancel()


async def test_no_record_ends_a_membership() -> None:
    """Where aiokafka fails to decode what it has fetched, with an error that is not one of Kafka's, that is the
    member's problem, and it reads on.
    """
    consumer = FakeConsumer()
    member = member_of(consumer)
    consumer.failure = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid")
    running = asyncio.create_task(member.run())
    await until(lambda: "UnicodeDecodeError" in (member.problem or ""))
    consumer.failure = None
    await until(lambda: member.problem is None)
    assert not running.done()
    running.cancel()


async def test_a_refused_login_is_the_problem_while_the_consumer_waits() -> None:
    """aiokafka's consumer retries silently when its login is refused, so the member takes the reason from there."""
    consumer = FakeConsumer()
    login = consumer._client._sasl_oauth_token_provider = SimpleNamespace(
        failure=AuthenticationFailedError("no such user")
    )
    member = member_of(consumer)
    running = asyncio.create_task(member.run())
    await until(lambda: "refused the login (no such user)" in (member.problem or ""))
    login.failure = None
    await until(lambda: member.problem is None)
    running.cancel()


@pytest.mark.parametrize("failure", [ConnectionRefusedError(), TimeoutError(), socket.gaierror()])
async def test_a_broker_that_is_down_is_no_problem_while_others_answer(failure: Exception) -> None:
    """If one of several brokers is down, the process stays ready, because the consumer reads from the others."""
    consumer = FakeConsumer()
    consumer._client._sasl_oauth_token_provider = SimpleNamespace(failure=failure)
    member = member_of(consumer)
    running = asyncio.create_task(member.run())
    await asyncio.sleep(0.1)
    assert (member.problem, running.done()) == (None, False)
    running.cancel()


async def test_an_inbox_that_is_not_seen_any_more_is_a_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to describe the inbox, or once it is deleted, the group assigns nothing, which must not look
    like standing by; aiokafka looks again in minutes only, so that a new member is made.
    """
    quick = SimpleNamespace(monotonic=lambda: 20 * time.monotonic())
    monkeypatch.setattr("bridge.kafka.group.time", quick)
    consumer = FakeConsumer()
    member = member_of(consumer, session_timeout=1000)
    member.is_member = True
    running = asyncio.create_task(member.run())
    await asyncio.sleep(0.3)
    assert (member.problem, running.done()) == (None, False)
    consumer.partitions = None
    await until(lambda: member.problem == "inject does not exist, or this client is not authorised to describe it")
    with pytest.raises(KafkaError, match="not authorised to describe"):
        await asyncio.wait_for(running, 5)


async def until(holds: Any) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_member_joins_again_when_the_inbox_has_changed() -> None:
    """Kafka shares the partitions again only when the member that leads the group asks for it, and a static member
    that has started again does not know that it leads: each member asks, once it is not joining already.
    """
    consumer: Any = FakeConsumer()
    asked: list[bool] = []
    consumer._client.force_metadata_update = lambda: None
    consumer._coordinator.request_rejoin = lambda: asked.append(True)
    member = member_of(consumer)
    member.rejoin()
    running = asyncio.create_task(member.run())
    await asyncio.sleep(0.1)
    assert not asked
    member.is_member = True
    await until(lambda: bool(asked))
    await asyncio.sleep(0.1)
    assert asked == [True]
    running.cancel()


async def test_a_static_member_that_was_replaced_says_that_it_has_a_twin() -> None:
    """Two processes with one kafka.group_instance_id take the membership from each other in turn: each names the
    setting. A process whose session ended, because it was paused for too long, has none."""
    consumer: Any = FakeConsumer()
    coordinator = consumer._coordinator
    coordinator.member_id, coordinator._rejoin_needed_fut = "a", asyncio.get_running_loop().create_future()
    answered = True

    async def heartbeat() -> bool:
        if not answered:
            coordinator.member_id = ""
        return answered

    coordinator._do_heartbeat = heartbeat
    member = member_of(consumer)
    internals.on_heartbeat(consumer, member._confirm, member._unknown)
    running = asyncio.create_task(member.run())
    answered = False
    await coordinator._do_heartbeat()
    await asyncio.sleep(0.1)
    assert member.problem is None
    answered = True
    await coordinator._do_heartbeat()
    answered = False
    await coordinator._do_heartbeat()
    twin = "another process has the same kafka.group_instance_id (bridge-1): give each process its own"
    await until(lambda: member.problem == twin)
    running.cancel()
