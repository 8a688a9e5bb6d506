"""Whether an agent can be polled, how long it waits after a failure, and when it counts as lost: pure."""

import random
from dataclasses import dataclass

from asm_bridge_schemas.records import AgentObservationLost, AgentObservationResumed, Loss
from asm_bridge_schemas.statuses import status_group
from bridge.agents.step import Step
from bridge.asm.errors import AsmError, Unauthorized
from bridge.backoff import Backoff
from bridge.clock import Instant, rfc3339

BRIDGE_DOWN = "bridge_down"
"""The reason for an agent's loss when only the bridge was down."""
UNAUTHORIZED_RETRY = 60.0
QUICK_TRIES = (0.3, 0.6, 1.2, 2.4, 4.8)
"""Seconds to wait after each refusal of a token that worked before: the service may be wrong for a moment."""
_LOST_AFTER = 5.0
_LOST_AFTER_INTERVALS = 3


@dataclass(frozen=True, slots=True)
class Unpollable:
    """Why an agent must not be polled, by its registry entry: ``reason`` is the word that is published."""

    reason: str
    text: str

    def __str__(self) -> str:
        return self.text


class Health:
    """``answered``: when the last good answer came, or watching began. ``problem``: why the last poll failed.

    ``not_before``: no request before this time (monotonic seconds), unless the token changes or an outage is over.
    """

    __slots__ = (
        "_failed_at", "_failures", "_good_token", "_quick_tries", "_refused_token", "answered", "backoff", "not_before",
        "problem",
    )  # fmt: skip

    def __init__(self, backoff: Backoff, at: Instant) -> None:
        self.answered = at
        self.not_before = 0.0
        self.problem: AsmError | Unpollable | None = None
        self.backoff = backoff
        self._failures = 0
        self._failed_at = 0.0
        self._refused_token: str | None = None
        self._good_token: str | None = None
        self._quick_tries = 0

    def may_poll(self, token: str, at: Instant, outage_ended: float = float("-inf")) -> bool:
        """Whether it is time: not while backing off, and not with a token that was refused within the last minute.

        ``outage_ended`` (monotonic seconds): back-offs that began before that time are void.
        """
        now = at.monotonic
        return now >= self.not_before or now >= self.ready_at(outage_ended) or self.has_another(token)

    def ready_at(self, outage_ended: float) -> float:
        """When the agent's waiting time is over (monotonic seconds)."""
        return self.not_before if self._failed_at >= outage_ended else 0.0

    def has_another(self, token: str) -> bool:
        """Whether the last token was refused and this one is different."""
        return self._refused_token is not None and token != self._refused_token

    def forget_token(self) -> None:
        """Forgets a refusal, because the registry names another token."""
        self._refused_token, self.not_before = None, 0.0

    def record_success(self, token: str, at: Instant) -> None:
        self._failures, self.answered, self.problem, self.not_before = 0, at, None, 0.0
        self._refused_token, self._good_token, self._quick_tries = None, token, 0

    def record_failure(self, error: AsmError, token: str, at: Instant) -> None:
        self.problem = error
        self._failed_at = at.monotonic
        self._refused_token = token if isinstance(error, Unauthorized) else None
        self.not_before = at.monotonic + self._wait(error, token)
        self._failures += 1

    def resume(self, step: Step, status_desc: str | None) -> None:
        """The service answered: an agent that was lost is observed again, with this status (None without a session)."""
        if (lost := step.state.lost) is not None:
            group = None if status_desc is None else status_group(status_desc)
            step.emit(
                AgentObservationResumed,
                reason=lost.reason,
                since=lost.since,
                status_desc=status_desc,
                status_group=group,
            )
            step.set(lost=None)

    def check_lost(self, step: Step, interval: float, at: Instant, reason: str | None = None) -> None:
        """Reports the agent as lost if it has had no answer for longer than three intervals and 5 s, for this reason or
        because of its problem."""
        silence = at.monotonic - self.answered.monotonic
        longest = max(_LOST_AFTER, _LOST_AFTER_INTERVALS * interval)
        reason = reason or (self.problem.reason if self.problem else None)
        if step.state.lost is None and reason is not None and silence > longest:
            loss = Loss(reason=reason, since=rfc3339(self.answered.wall))
            step.emit(AgentObservationLost, reason=loss.reason, since=loss.since)
            step.set(lost=loss)
            step.book(status_interrupted=step.state.status is not None)

    def _wait(self, error: AsmError, token: str) -> float:
        """Seconds to wait: the longer of the back-off and the service's Retry-After."""
        if not isinstance(error, Unauthorized):
            return max(self.backoff.delay(self._failures), error.retry_after or 0.0)
        if token == self._good_token and self._quick_tries < len(QUICK_TRIES):
            self._quick_tries += 1
            return QUICK_TRIES[self._quick_tries - 1] * random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        return UNAUTHORIZED_RETRY
