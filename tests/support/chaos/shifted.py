"""The bridge on a machine whose clock is wrong: ``python -m tests.support.chaos.shifted run ...``.

The seconds by which it is ahead stand in the file that ``clock_file`` names, and may change at any time, as when an
administrator sets the clock. Only the wall clock is wrong: a monotonic one is not set by anybody.
"""

import contextlib
import os
import threading
import time
from pathlib import Path

from bridge.settings.load import env_name

_LOOK_EVERY = 0.1
_true_time = time.time
_ahead = 0.0


def clock_file(directory: Path, ops_port: int | str) -> Path:
    """Where the clock of the process with this ops port is set."""
    return directory / f"clock-{ops_port}"


def _time() -> float:
    return _true_time() + _ahead


def _follow(path: Path) -> None:
    global _ahead  # noqa: PLW0603 - as the clock of a machine is one for all of a process
    while True:
        with contextlib.suppress(OSError, ValueError):
            _ahead = float(path.read_text())
        time.sleep(_LOOK_EVERY)


def main() -> None:
    from bridge.cli import main as bridge

    path = clock_file(Path.cwd(), os.environ.get(env_name("ops.listen"), "").rpartition(":")[2])
    with contextlib.suppress(OSError, ValueError):
        globals()["_ahead"] = float(path.read_text())
    threading.Thread(target=_follow, args=[path], daemon=True).start()
    time.time = _time
    bridge()


if __name__ == "__main__":
    main()
