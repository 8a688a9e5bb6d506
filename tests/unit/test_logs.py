"""The log is read by people: what repeats is said seldom."""

import logging

from bridge.logs import _Seldom


def record(name: str, line: int, created: float, level: int = logging.ERROR) -> logging.LogRecord:
    made = logging.LogRecord(name, level, "client.py", line, "Unable connect to node", None, None)
    made.created = created
    return made


def test_what_aiokafka_repeats_is_logged_once_in_half_a_minute() -> None:
    """An outage of Kafka does not fill the disk with one line."""
    seldom = _Seldom(30.0)
    kept = [seldom(record("aiokafka", 7, 1000.0 + second / 10)) for second in range(600)]
    assert sum(kept) == 2
    assert seldom(record("aiokafka", 8, 1001.0))


def test_nothing_of_the_bridge_itself_is_left_out() -> None:
    """Only aiokafka's warnings and errors are thinned."""
    seldom = _Seldom(30.0)
    assert all(seldom(record("bridge.worker", 7, 1000.0)) for _ in range(3))
    assert all(seldom(record("aiokafka", 7, 1000.0, logging.DEBUG)) for _ in range(3))
