"""HTTP answers as from a gRPC-JSON gateway, and faulty ones."""

from typing import Literal, NamedTuple

import msgspec

Headers = list[tuple[bytes, bytes]]
Cut = Literal["before", "during"]
"""The connection is closed before anything of the answer was sent, or in the middle of it."""

CODES = {
    400: 3, 401: 16, 403: 7, 404: 5, 405: 12, 409: 10, 412: 9, 422: 3, 429: 8, 499: 1, 500: 13, 501: 12, 503: 14, 504: 4
}  # fmt: skip
"""HTTP status -> the gRPC code in the body."""

MALFORMED = (
    b'{"voiceStatus":{"statusDesc":"READY","lastStatus',
    b"<html><body>It works!</body></html>",
    b'{"voiceStatus":["READY"]}',
    b'{"voiceStatus":{"lastStatusChange":"yesterday"}}',
    b'{"voiceStatus":{"queuedCalls":{"agentQueueCalls":[{"callSid":{"high":1}}]}}}',
    b"",
)
"""Bodies of a 200 that cannot be read: cut short, not JSON, wrong types, empty."""


class Answer(NamedTuple):
    """An answer; ``cut`` if the connection breaks while it is sent."""

    status: int
    body: bytes
    headers: Headers
    cut: Cut | None = None

    @property
    def result(self) -> str:
        """Its name in the statistics."""
        return "cut" if self.cut else str(self.status)


class GatewayError(Exception):
    """Ends the handling of a call, which is answered with this status and gRPC code."""

    def __init__(self, status: int, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = CODES[status] if code is None else code


def ok(body: bytes) -> Answer:
    """200 with a JSON body."""
    return Answer(200, body, _headers(body))


def error(
    status: int, message: str, *, code: int | None = None, retry_after: int | None = None, older: bool = False
) -> Answer:
    """``{"code", "message", "details"}``; ``retry_after`` in seconds; ``older``: with ``"error"``, as older gateways
    print."""
    refusal = {"code": CODES[status] if code is None else code, "message": message, "details": []}
    body = msgspec.json.encode({"error": message, **refusal} if older else refusal)
    extra = [] if retry_after is None else [(b"retry-after", b"%d" % retry_after)]
    return Answer(status, body, _headers(body) + extra)


def malformed(number: int) -> Answer:
    """One of the unreadable bodies, in turn."""
    return ok(MALFORMED[number % len(MALFORMED)])


def _headers(body: bytes) -> Headers:
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
