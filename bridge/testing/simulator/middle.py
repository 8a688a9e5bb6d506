"""Foreign answers in place of the service's: those of gateways, proxies, firewalls and login pages between it and its
client.

Each function gives an answer that is not the service's, or spoils one that is. ``number``: of several forms that a
fault has, the request's number chooses one.
"""

import codecs
import email.utils
import gzip
import zlib
from collections.abc import Callable
from datetime import datetime

import msgspec

from bridge.testing.simulator.answers import Answer, Headers

MARK = "marked"
"""The reference_id of a conversation whose events the faults ``event_...`` reject."""

_REASONS = {
    200: "Sign in", 302: "Found", 307: "Temporary Redirect", 308: "Permanent Redirect", 400: "Bad Request",
    401: "Authorization Required", 403: "Forbidden", 404: "Not Found", 408: "Request Time-out", 409: "Conflict",
    413: "Request Entity Too Large", 414: "Request-URI Too Large", 431: "Request Header Fields Too Large",
    499: "Client Closed Request", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out",
}  # fmt: skip


def page(status: int, headers: Headers | None = None) -> Answer:
    """An HTML page, as nginx prints it for an error."""
    reason = _REASONS.get(status, "Error")
    title = f"{status} {reason}" if status != 200 else reason
    body = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body>\r\n</html>\r\n".encode()
    return _answer(status, body, b"text/html", headers)


def unauthorized_page() -> Answer:
    """401 by a proxy that has users of its own."""
    return page(401, [(b"www-authenticate", b'Basic realm="proxy"')])


def redirect(number: int) -> Answer:
    """A redirect to a login page, as gateways send it to unknown clients."""
    return page((302, 307, 308)[number % 3], [(b"location", b"https://login.invalid/?next=asm")])


def no_route() -> Answer:
    """404 by a gateway that has no such route."""
    return _json(404, {"message": "no route"})


def foreign_json(number: int) -> Answer:
    """A refusal in JSON that is not the service's: other members, an HTTP number as its code, a code that does not fit
    its status."""
    refusals = (
        (404, {"error": "not found"}),
        (400, {"error": {"code": 400, "message": "bad request", "status": "INVALID_ARGUMENT"}}),
        (409, {"code": 409, "message": "conflict"}),
        (404, {"code": 14, "message": "no healthy upstream", "details": []}),
        (400, {"code": 3}),
        (404, ["not found"]),
    )
    status, body = refusals[number % len(refusals)]
    return _json(status, body)


def envelope() -> Answer:
    """200 with an error in it."""
    return _json(200, {"code": 14, "message": "upstream connect error"})


def empty() -> Answer:
    """200 without a body."""
    return _answer(200, b"", b"application/json", None)


ANSWERS: dict[str, Callable[[int], Answer]] = {
    "foreign_400": lambda _: page(400),
    "foreign_401": lambda _: unauthorized_page(),
    "foreign_403": lambda _: page(403),
    "foreign_404": lambda _: page(404),
    "foreign_json": foreign_json,
    "no_route": lambda _: no_route(),
    "envelope": lambda _: envelope(),
    "html_200": lambda _: page(200),
    "empty_200": lambda _: empty(),
    "redirect": redirect,
    "event_403": lambda _: page(403),
    "event_silence": lambda _: page(504),
}
"""By the fault's name: something in between answers, and the service sees nothing."""


def throttled(status: int, retry_after: bytes, now: float) -> Answer:
    """429 or 503 by the service, with a Retry-After and a Date."""
    code = 8 if status == 429 else 14
    headers = [(b"retry-after", retry_after), (b"date", http_date(now))]
    return _json(status, {"code": code, "message": "simulated fault: throttled", "details": []}, headers)


def http_date(seconds: float) -> bytes:
    """Seconds since 1970 as HTTP prints them."""
    return email.utils.formatdate(seconds, usegmt=True).encode()


def compressed(answer: Answer, number: int) -> Answer:
    """The same answer, in a content coding that the request did not ask for."""
    encoding, body = (b"gzip", gzip.compress(answer.body)) if number % 2 else (b"deflate", zlib.compress(answer.body))
    headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
    return answer._replace(
        body=body, headers=[*headers, (b"content-encoding", encoding), (b"content-length", b"%d" % len(body))]
    )


def odd(answer: Answer) -> Answer:
    """The same answer in forms that no gateway should print: a byte order mark, bytes that are not UTF-8, half a
    surrogate pair, booleans as text, times and wrapped numbers as the messages they are."""
    body = msgspec.json.encode(_odd("", msgspec.json.decode(answer.body)))
    body = codecs.BOM_UTF8 + body[:-1] + b'%b"newField":"caf\xe9 \\ud83d"}' % (b"," if len(body) > 2 else b"")
    headers = [(name, value) for name, value in answer.headers if name != b"content-length"]
    return answer._replace(body=body, headers=[*headers, (b"content-length", b"%d" % len(body))])


def _odd(name: str, value: object) -> object:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return {key: _odd(key, inner) for key, inner in value.items()}
        case list():
            return [_odd(name, inner) for inner in value]
        case str() if name.endswith(("Date", "timestamp", "SessionStart")):
            milliseconds = round(datetime.fromisoformat(value).timestamp() * 1000)
            return {"seconds": str(milliseconds // 1000), "nanos": milliseconds % 1000 * 10**6}
        case str() if name.endswith(("Sid", "SessionId")):
            return {"value": value}
    return value


def _json(status: int, body: object, headers: Headers | None = None) -> Answer:
    return _answer(status, msgspec.json.encode(body), b"application/json", headers)


def _answer(status: int, body: bytes, content_type: bytes, headers: Headers | None) -> Answer:
    length = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    return Answer(status, body, [*length, *(headers or [])])
