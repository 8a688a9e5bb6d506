"""Programs of other languages for tests, downloaded once into the cache."""

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bridge.testing.cache import cache


def run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(name: str, install: Callable[[Path], object]) -> Path:
    """A folder of the cache that ``install`` has filled. It gets its name when complete."""
    folder = cache() / re.sub(r"[^\w.-]+", "-", name)
    with (cache() / "generators.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / "complete").touch()
    return folder
