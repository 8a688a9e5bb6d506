"""The circuit breaker: while the host is down it is probed by one agent, not polled by the whole fleet."""

import itertools

import pytest
from structlog.testing import capture_logs

from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.errors import Throttled, Unauthorized, Unreachable
from bridge.backoff import Backoff

SILENCE = Unreachable("no answer")


class Steady(Backoff):
    """A back-off without randomness."""

    def delay(self, failures: int) -> float:
        return min(self.maximum, self.initial * 2**failures)


def down(threshold: int = 3) -> CircuitBreaker:
    host = CircuitBreaker(Steady(1, 30), threshold)
    for _ in range(threshold):
        assert host.may_poll(0)
        host.record_failure(0, SILENCE)
    return host


def test_a_few_silences_are_no_outage() -> None:
    """Time-outs of one agent do not open the circuit breaker, and an answer in between restarts the count."""
    host = CircuitBreaker(Steady(), 3)
    for _ in range(5):
        host.record_failure(0, SILENCE)
        host.record_failure(0, SILENCE)
        host.record_success()
    assert not host.is_open
    assert host.may_poll(0)


def test_a_host_that_is_down_gets_one_probe_at_a_time() -> None:
    """After the back-off one agent probes the host while the others wait for the result."""
    host = down()
    assert [host.may_poll(0.9), host.may_poll(1.0), host.may_poll(1.0), host.may_poll(20)] == [
        False,
        True,
        False,
        False,
    ]
    host.record_failure(11, SILENCE)
    assert [host.may_poll(12.9), host.may_poll(13.0), host.may_poll(13.0)] == [False, True, False]


def test_the_first_answer_opens_it_for_all() -> None:
    """The first answer lets all agents poll again."""
    host = down()
    assert host.may_poll(1)
    host.record_success()
    assert [host.may_poll(1) for _ in range(100)] == [True] * 100


def test_a_probe_that_tells_nothing_is_followed_by_another() -> None:
    """A probe without a result, e.g. because its agent was handed over, is followed by another one."""
    host = down()
    assert host.may_poll(1)
    assert [host.may_poll(30.9), host.may_poll(31)] == [False, True]


def test_what_was_under_way_does_not_put_the_probe_off() -> None:
    """Failures of requests that were in flight when the host went down do not count as failed probes."""
    host = down()
    for _ in range(500):
        host.record_failure(0.5, SILENCE)
    assert [host.may_poll(0.9), host.may_poll(1.0)] == [False, True]


def test_an_outage_costs_a_handful_of_probes() -> None:
    """In an outage of ten minutes a thousand agents send about one probe every 30 s."""
    host = down()
    probes = 0
    for tick, _ in itertools.product(range(6000), range(10)):
        if host.may_poll(tick / 10):
            probes += 1
            host.record_failure(tick / 10, SILENCE)
    assert 20 <= probes <= 30


@pytest.mark.parametrize(("failures", "most"), [(0, 1), (1, 2), (4, 16), (5, 30), (10**6, 30)])
def test_back_off_is_exponential_with_full_jitter_up_to_thirty_seconds(failures: int, most: float) -> None:
    """The back-off is exponential with full jitter, up to 30 s."""
    delays = [Backoff().delay(failures) for _ in range(300)]
    assert 0 <= min(delays) < 0.2 * most
    assert 0.8 * most < max(delays) <= most


def refused() -> Unauthorized:
    return Unauthorized("HTTP 401", http_status=401)


def test_a_small_fleet_that_fails_as_a_whole_is_probed_by_one() -> None:
    """A fleet of eight agents that are all refused opens the circuit breaker before ten failures."""
    breaker = CircuitBreaker(Steady(1, 30))
    for number in range(8):
        assert not breaker.is_open
        breaker.record_failure(0, refused(), number, 8)
    assert breaker.is_open
    assert breaker.outage is not None
    assert breaker.outage.reason == "unauthorized"
    assert not breaker.is_down


def test_an_agent_that_is_refused_alone_keeps_to_its_own_waiting_time() -> None:
    """One agent with a bad token, however often it fails, or one that is throttled, does not open the
    circuit breaker.
    """
    for error in (refused(), Throttled("HTTP 429", http_status=429, retry_after=60)):
        breaker = CircuitBreaker(Steady(1, 30))
        for _ in range(50):
            breaker.record_failure(0, error, "a", 1)
        assert not breaker.is_open


def test_after_an_outage_the_fleet_comes_in_a_ramp() -> None:
    """After an outage each agent has its own place in a ramp of 3 s, even in a large fleet."""
    breaker = CircuitBreaker(Steady(1, 30), threshold=1)
    breaker.record_failure(10, SILENCE, "a", 5000)
    breaker.record_success(20)
    places = [number / 1000 for number in range(1000)]
    assert [sum(breaker.may_poll(20 + after, place) for place in places) for after in (0, 1.5, 3)] == [1, 501, 1000]
    assert breaker.closed_at == 20


def test_a_refusal_shows_that_the_host_is_there() -> None:
    """The first 401 from the service ends an outage without answers."""
    breaker = down()
    assert breaker.may_poll(1)
    breaker.record_failure(1, refused(), "a", 100)
    assert not breaker.is_open


def test_an_outage_is_logged_once() -> None:
    """An outage is logged when it begins, with what answers instead of the service, and when it ends."""
    with capture_logs() as logged:
        breaker = down()
        breaker.record_failure(5, SILENCE)
        breaker.record_success(6)
        breaker.record_success(7)
    assert [(line["event"], line.get("reason")) for line in logged] == [
        ("outage.began", "unreachable"),
        ("outage.ended", None),
    ]
