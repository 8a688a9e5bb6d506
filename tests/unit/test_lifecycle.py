"""Clients of Kafka are let go in every state they can be in."""

import asyncio

import pytest

from bridge.kafka.lifecycle import stop_quietly


async def test_a_client_that_lets_its_own_cancellation_out_cancels_nobody() -> None:
    """SIGTERM in an outage of Kafka ends with 0: aiokafka's stop() raises CancelledError then (chaos seed 1)."""

    async def stop() -> None:
        raise asyncio.CancelledError

    await stop_quietly(stop())


@pytest.mark.parametrize("error", [RuntimeError("x"), TimeoutError()])
async def test_a_client_that_fails_to_stop_is_left_alone(error: Exception) -> None:
    async def stop() -> None:
        raise error

    await stop_quietly(stop())


async def test_a_client_that_does_not_stop_is_waited_for_so_long() -> None:
    """And then its stop is cancelled."""
    cancelled = asyncio.Event()

    async def stop() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    await stop_quietly(stop(), 0.01)
    await asyncio.wait_for(cancelled.wait(), 1)
