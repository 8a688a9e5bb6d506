"""Says why this process is not ready."""

import asyncio
import time

import structlog

from bridge.kafka.connection import unreachable
from bridge.kafka.preflight import Preflight
from bridge.kafka.topic_watch import TopicWatch
from bridge.partitions.assignment import Assignment
from bridge.registry.follower import RegistryFollower

log = structlog.get_logger()

STANDING_BY = "standing by: owns no partition, because there are more processes than partitions"
_GIVEN_UP_AFTER = 300.0
"""Seconds without a confirmed membership after which the process is not alive any more: a restart may help."""


class Readiness:
    def __init__(
        self, preflight: Preflight, follower: RegistryFollower, assignment: Assignment, topics: TopicWatch
    ) -> None:
        self._topics = topics
        self._preflight = preflight
        self._follower = follower
        self._assignment = assignment
        self._began = time.monotonic()

    def reason(self) -> str | None:
        """Why this process is not ready, or None."""
        if self._preflight.waiting_for is not None:
            return self._preflight.waiting_for
        if unusable := self._topics.problems():
            return "; ".join(unusable)
        if not self._follower.whole.is_set():
            why = f": {self._follower.problem}" if self._follower.problem else ""
            return f"the registry has not been read yet{why}"
        member, owners = self._assignment.member, self._assignment.owners
        if member is None or not member.is_member:
            problem = (member.problem if member else None) or self._assignment.problem or unreachable()
            waits = "not in the consumer group yet, or a rebalance is in progress"
            return f"not in the consumer group: {problem}" if problem else waits
        if not member.is_current():
            problem = member.problem or unreachable()
            return f"Kafka has not answered a heartbeat within the session time-out{f': {problem}' if problem else ''}"
        waiting = sorted(number for number, owner in owners.items() if not owner.ready)
        if not waiting:
            unread = [("registry", self._follower.problem), ("inbox", member.problem)]
            reasons = [f"the {name} cannot be read: {problem}" for name, problem in unread if problem]
            reasons += [self._follower.emptied] if self._follower.emptied else []
            return "; ".join([*reasons, *self._follower.stable.reasons(), *member.stable.reasons()]) or None
        problems: dict[str, list[int]] = {}
        for number in waiting:
            if (problem := owners[number].problem) is not None:
                problems.setdefault(problem, []).append(number)
        if not problems:
            problem = member.problem or unreachable()
            return f"partitions are recovering, or cannot commit: {waiting}{f', {problem}' if problem else ''}"
        return "; ".join(f"{_named(numbers)} cannot commit: {problem}" for problem, numbers in problems.items())

    def given_up(self) -> str | None:
        """Why this process should be restarted, or None: it has not been a confirmed member of its group for minutes,
        which is what it tries to be from its start on."""
        silent = time.monotonic() - max(self._began, self._assignment.confirmed_at)
        return f"no success for {silent:.0f} s: {self.reason()}" if silent > _GIVEN_UP_AFTER else None

    def standing_by(self) -> bool:
        """Whether this process is ready to take over, and owns nothing: there are more processes than partitions."""
        return self.reason() is None and not self._assignment.owners

    async def log_changes(self) -> None:
        """Logs each change until cancelled."""
        logged: str | None = ""
        while True:
            reason = self.reason() or (STANDING_BY if self.standing_by() else None)
            if reason != logged:
                if reason is None or reason == STANDING_BY:
                    log.info("run.ready", **({"note": reason} if reason else {}))
                else:  # a process that has just started is expected not to be ready
                    (log.warning if logged is None else log.info)("run.not_ready", reason=reason)
                logged = reason
            await asyncio.sleep(1)


def _named(partitions: list[int]) -> str:
    return f"partition {partitions[0]}" if len(partitions) == 1 else f"partitions {partitions}"
