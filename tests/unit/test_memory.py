"""The memory of a process."""

import asyncio
import ctypes
from types import SimpleNamespace

import pytest

from bridge import app


async def test_freed_memory_is_returned_to_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process asks glibc for it, again and again."""
    trimmed = asyncio.Queue[int]()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=trimmed.put_nowait))
    monkeypatch.setattr(app, "_TRIM_EVERY", 0.001)
    trimming = asyncio.create_task(app._return_freed_memory())
    async with asyncio.timeout(10):
        assert [await trimmed.get(), await trimmed.get()] == [0, 0]
    trimming.cancel()


async def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other C libraries have no such function: nothing is called, and nothing fails."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    async with asyncio.timeout(10):
        await app._return_freed_memory()
