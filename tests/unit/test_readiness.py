"""The reasons that a process gives while it is not ready."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from bridge.kafka.stable_offsets import StableOffsets
from bridge.ops import readiness
from bridge.ops.readiness import Readiness
from bridge.telemetry.metrics import METRICS


class Parts:
    """The parts that readiness checks, all of them healthy."""

    def __init__(self) -> None:
        self.preflight = SimpleNamespace(waiting_for=None)
        self.follower = SimpleNamespace(
            whole=SimpleNamespace(is_set=lambda: True), stable=StableOffsets(), problem=None, emptied=None
        )
        self.member = SimpleNamespace(is_member=True, is_current=lambda: True, stable=StableOffsets(), problem=None)
        self.topics = SimpleNamespace(problems=list)
        self.assignment = SimpleNamespace(
            member=self.member, owners={0: SimpleNamespace(ready=True)}, problem=None, confirmed_at=time.monotonic()
        )

    def readiness(self) -> Readiness:
        parts: Any = self.preflight, self.follower, self.assignment, self.topics
        return Readiness(*parts)

    def reason(self) -> str | None:
        return self.readiness().reason()


def test_a_process_that_works_is_ready() -> None:
    """A member of the group whose partitions can commit is ready."""
    assert Parts().reason() is None


def test_each_step_of_the_start_has_a_reason() -> None:
    """The reason names the first step of the start that is not done."""
    parts = Parts()
    parts.assignment.owners = {
        2: SimpleNamespace(ready=False, problem=None),
        1: SimpleNamespace(ready=False, problem=None),
        0: parts.assignment,
    }
    parts.assignment.ready = True
    assert parts.reason() == "partitions are recovering, or cannot commit: [1, 2]"
    parts.assignment.owners = {}
    assert parts.reason() is None
    parts.member.is_current = lambda: False
    assert parts.reason() == "Kafka has not answered a heartbeat within the session time-out"
    parts.member.is_member = False
    assert parts.reason() == "not in the consumer group yet, or a rebalance is in progress"
    parts.assignment.member = None
    assert parts.reason() == "not in the consumer group yet, or a rebalance is in progress"
    parts.follower.whole.is_set = lambda: False
    assert parts.reason() == "the registry has not been read yet"
    parts.preflight.waiting_for = "Kafka cannot be reached"
    assert parts.reason() == "Kafka cannot be reached"


def test_the_broker_that_cannot_be_reached_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first seconds of an outage nothing has failed yet but connections: each reason that knows no other cause
    names the broker."""
    gone = "no connection to Kafka at 127.0.0.1:9092 (connection refused)"
    monkeypatch.setattr(readiness, "unreachable", lambda: gone)
    parts = Parts()
    assert parts.reason() is None
    parts.assignment.owners = {1: SimpleNamespace(ready=False, problem=None)}
    assert parts.reason() == f"partitions are recovering, or cannot commit: [1], {gone}"
    parts.member.is_current = lambda: False
    assert parts.reason() == f"Kafka has not answered a heartbeat within the session time-out: {gone}"
    parts.member.is_member = False
    assert parts.reason() == f"not in the consumer group: {gone}"


def test_a_process_without_partitions_stands_by() -> None:
    """A process beyond the number of partitions is ready, or a rolling update would wait for it for ever, and says
    that it stands by; one that is not ready does not.
    """
    parts = Parts()
    assert not parts.readiness().standing_by()
    parts.assignment.owners = {}
    assert parts.readiness().standing_by()
    parts.member.is_member = False
    assert not parts.readiness().standing_by()


def test_the_cause_of_a_lost_partition_is_the_reason() -> None:
    """Partitions with one cause are named together; one that is only recovering does not hide it."""
    parts = Parts()
    denied = "not authorised to write asm.inject-outcomes"
    parts.assignment.owners = {
        3: SimpleNamespace(ready=False, problem=denied),
        0: SimpleNamespace(ready=True, problem="what was"),
    }
    assert parts.reason() == f"partition 3 cannot commit: {denied}"
    parts.assignment.owners[1] = SimpleNamespace(ready=False, problem=denied)
    parts.assignment.owners[2] = SimpleNamespace(ready=False, problem=None)
    assert parts.reason() == f"partitions [1, 3] cannot commit: {denied}"


def test_an_open_transaction_is_a_reason_once_it_lasts() -> None:
    """A last stable offset that stays where it is for 30 s, with records behind it: the reason and the metric name the
    partition; one that moves, or that is behind for a moment, is how transactions are."""
    parts, inbox, other = Parts(), TopicPartition("asm.inject", 3), TopicPartition("asm.inject", 4)
    stable, now = parts.member.stable, time.monotonic()
    with capture_logs() as logged:
        for second in range(41):
            stable.record({inbox: (7, 9), other: (second, second + 1)}, now + second)
            assert (parts.reason() is None) == (second < 30)
    reason = parts.reason() or ""
    assert reason.startswith("asm.inject/3 cannot be read beyond offset 7 since 20")
    assert "asm.inject/4" not in reason
    assert [line["event"] for line in logged] == ["transaction.open"]
    metric = 'asm_bridge_stable_offset_behind_seconds{partition="3",topic="asm.inject"}'
    assert f"{metric} 40.0" in generate_latest(METRICS.registry).decode()
    stable.record({inbox: (9, 9), other: (9, 10)}, now + 41)
    assert parts.reason() is None
    registry = TopicPartition("asm.sessions", 0)
    for second in (0, 31):
        parts.follower.stable.record({registry: (4, 5)}, now + second)
    assert (parts.reason() or "").startswith("asm.sessions/0 cannot be read beyond offset 4 since 20")
    parts.follower.stable.clear()
    assert metric not in generate_latest(METRICS.registry).decode()


def test_a_topic_that_is_missing_is_the_reason() -> None:
    """It is named with what to do, whatever fails because of it."""
    parts = Parts()
    parts.topics.problems = lambda: ["asm.inject does not exist: run `asm-bridge topics create`"]
    parts.member.is_member = False
    assert parts.reason() == "asm.inject does not exist: run `asm-bridge topics create`"


def test_the_reason_says_why_the_registry_cannot_be_read() -> None:
    """An open transaction in the registry is not an unreachable Kafka."""
    parts = Parts()
    parts.follower.whole.is_set = lambda: False
    parts.follower.problem = "asm.sessions/0 cannot be read beyond offset 4"
    assert parts.reason() == "the registry has not been read yet: asm.sessions/0 cannot be read beyond offset 4"


def test_the_reason_says_why_the_group_cannot_be_joined_and_what_cannot_be_read() -> None:
    """A right that was taken away is named: of the group, the inbox and the registry."""
    parts = Parts()
    parts.member.problem = "not authorised to read asm.inject"
    parts.follower.problem = "not authorised to read asm.sessions"
    reason = parts.reason() or ""
    assert "the registry cannot be read: not authorised to read asm.sessions" in reason
    assert "the inbox cannot be read: not authorised to read asm.inject" in reason
    parts.member.is_current = lambda: False
    assert "not authorised to read asm.inject" in (parts.reason() or "")
    parts.member.problem = None
    parts.member.is_member = False
    parts.assignment.problem = "not authorised to use the group asm-bridge"
    assert parts.reason() == "not in the consumer group: not authorised to use the group asm-bridge"


def test_a_process_without_a_membership_for_minutes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After five minutes without a confirmed membership /healthz fails with the reason; one that is confirmed lives."""
    parts, now = Parts(), time.monotonic()
    readiness = parts.readiness()
    parts.assignment.confirmed_at = float("-inf")
    parts.preflight.waiting_for = "Kafka cannot be reached"
    monkeypatch.setattr("bridge.ops.readiness.time.monotonic", lambda: now + 299)
    assert readiness.given_up() is None
    monkeypatch.setattr("bridge.ops.readiness.time.monotonic", lambda: now + 301)
    assert readiness.given_up() == "no success for 301 s: Kafka cannot be reached"
    parts.assignment.confirmed_at = now + 290
    assert readiness.given_up() is None
