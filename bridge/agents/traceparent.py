"""The sender's trace of an injection: W3C Trace Context, carried from the inbox to the outcome."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, section 3.2; a header that does not match is dropped, as the standard demands."""
_LONGEST_STATE = 512


@dataclass(slots=True)
class Trace:
    """The trace headers for an injection's outcome; ``span`` is the open span of OpenTelemetry, if tracing is on."""

    headers: tuple[tuple[str, bytes], ...]
    span: Any = None


def read_trace(headers: Sequence[tuple[str, bytes | None]]) -> Trace | None:
    """The trace in the headers of a record of the inbox; None if they have no valid ``traceparent``."""
    present = ((name.lower(), value) for name, value in headers if value is not None)
    found = {name: value for name, value in present if name in ("traceparent", "tracestate")}
    if not _TRACEPARENT.fullmatch(found.get("traceparent", b"")):
        return None
    if len(found.get("tracestate", b"")) > _LONGEST_STATE:
        del found["tracestate"]
    return Trace(tuple(found.items()))
