"""Standard output, whatever it is: a terminal, a closed pipe, a file on a full disk, nothing at all."""

import contextlib
import os
import sys
from pathlib import Path


def prepare_output() -> None:
    """Makes every text printable: a character that a stream's encoding lacks becomes ``\\u20ac``, and a stream that was
    closed (``>&-``) discards everything.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - it is open until the end
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - the same
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's replacement lacks it
            stream.reconfigure(errors="backslashreplace")


def discard_output() -> None:
    """Lets Python's own flush at exit succeed when standard output can no longer be written."""
    with contextlib.suppress(OSError, ValueError):  # not a file, as in some tests
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
