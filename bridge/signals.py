"""Stopping: SIGINT and SIGTERM are caught only at the entry points; elsewhere it is an event that is passed in."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def fires(event: asyncio.Event, within: float) -> bool:
    """Whether the event is set within so many seconds."""
    try:
        async with asyncio.timeout(within):
            return await event.wait()
    except TimeoutError:
        return False


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of ``work``, or None if ``stop`` comes first, which cancels it."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        return working.result()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        return await working
    return None


def stop_on_signals(before_end: Callable[[], None] = lambda: None) -> asyncio.Event:
    """An event that the first SIGINT or SIGTERM sets. The second one calls ``before_end`` and ends the process at once.

    Needs a running event loop, in the main thread.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    received: list[int] = []  # not stop.is_set(): something else, such as the end of a supervisor, may have set it

    def caught(number: int) -> None:
        if received:
            before_end()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, caught, number)
    return stop
