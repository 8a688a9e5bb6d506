"""Makes foreign text safe for a terminal."""

import re

_OBEYED = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys or reorders, and that JSON does not escape."""


def printable(text: str) -> str:
    """The text with control characters escaped: other programs' records may have some that a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def escaped(json: str) -> str:
    """The same JSON, without characters that a terminal obeys."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json)
