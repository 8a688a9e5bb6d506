"""The smaller forms of a message, the fullest first, for a topic that does not accept the message itself: pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bridge import headers as names
from bridge.kafka.outgoing import Outgoing

_STEPS = ((65_536, 1024), (16_384, 256), (4096, 64), (4096, 16))
"""Characters of a text and items of a list that are left; ids have up to 4096 bytes."""
_LONGEST_TEXT = 4096
_IDENTITY = ("type", "agent_id", "stream_id")
_is_word = re.compile(r"[A-Za-z0-9_.:/+-]{0,64}").fullmatch
"""Whether a text is a name, a number or a time, which a bare record keeps."""
_REASON = (names.ERROR_CODE, names.ERROR, names.ORIGIN)


def smaller_records(plain: Mapping[str, Any]) -> Iterator[Any]:
    """A decoded record with ever shorter texts and lists, at last without any: it keeps what numbers and names it."""
    for characters, items in _STEPS:
        yield _shortened(plain, characters, items)
    yield _bare(plain)


def smaller_states(plain: Mapping[str, Any]) -> Iterator[Any]:
    """A decoded state with ever fewer of the ids of delivered events, then with short texts, then without what the next
    owner can find out again: calls and conversations in view, at last labels and all texts."""
    books = plain["bridge"]
    ids = books.get("delivered", [])
    for left in (len(ids) // 2, len(ids) // 8, 0):
        yield {**plain, "bridge": {**books, "delivered": ids[-left:] if left else []}}
    yield _shortened({**plain, "bridge": _without(books, "delivered")}, _LONGEST_TEXT)
    books = _without(books, "delivered", "call_digests", "conversations")
    yield _shortened({**plain, "calls": [], "bridge": books}, _LONGEST_TEXT)
    parts = {name: _bare(plain[name]) for name in ("status", "alert", "lost") if plain[name] is not None}
    yield {**_bare(plain), **parts, "bridge": books}


def smaller_dead_letters(message: Outgoing) -> Iterator[Outgoing]:
    """A dead letter with a key, which a compacted topic requires; without the value; without the original's headers."""
    if message.key is None:
        yield message._replace(key=b"")
    value = b"" if message.key is None else None
    yield message._replace(value=value)
    reason = [header for header in message.headers if header[0] in _REASON]
    yield message._replace(key=message.key or b"", value=value, headers=reason)


def _without(books: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in books.items() if name not in left_out}


def _shortened(value: Any, characters: int, items: int | None = None) -> Any:
    if isinstance(value, str):
        return value if len(value) <= characters else value[: characters - 1] + "…"
    if isinstance(value, list):
        return [_shortened(one, characters, items) for one in value[:items]]
    if isinstance(value, dict):
        return {key: _shortened(one, characters, items) for key, one in value.items()}
    return value


def _bare(plain: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if name in _IDENTITY else _emptied(value) for name, value in plain.items()}


def _emptied(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_word(value) else "…"
    return type(value)() if isinstance(value, (list, dict)) else value
