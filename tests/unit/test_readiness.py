"""The reasons that a process gives while it is not ready."""

from types import SimpleNamespace
from typing import Any

from bridge.ops.readiness import Readiness


class Parts:
    """The parts that readiness checks, all of them healthy."""

    def __init__(self) -> None:
        self.preflight = SimpleNamespace(waiting_for=None)
        self.follower = SimpleNamespace(whole=SimpleNamespace(is_set=lambda: True))
        self.member = SimpleNamespace(is_member=True, is_current=lambda: True)
        self.assignment = SimpleNamespace(member=self.member, owners={0: SimpleNamespace(ready=True)})

    def reason(self) -> str | None:
        parts: Any = self.preflight, self.follower, self.assignment
        return Readiness(*parts).reason()


def test_a_process_that_works_is_ready() -> None:
    """A member of the group whose partitions can commit is ready."""
    assert Parts().reason() is None


def test_each_step_of_the_start_has_a_reason() -> None:
    """The reason names the first step of the start that is not done."""
    parts = Parts()
    parts.assignment.owners = {2: SimpleNamespace(ready=False), 1: SimpleNamespace(ready=False), 0: parts.assignment}
    parts.assignment.ready = True
    assert parts.reason() == "partitions are recovering, or cannot commit: [1, 2]"
    parts.assignment.owners = {}
    assert parts.reason() == "owns no partition: there are more processes than partitions"
    parts.member.is_current = lambda: False
    assert parts.reason() == "Kafka has not answered a heartbeat within the session time-out"
    parts.member.is_member = False
    assert parts.reason() == "not in the consumer group yet, or a rebalance is in progress"
    parts.assignment.member = None
    assert parts.reason() == "not in the consumer group yet, or a rebalance is in progress"
    parts.follower.whole.is_set = lambda: False
    assert parts.reason() == "the registry has not been read yet: is Kafka reachable?"
    parts.preflight.waiting_for = "Kafka cannot be reached"
    assert parts.reason() == "Kafka cannot be reached"
