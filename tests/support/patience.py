"""How long a test waits, and how long something may take: what a busy machine adds says nothing about the bridge."""

import os

_MOST = 4.0


def patient(seconds: float) -> float:
    """A deadline, or an upper limit, for a machine with nothing else to do: as much longer as this one has more to do
    than it has processors, up to four times."""
    return seconds * min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), _MOST)
