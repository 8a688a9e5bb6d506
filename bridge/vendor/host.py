"""When the host itself is down: one probe, then the fleet, not a herd."""

from bridge.backoff import Backoff


class Host:
    """A circuit breaker over all sessions of a process.

    After ``threshold`` requests in a row without any answer it is down: then one session at a time may ask, after a
    back-off; the first answer opens it for all. Times are monotonic seconds.
    """

    def __init__(self, backoff: Backoff, threshold: int = 10) -> None:
        self._backoff = backoff
        self._threshold = threshold
        self._failures = 0
        self._probe_at = 0.0

    @property
    def down(self) -> bool:
        return self._failures >= self._threshold

    def may_ask(self, now: float) -> bool:
        """Whether a request may go out; where the host is down, a True is the one probe."""
        if not self.down:
            return True
        if now < self._probe_at:
            return False
        self._probe_at = now + self._backoff.maximum
        return True

    def answered(self) -> None:
        self._failures = 0

    def silent(self, now: float) -> None:
        self._failures += 1
        if self.down:
            self._probe_at = now + self._backoff.delay(self._failures - self._threshold)
