"""Reads a response: as the service's answer, as its refusal, or as a foreign answer. Pure.

The service is gRPC behind a JSON gateway. Proxies, firewalls and load balancers in front of it may answer in its place;
such answers say nothing about the agent.
"""

import email.utils
import re
import time
from typing import Any, NamedTuple

from asm_bridge_schemas import protojson
from asm_bridge_schemas.asm import AsmSession, GetStatusRes, ListConversationsRes
from bridge.asm.errors import (
    AsmError,
    ForeignAnswer,
    Malformed,
    Refused,
    Throttled,
    Unauthorized,
    Unavailable,
    Unreachable,
)
from bridge.asm.http.response import LOGIN_REQUIRED, Failure, Response
from bridge.printable import printable

MessageType = type[GetStatusRes | AsmSession | ListConversationsRes]


class Answer(NamedTuple):
    """A decoded 2xx answer, and the ``body`` from which it was decoded.

    ``message`` is None for an answer that is byte for byte the one that the caller knows already (``UNCHANGED``).
    """

    status: int
    message: GetStatusRes | AsmSession | ListConversationsRes | None
    body: bytes = b""


UNCHANGED = Answer(200, None)

_EMPTY = {message: message() for message in (GetStatusRes, AsmSession, ListConversationsRes)}
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer: some 30,000 calls. Records that cannot be written must not stop a whole partition."""
MAX_RETRY_AFTER = 60.0

CODES: dict[int, tuple[int, ...]] = {
    400: (3, 9, 11), 401: (16,), 403: (7,), 404: (5,), 405: (12,), 408: (1, 4), 409: (6, 10), 412: (9,),
    422: (3, 9, 11), 429: (8,), 499: (1,), 500: (2, 13, 15), 501: (12,), 503: (14,), 504: (4,),
}  # fmt: skip
"""HTTP status -> the gRPC codes for which a gateway answers with it (grpc-gateway's ``HTTPStatusFromCode``, now and in
its older releases)."""
_REFUSAL_FIELDS = frozenset({"code", "message", "details", "error"})
_REFUSED = frozenset({400, 404, 409, 412, 422})
_CERTAIN = frozenset({405, 501})
"""Of the other failures, those with which the service says that it did not process the request."""
_EXCERPT = 200
_READ_FOR_EXCERPT = 64 * 1024
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_TAGS = re.compile(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>")


def read_response(
    message: MessageType, response: Response | Failure, *, token: str = "", max_retry_after: float = MAX_RETRY_AFTER
) -> Answer | AsmError:
    """Returns the answer or the error; raises nothing.

    ``token`` never appears in an error's text, also where an answer repeats it; ``max_retry_after`` in seconds.
    """
    if isinstance(response, Failure):
        return Unreachable(response.text, possibly_processed=response.sent, counts_as_outage=response.counts_as_outage)
    if 200 <= response.status < 300:
        return _read_answer(message, response, token)
    wait = retry_after(response, max_retry_after)
    if response.status == 407:
        return Unreachable(f"the proxy: {LOGIN_REQUIRED} (HTTP 407): add them to asm.proxy")
    if (refusal := _refusal(response)) is None:
        return _foreign(response, token, wait)
    return _error(response.status, excerpt(refusal.encode(errors="replace"), token), wait)


def _read_answer(message: MessageType, response: Response, token: str) -> Answer | AsmError:
    """A 2xx answer is the service's if it is a JSON object with at least one field of the message, or ``{}``."""
    status, body = response.status, response.body
    if len(body) > MAX_ANSWER:
        problem = f"has {len(body)} bytes; its records would not fit into Kafka"
    else:
        try:
            read = protojson.read(message, body)
        except protojson.ProtoJSONError as error:
            problem = f"is not a valid {message.__name__}: {error}"
        else:
            if read == _EMPTY[message] and not _is_of(message, body):  # all fields have their defaults: was there any?
                return _foreign(response, token)
            return Answer(status, read, body)
    if not _is_of(message, body):
        return _foreign(response, token)
    return Malformed(f"the answer {problem}", http_status=status, possibly_processed=True)


def _is_of(message: MessageType, body: bytes) -> bool:
    try:
        value = protojson.decode(body)
    except protojson.ProtoJSONError:
        return False
    names = message.__struct_fields__
    known = {*names, *map(protojson.camel, names)}
    return isinstance(value, dict) and (not value or not known.isdisjoint(value))


def _refusal(response: Response) -> str | None:
    """The message of a refusal as the service's gateway prints it, with a code that fits the HTTP status; else None."""
    try:
        value: Any = protojson.decode(response.body)
    except protojson.ProtoJSONError:
        return None
    if not isinstance(value, dict) or not value.keys() <= _REFUSAL_FIELDS:
        return None
    code, text, details = value.get("code"), value.get("message"), value.get("details", [])
    if type(code) is not int or code not in CODES.get(response.status, ()):
        return None
    if not isinstance(text, str) or not isinstance(details, list | None):
        return None
    return text


def _error(status: int, refusal: str, wait: float | None) -> AsmError:
    """The service's own refusal or failure."""
    text = f"HTTP {status}: {refusal}" if refusal else f"HTTP {status}"
    if status in (401, 403):
        return Unauthorized(text, http_status=status)
    if status in (429, 503):  # 503 may come after the service took the request
        return Throttled(text, http_status=status, possibly_processed=status == 503, retry_after=wait)
    if status in _REFUSED:
        return Refused(text, http_status=status)
    return Unavailable(text, http_status=status, possibly_processed=status not in _CERTAIN, retry_after=wait)


def _foreign(response: Response, token: str, wait: float | None = None) -> ForeignAnswer:
    words = excerpt(response.body, token)
    text = f"HTTP {response.status} that is not the service's: {words or 'an empty body'}"
    return ForeignAnswer(text, http_status=response.status, retry_after=wait)


def excerpt(body: bytes, token: str = "") -> str:
    """The first words of a body, without markup, control characters and tokens."""
    text = body[:_READ_FOR_EXCERPT].decode(errors="replace")
    if token:
        text = text.replace(token, "***")
    text = " ".join(_BEARER.sub("Bearer ***", _TAGS.sub(" ", text)).split())
    return printable(text[:_EXCERPT])


def retry_after(response: Response, most: float) -> float | None:
    """Seconds to wait (RFC 9110, section 10.2.3: a number or a date), at most ``most``. A date is counted from the
    response's own Date, so that no clock needs to be right."""
    if response.retry_after is None:
        return None
    value = response.retry_after.strip()
    if value.isascii() and value.isdigit():
        return min(float(value), most)
    until, now = http_date(value), http_date(response.date)
    return None if until is None else min(max(0.0, until - (time.time() if now is None else now)), most)


def http_date(text: str | None) -> float | None:
    """Seconds since 1970 of a date as HTTP has it; None if there is none, or if it is unreadable."""
    try:
        return email.utils.parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError):
        return None
