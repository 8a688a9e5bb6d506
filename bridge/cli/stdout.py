"""Standard output, whatever it is: a terminal, a closed pipe, a file on a full disk, nothing at all."""

import contextlib
import os
import sys
from pathlib import Path


def prepare_output() -> None:
    """Let every text be printed: what the encoding of a stream lacks as ``\\u20ac``, and everything into nothing where
    the stream was closed (``>&-``).
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - it is open until the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the same
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not what a test has put in its place
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Standard output cannot be written any more: let Python's own flush at exit succeed."""
    with contextlib.suppress(OSError, ValueError):  # not a file, as in some tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
