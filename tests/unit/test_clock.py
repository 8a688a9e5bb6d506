"""Timestamps as records have them."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.clock import Clock, rfc3339, seconds
from bridge.kafka import kafka_clock
from bridge.kafka.kafka_clock import ClockTrials, Reading, follow
from bridge.telemetry.metrics import METRICS


@pytest.mark.parametrize("time", [-62135596800.0, -0.001, 0.0, 1_795_000_000.25, 253402300799.0])
def test_a_time_is_read_back_from_its_text(time: float) -> None:
    """Any time of the years 1 to 9999 is read back from its text to the microsecond."""
    assert seconds(rfc3339(time)) == pytest.approx(time, abs=1e-6)


@pytest.mark.parametrize("time", [2.0**63 / 1000, 253402300800.0, 1e300, float("inf")])
def test_a_time_beyond_all_years_is_the_last_one(time: float) -> None:
    """A record with a timestamp after the year 9999 is read as having the last possible time."""
    assert rfc3339(time) == "9999-12-31T23:59:59.999999Z"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "0001-01-01T00:00:00Z"])
def test_a_time_before_all_years_is_the_first_one(text: str) -> None:
    """A header with a time in the year 0 in UTC is read as the first possible time."""
    assert rfc3339(seconds(text)) == "0001-01-01T00:00:00.000000Z"


class Machine:
    """The clocks of a machine, set by the test: Kafka's shows the monotonic time plus ``KAFKA``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
        self.at, self.ahead = 100.0, ahead
        monkeypatch.setattr("bridge.clock.time", self)
        self.clock = Clock()

    def time(self) -> float:
        return KAFKA + self.at + self.ahead

    def monotonic(self) -> float:
        return self.at

    def compare(self) -> None:
        self.clock.follow(KAFKA + self.at - 0.5, self.at - 1)


KAFKA = 1_795_000_000.0


@pytest.mark.parametrize("ahead", [600.0, 7200.0, -600.0])
def test_the_clock_follows_kafkas(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Once Kafka's clock is known, times are Kafka's, whatever this machine's clock says, and however it is set."""
    machine = Machine(monkeypatch, ahead)
    machine.compare()
    assert machine.clock.now().wall == pytest.approx(KAFKA + 100, abs=0.001)
    assert machine.clock.differs
    assert machine.clock.ahead == pytest.approx(ahead)
    machine.ahead, machine.at = 0.0, 105.0
    assert machine.clock.now().wall == pytest.approx(KAFKA + 105, abs=0.001)
    machine.compare()
    assert not machine.clock.differs


def test_a_small_difference_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that differs by less than a second is right, but a step of it does not count either."""
    machine = Machine(monkeypatch, 0.4)
    machine.compare()
    assert machine.clock.now().wall == pytest.approx(KAFKA + 100.4, abs=0.001)
    machine.ahead = 600.0
    assert machine.clock.now().wall == pytest.approx(KAFKA + 100.4, abs=0.001)


@pytest.mark.parametrize("shown_after", [0.0, 7.0, 14.0])
def test_a_reading_that_took_long_is_no_difference(monkeypatch: pytest.MonkeyPatch, shown_after: float) -> None:
    """A reading during an outage may be from its beginning or its end: clocks that agree are not said to differ."""
    machine = Machine(monkeypatch, 0.0)
    machine.at += 14.0
    with capture_logs() as lines:
        follow(machine.clock, Reading(KAFKA + 100.0 + shown_after, 100.0))
    assert not lines
    assert machine.clock.now().wall == pytest.approx(KAFKA + 114.0)


def test_a_machine_that_slept_catches_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The monotonic clock stands still while a machine sleeps; the next comparison, due within seconds, mends it."""
    machine = Machine(monkeypatch, 0.0)
    machine.compare()
    assert machine.clock.comparison_due()
    assert not machine.clock.comparison_due()
    machine.at += 11
    assert machine.clock.comparison_due()
    machine.clock.follow(KAFKA + machine.at + 3600, machine.at)
    assert machine.clock.now().wall == pytest.approx(KAFKA + machine.at + 3600)


def test_a_wrong_clock_is_measured_and_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is ten minutes ahead: the metric has the difference, the log has a line for it, and another
    one when the clock is right again.
    """
    machine = Machine(monkeypatch, 600.0)
    with capture_logs() as logged:
        for _ in range(2):
            follow(machine.clock, Reading(KAFKA + machine.at, machine.at))
            assert METRICS.kafka_clock_ahead._value.get() == pytest.approx(600)
        machine.ahead = 0.0
        follow(machine.clock, Reading(KAFKA + machine.at, machine.at))
    assert METRICS.kafka_clock_ahead._value.get() == pytest.approx(0)
    assert [line["event"] for line in logged] == ["clock.differs", "clock.agrees"]


async def test_all_partitions_wait_for_one_trial_of_kafkas_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions that are recovered at one time wait until Kafka's clock has been tried once; a clock that cannot be
    read is not tried again for each of them, and one that is known not at all."""
    machine, tried = Machine(monkeypatch, 7200.0), list[object]()
    answers = [None, Reading(KAFKA + 170, 170.0)]

    async def read_clock(clients: object) -> Reading | None:
        tried.append(clients)
        await asyncio.sleep(0)
        return answers[len(tried) - 1]

    monkeypatch.setattr(kafka_clock, "read_clock", read_clock)
    monkeypatch.setattr(kafka_clock, "time", machine)
    clients: Any = "clients"
    trials = ClockTrials(machine.clock, clients)
    for at, times in ((100.0, 1), (130.0, 1), (170.0, 2), (300.0, 2)):
        machine.at = at
        await asyncio.gather(*(trials.before_publishing() for _ in range(8)))
        assert len(tried) == times
    assert machine.clock.now().wall == pytest.approx(KAFKA + 300)


async def test_no_failure_to_read_kafkas_clock_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka raises more than Kafka's errors while a broker starts: the clock is read later, and the log has the
    stack once."""
    tried = 0

    async def read_clock(_: object) -> None:
        nonlocal tried
        tried += 1
        raise AssertionError("Did we not perform bootstrap?")

    monkeypatch.setattr(kafka_clock, "read_clock", read_clock)
    monkeypatch.setattr(kafka_clock, "_TRY_EVERY", 0.0)
    clients: Any = "clients"
    with capture_logs() as logged:
        running = asyncio.ensure_future(ClockTrials(Clock(), clients).run())
        while tried < 3:
            assert not running.done()
            await asyncio.sleep(0)
        running.cancel()
    assert [(line["event"], type(line["exc_info"])) for line in logged] == [("clock.read_failed", AssertionError)]
