"""Timestamps as records have them."""

import pytest

from bridge.clock import rfc3339, seconds


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
