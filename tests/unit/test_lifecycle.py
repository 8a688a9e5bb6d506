"""Kafka clients are stopped quietly in any state."""

import asyncio

import pytest

from bridge.kafka.lifecycle import stop_quietly


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
