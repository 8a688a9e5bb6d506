"""The folder for downloads and builds that are kept between runs."""

import os
from pathlib import Path


def cache() -> Path:
    """A directory of this user, made if missing: ``~/.cache/asm-kafka-bridge`` unless XDG_CACHE_HOME says otherwise."""
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "asm-kafka-bridge"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
