"""Bearer tokens by reference. A token leaves this module only in a request's header."""

import os
import time
from pathlib import Path

from bridge.asm.errors import Unauthorized
from bridge.json_object import json_object

_RECHECK = 0.5
"""Seconds between looks at a file: a changed token is used within a second."""


class Tokens:
    """Resolves ``file:NAME``, ``file:NAME#KEY``, ``env:NAME``; None means the default token."""

    def __init__(self, secrets_dir: Path | None, default: str | None) -> None:
        self._secrets_dir = secrets_dir
        self._default = default
        self._files: dict[str, _TokenFile] = {}
        self._known: dict[str, tuple[str, _TokenFile, int]] = {}
        """By reference: its token, the file, and the number of the reading that had it."""

    @property
    def reloads(self) -> int:
        """How many times a file was read."""
        return sum(file.readings for file in self._files.values())

    def get(self, reference: str | None) -> str:
        """The current token. Raises ``Unauthorized``, with what to do, if there is none."""
        if reference is None:
            return _usable(self._default, "neither the session nor asm.token names a token")
        if reference in self._known:
            token, file, reading = self._known[reference]
            file.refresh()
            if file.readings == reading:
                return token
            del self._known[reference]
        kind, _, name = reference.partition(":")
        if kind == "env":
            return _usable(os.environ.get(name), f"the environment has no variable {name}")
        name, _, key = name.partition("#")
        token, file = self._from_file(name, key)
        self._known[reference] = token, file, file.readings
        return token

    def _from_file(self, name: str, key: str) -> "tuple[str, _TokenFile]":
        if self._secrets_dir is None:
            raise Unauthorized(f"file:{name} needs a secrets directory: set ASM_BRIDGE_SECRETS_DIR")
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _TokenFile(self._secrets_dir / name)
        file.refresh()
        if not key:
            return _usable(file.text, f"the secrets directory has no readable file {name}"), file
        text = f"{name} in the secrets directory is not a JSON object with the key {key}"
        return _usable(file.values.get(key), text), file


def _usable(token: str | None, problem: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Unauthorized(problem if not token else "the token has characters that a header cannot carry")
    return token


class _TokenFile:
    """A file's text, read again when the file has changed or was replaced (also by renaming)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: tuple[int, ...] | None = None
        self._looked = float("-inf")
        self.readings = 0
        self.text: str | None = None
        self.values: dict[str, str] = {}

    def refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked < _RECHECK:
            return
        self._looked = now
        try:
            stat = self._path.stat()
            signature = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if signature == self._signature:
                return
            self.text = self._path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            signature, self.text = None, None
        self.readings += signature != self._signature
        self._signature = signature
        values = json_object(self.text or "") or {}
        self.values = {key: value for key, value in values.items() if isinstance(value, str)}
