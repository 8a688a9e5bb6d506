"""Exponential back-off with full jitter."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A random delay between 0 and ``initial`` times two to the number of failures, at most ``maximum`` seconds."""

    initial: float = 1.0
    maximum: float = 30.0

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row (0 for the first)."""
        return random.uniform(0, min(self.maximum, self.initial * 2 ** min(failures, 16)))  # noqa: S311 - no secret
