"""When the service is down, or throttles or refuses every agent, one agent probes it; the others follow in a ramp."""

import structlog

from bridge.asm.errors import AsmError, Unauthorized
from bridge.backoff import Backoff

log = structlog.get_logger()

_RAMP = 3.0
"""Seconds within which all agents of a large fleet are polled again after an outage, each at its own time."""
_RAMP_RATE = 100
"""Agents a second in the ramp of a smaller fleet."""


class Outage(AsmError):
    """Why an agent is not polled while the breaker is open. A value: it is never raised."""

    def __init__(self, error: AsmError) -> None:
        super().__init__(f"{error}; one agent at a time tries it")
        self.reason = error.reason


class CircuitBreaker:
    """A circuit breaker over all agents of a process. Times are monotonic seconds.

    It opens after ``threshold`` failures in a row, or when each agent of a smaller fleet has failed: no answer, a
    foreign one, a throttled or a refused request. (An agent that fails alone keeps to its own waiting time instead.)
    Then one agent at a time may probe, after a back-off; the first success closes it.
    """

    def __init__(self, backoff: Backoff, threshold: int = 10) -> None:
        self._backoff = backoff
        self._threshold = threshold
        self._failures = 0
        self._failed: set[object] = set()
        self._ramp = _RAMP
        self._unauthorized = False
        self._probe_at = 0.0
        self._probing = False
        self._probes = 0
        self.outage: Outage | None = None
        """The common cause of the last failures, while it is open; else None."""
        self.closed_at = float("-inf")
        """When it last closed (monotonic seconds): back-offs that began before are over."""

    @property
    def is_open(self) -> bool:
        return self.outage is not None

    @property
    def is_down(self) -> bool:
        """Whether the service does not answer at all, or something else answers in its place."""
        return self.outage is not None and self.outage.reason in ("unreachable", "foreign_answer")

    def may_poll(self, now: float, share: float = 0.0) -> bool:
        """Whether a request may go out; while the breaker is open, True is the permission for the one probe.

        ``share`` from 0 to 1: the agent's place in the ramp after an outage.
        """
        if self.outage is None:
            return now >= self.closed_at + share * self._ramp
        if now < self._probe_at:
            return False
        self._probe_at = now + self._backoff.maximum
        self._probing = True
        return True

    def record_success(self, now: float = 0.0) -> None:
        """The service itself has answered with more than a refusal or throttling."""
        if self._failures:
            self._failures, self._probes, self._probing = 0, 0, False
            self._failed.clear()
        if self.outage is not None:
            self.outage, self.closed_at = None, now
            log.info("outage.ended")

    def record_failure(self, now: float, error: AsmError, agent: object = None, fleet: int = 0) -> None:
        """A request of ``agent``, one of ``fleet`` agents, has failed. Of those that ended with one connection, only
        the first counts.
        """
        unauthorized = isinstance(error, Unauthorized)
        if unauthorized != self._unauthorized:  # the host answers, but refuses; or it no longer does
            self.record_success(now)
            self._unauthorized = unauthorized
        was_open, probing = self.is_open, self._probing
        self._failures += 1
        self._ramp = min(_RAMP, fleet / _RAMP_RATE)
        if len(self._failed) < self._threshold:
            self._failed.add(agent)
        if not was_open and not self._is_common(error, fleet):
            return
        self.outage = Outage(error)
        if not was_open:
            log.warning("outage.began", reason=error.reason, error=error)
        if probing or not was_open:  # not for what was in flight when it opened
            self._probes = self._probes + 1 if was_open else 0
            self._probing = False
            self._probe_at = now + self._backoff.delay(self._probes) * (2 if unauthorized else 1)

    def _is_common(self, error: AsmError, fleet: int) -> bool:
        """Whether the failures concern the fleet rather than one agent."""
        several = len(self._failed) > 1
        if several and len(self._failed) >= fleet > 0:
            return True
        alone = not several and (error.retry_after is not None or isinstance(error, Unauthorized))
        return self._failures >= self._threshold and not alone
