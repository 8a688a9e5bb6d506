"""Files of registry entries: TOML ``[[sessions]]`` tables, or a JSON list: ``agent_id`` and a SessionEntry's fields."""

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from asm_bridge_schemas.commands import CommandError, SessionEntry, read_session_entry, session_entry

_DEFAULTS = msgspec.to_builtins(SessionEntry())


class SessionsFileError(Exception):
    """A sessions file that cannot be used; the text has a line for each wrong entry, with its position."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_sessions_file(path: Path) -> dict[str, SessionEntry]:
    """The entries by agent_id. Raises ``SessionsFileError``, which lists every wrong entry."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SessionsFileError([f"{path} cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise SessionsFileError([f"{path} is not UTF-8 text"]) from None
    return read_sessions(text, str(path))


def read_sessions(text: str, name: str) -> dict[str, SessionEntry]:
    """The entries in a file's text, which may begin with a byte order mark; ``name`` is for errors.

    Raises ``SessionsFileError``.
    """
    tables = _tables(text.removeprefix("\ufeff"), name)
    entries: dict[str, SessionEntry] = {}
    problems: list[str] = []
    repeated = {agent for agent, count in Counter(map(_agent_id, tables)).items() if agent and count > 1}
    for position, table in enumerate(tables, 1):
        agent_id = _agent_id(table)
        where = f"{name}: entry {position}" + (f" ({agent_id})" if agent_id else "")
        try:
            entries[agent_id or ""] = _entry(table)
        except CommandError as error:
            problems.append(f"{where}: {error}")
        if agent_id in repeated:
            problems.append(f"{where}: there are several entries for this agent_id: leave one")
    if problems:
        raise SessionsFileError(problems)
    return entries


def check_agent_id(agent_id: object) -> str:
    """Returns the agent_id if it is valid. Raises ``CommandError``."""
    if not isinstance(agent_id, str) or not agent_id.strip() or not agent_id.isprintable():
        raise CommandError(
            "malformed_entry", "agent_id is missing or invalid: it must be text without control characters"
        )
    return agent_id


def changes(
    registry: Mapping[str, SessionEntry | CommandError], wanted: Mapping[str, SessionEntry], prune: bool = False
) -> dict[str, bytes | None]:
    """The writes that give the registry the wanted entries (with ``prune``: no others); None is a tombstone."""
    changed: dict[str, bytes | None] = {
        agent_id: msgspec.json.encode(entry) for agent_id, entry in wanted.items() if registry.get(agent_id) != entry
    }
    if prune:
        changed |= dict.fromkeys(registry.keys() - wanted.keys())
    return dict(sorted(changed.items()))


def as_object(agent_id: str, entry: SessionEntry) -> dict[str, Any]:
    """The entry as in a file: agent_id, and the fields that differ from their defaults."""
    fields = msgspec.to_builtins(entry)
    return {"agent_id": agent_id} | {name: value for name, value in fields.items() if value != _DEFAULTS[name]}


def as_toml(entries: Mapping[str, SessionEntry]) -> str:
    """TOML that ``read_sessions`` reads back."""
    tables = [as_object(agent_id, entry) for agent_id, entry in entries.items()]
    bodies = ["\n".join(f"{name} = {_toml(value)}" for name, value in table.items()) for table in tables]
    return "\n".join(f"[[sessions]]\n{body}\n" for body in bodies)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's texts, numbers and booleans are TOML's, except DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _tables(text: str, name: str) -> list[Any]:
    document = _document(text, name)
    tables = document.get("sessions") if isinstance(document, dict) else document
    unknown = sorted(document.keys() - {"sessions"}) if isinstance(document, dict) else []
    if unknown:
        raise SessionsFileError([f"{name}: {', '.join(unknown)} does not belong here: entries are [[sessions]] tables"])
    if tables is None and not text.strip():
        return []
    if not isinstance(tables, list):
        raise SessionsFileError([f"{name}: has no entries: write [[sessions]] tables (TOML) or a JSON list of objects"])
    return tables


def _document(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if name.endswith(".json"):
            raise SessionsFileError([f"{name}: is not JSON: {error}"]) from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers that are too long for an int
        raise SessionsFileError([f"{name}: is not TOML: {error}"]) from None


def _agent_id(table: Any) -> str | None:
    try:
        return check_agent_id(table.get("agent_id")) if isinstance(table, dict) else None
    except CommandError:
        return None


def _entry(table: Any) -> SessionEntry:
    if not isinstance(table, dict):
        raise CommandError("malformed_entry", "is not a table (TOML) or an object (JSON)")
    check_agent_id(table.get("agent_id"))
    return session_entry({name: value for name, value in table.items() if name != "agent_id"})


def read_entries(registry: Mapping[str, bytes]) -> dict[str, SessionEntry | CommandError]:
    """Each entry of the registry by agent_id, in order, or its error."""
    return {agent_id: _read(registry[agent_id]) for agent_id in sorted(registry)}


def _read(value: bytes) -> SessionEntry | CommandError:
    try:
        return read_session_entry(value)
    except CommandError as error:
        return error
