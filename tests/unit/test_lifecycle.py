"""Kafka clients are stopped quietly in any state."""

import asyncio

import pytest

from bridge.kafka.errors import describe
from bridge.kafka.lifecycle import stop_quietly, with_deadline


async def test_a_client_that_lets_its_own_cancellation_out_cancels_nobody() -> None:
    """A CancelledError out of aiokafka's stop() does not cancel the caller, so SIGTERM in an outage of Kafka ends with
    0.
    """

    async def stop() -> None:
        raise asyncio.CancelledError

    await stop_quietly(stop())


@pytest.mark.parametrize("error", [RuntimeError("x"), TimeoutError()])
async def test_a_client_that_fails_to_stop_is_left_alone(error: Exception) -> None:
    """A client that fails to stop raises nothing."""

    async def stop() -> None:
        raise error

    await stop_quietly(stop())


async def test_a_client_that_does_not_stop_is_waited_for_so_long() -> None:
    """A client that does not stop in time is cancelled."""
    cancelled = asyncio.Event()

    async def stop() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    await stop_quietly(stop(), 0.01)
    await asyncio.wait_for(cancelled.wait(), 1)


async def test_a_call_without_an_answer_says_so() -> None:
    """The error of a call to Kafka that takes too long has a text, as logs, /readyz and the commands show it."""
    with pytest.raises(TimeoutError) as caught:
        await with_deadline(asyncio.Event().wait(), 0.01)
    assert describe(caught.value) == "no answer from Kafka within 0.01 s"


async def test_a_call_that_says_why_it_took_too_long_is_quoted() -> None:
    """The text of a time-out within a call is kept."""

    async def late() -> None:
        raise TimeoutError("no record of asm.sessions/0 came within 30 s")

    with pytest.raises(TimeoutError, match=r"^no record of asm\.sessions/0 came within 30 s$"):
        await with_deadline(late())
