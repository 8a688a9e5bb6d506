"""Whether an agent can be polled, how long it waits after a failure, and when it counts as lost: pure."""

from dataclasses import dataclass

from asm_bridge_schemas.records import AgentObservationLost, AgentObservationResumed, Loss
from asm_bridge_schemas.statuses import status_group
from bridge.agents.step import Step
from bridge.asm.errors import AsmError, Throttled, Unauthorized
from bridge.backoff import Backoff
from bridge.clock import Instant, rfc3339

BRIDGE_DOWN = "bridge_down"
"""The reason of an agent's loss that nothing but the bridge was away."""
UNAUTHORIZED_RETRY = 60.0
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
    """``answered``: when the last good answer came, or watching began. ``problem``: why there is none now.

    ``not_before``: no request before this time (monotonic seconds), unless the token changes.
    """

    __slots__ = ("_backoff", "_failures", "_refused_token", "answered", "not_before", "problem")

    def __init__(self, backoff: Backoff, at: Instant) -> None:
        self.answered = at
        self.not_before = 0.0
        self.problem: AsmError | Unpollable | None = None
        self._backoff = backoff
        self._failures = 0
        self._refused_token: str | None = None

    def may_poll(self, token: str, at: Instant) -> bool:
        """Whether it is time: not while backing off, and not with a token that was refused within the last minute."""
        changed = self._refused_token is not None and token != self._refused_token
        return changed or at.monotonic >= self.not_before

    def forget_token(self) -> None:
        """The registry names another token: it is not known to be bad."""
        self._refused_token, self.not_before = None, 0.0

    def record_success(self, at: Instant) -> None:
        self._failures, self.answered, self.problem, self.not_before = 0, at, None, 0.0
        self._refused_token = None

    def record_failure(self, error: AsmError, token: str, at: Instant) -> None:
        self.problem = error
        self.not_before = at.monotonic + self._wait(error)
        self._failures += 1
        self._refused_token = token if isinstance(error, Unauthorized) else None

    def resume(self, step: Step, status_desc: str | None) -> None:
        """The agent was answered: it is observed again, if it was lost, with this status (None without a session)."""
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
        """Report the agent as lost that has had no answer for longer than three intervals and 5 s, for this reason or
        for its problem."""
        silence = at.monotonic - self.answered.monotonic
        longest = max(_LOST_AFTER, _LOST_AFTER_INTERVALS * interval)
        reason = reason or (self.problem.reason if self.problem else None)
        if step.state.lost is None and reason is not None and silence > longest:
            loss = Loss(reason=reason, since=rfc3339(self.answered.wall))
            step.emit(AgentObservationLost, reason=loss.reason, since=loss.since)
            step.set(lost=loss)
            step.book(status_interrupted=step.state.status is not None)

    def _wait(self, error: AsmError) -> float:
        if isinstance(error, Unauthorized):
            return UNAUTHORIZED_RETRY
        if isinstance(error, Throttled) and error.retry_after is not None:
            return error.retry_after
        return self._backoff.delay(self._failures)
