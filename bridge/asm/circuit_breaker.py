"""When the host itself is down: one probe, then the fleet, not a herd."""

from bridge.backoff import Backoff


class CircuitBreaker:
    """A circuit breaker over all sessions of a process.

    After ``threshold`` requests in a row without any answer it is down: then one session at a time may ask, after a
    back-off; the first answer opens it for all. Times are monotonic seconds.
    """

    def __init__(self, backoff: Backoff, threshold: int = 10) -> None:
        self._backoff = backoff
        self._threshold = threshold
        self._failures = 0
        self._probe_at = 0.0
        self._probing = False
        self._probes = 0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._threshold

    def may_poll(self, now: float) -> bool:
        """Whether a request may go out; where the host is down, a True is the one probe."""
        if not self.is_open:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + self._backoff.maximum
        self._probing = True
        return True

    def record_success(self) -> None:
        self._failures, self._probing = 0, False

    def record_failure(self, now: float) -> None:
        """A request had no answer; of those that ended with one connection, only the first is told here."""
        was_open, probing = self.is_open, self._probing
        self._failures += 1
        if self.is_open and (probing or not was_open):  # not for what was under way when it went down
            self._probes = self._probes + 1 if was_open else 0
            self._probing = False
            self._probe_at = now + self._backoff.delay(self._probes)
