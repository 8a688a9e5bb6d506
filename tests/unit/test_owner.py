"""When the partitions of a process commit."""

import time
from typing import Any

import pytest

from bridge.kafka.clients import Clients
from bridge.partitions.owner import Shared, linger


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_steps_are_gathered_no_longer_than_the_commit_interval(delivery: str) -> None:
    """In exactly_once since the first of them; in at_least_once until a time that all partitions share, whenever their
    first steps came, so that the producer they share writes for all in one request."""
    unused: Any = None
    clients = Clients({}, "group", str, exactly_once=delivery == "exactly_once")
    shared = Shared(1, 0.5, 10.0, "host:1", clients, unused, unused, unused, unused)
    now = time.monotonic()
    ends = [now + linger(shared, now - waited, now) for waited in (0.0, 0.2, 0.4)]
    assert all(now - 0.1 <= end <= now + 0.6 for end in ends)
    expected = [0.0, -0.2, -0.4] if delivery == "exactly_once" else [0.0, 0.0, 0.0]
    assert [end - ends[0] for end in ends] == pytest.approx(expected, abs=0.05)
