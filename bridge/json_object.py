"""Reads JSON that may be anything."""

import json
from typing import Any


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object that the text is, or None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
