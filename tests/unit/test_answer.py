"""Only the service's own answers and refusals have a meaning; all others are foreign."""

import json
from email.utils import formatdate
from typing import Any

import pytest

from asm_bridge_schemas.asm import AsmSession, GetStatusRes
from bridge.asm.answer import CODES, MAX_RETRY_AFTER, Answer, MessageType, excerpt, read_response
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
from bridge.asm.http.response import Failure, Response

HTML = b"<html><head><title>404 Not Found</title></head><body><h1>404 Not Found</h1></body></html>"
TOKEN = "tok-3f9a7c12"


def read(status: int, body: Any, message: MessageType = GetStatusRes, **head: str) -> Answer | AsmError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_response(message, Response(status, raw, **head), token=TOKEN)


def refusal(status: int, **fields: Any) -> dict[str, Any]:
    """A refusal as the service's gateway prints it."""
    return {"code": CODES[status][0], "message": "no", "details": [], **fields}


@pytest.mark.parametrize(
    ("message", "body"),
    [
        (GetStatusRes, {}),
        (GetStatusRes, {"voiceStatus": None}),
        (GetStatusRes, {"voice_status": {"status_desc": "READY"}, "new": 1}),
        (AsmSession, {}),
        (AsmSession, {"asmSessionSid": "0"}),
        (AsmSession, {"voiceSession": None}),
        (AsmSession, {"asm_session_sid": 7}),
    ],
)
@pytest.mark.parametrize("status", [200, 201, 299])
def test_an_object_with_a_field_of_the_message_is_an_answer(status: int, message: MessageType, body: Any) -> None:
    """A 2xx answer counts if its body is a JSON object with at least one field of the message, or an empty object."""
    answer = read(status, body, message)
    assert isinstance(answer, Answer)
    assert isinstance(answer.message, message)
    assert answer.status == status


FOREIGN_BODIES = [
    b"", b" ", HTML, b"OK", b"null", b"[]", b"7", b'"{}"', b"\xff", b'{"voiceStatus":', b"[" * 9999,
    b'{"code": 14, "message": "upstream connect error"}', b'{"error": "not found"}', b'{"message": "no route"}',
    b'{"error": {"code": 400, "message": "bad request", "status": "INVALID_ARGUMENT"}}', b'{"status": "ok"}',
]  # fmt: skip


@pytest.mark.parametrize("body", FOREIGN_BODIES)
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 409, 412, 413, 422, 429, 499, 500, 501, 502, 503])
def test_everything_else_is_foreign(status: int, body: bytes) -> None:
    """Pages, redirects, empty bodies, envelopes and other programs' errors are foreign, whatever their status."""
    for message in (GetStatusRes, AsmSession):
        error = read(status, body, message)
        if status == 503 and b'"code": 14' in body:
            assert isinstance(error, Throttled)  # the service's own way to say that it is unavailable
            continue
        assert isinstance(error, ForeignAnswer)
        assert (error.reason, error.http_status, error.possibly_processed) == ("foreign_answer", status, True)


@pytest.mark.parametrize(
    "body",
    [
        {"code": 404, "message": "no"},
        {"code": 14, "message": "no healthy upstream", "details": []},
        {"code": 5},
        {"code": "5", "message": "no"},
        {"code": 5.0, "message": "no"},
        {"code": True, "message": "no"},
        {"code": 5, "message": None},
        {"code": 5, "message": "no", "details": {}},
        {"code": 5, "message": "no", "trace": "a"},
        {"code": 0, "message": "no"},
        {"code": 17, "message": "no"},
    ],
)
def test_a_refusal_that_does_not_look_like_the_services_is_foreign(body: Any) -> None:
    """A refusal needs a gRPC code that fits its HTTP status, a message, and nothing that the gateway does not print."""
    assert isinstance(read(404, body), ForeignAnswer)


KINDS: dict[int, tuple[type[AsmError], bool]] = {
    **dict.fromkeys((400, 404, 409, 412, 422), (Refused, False)),
    **dict.fromkeys((401, 403), (Unauthorized, False)),
    429: (Throttled, False),
    503: (Throttled, True),
    **dict.fromkeys((405, 501), (Unavailable, False)),
    **dict.fromkeys((408, 499, 500, 504), (Unavailable, True)),
}


@pytest.mark.parametrize("status", CODES)
@pytest.mark.parametrize("shape", [{}, {"error": "no"}, {"details": None}])
def test_the_services_own_refusals_are_told_apart(status: int, shape: Any) -> None:
    """Each status of a refusal raises its own error, and one that may follow processing says so."""
    for code in CODES[status]:
        error = read(status, refusal(status, code=code, **shape))
        assert isinstance(error, AsmError)
        assert (type(error), error.possibly_processed, error.http_status) == (*KINDS[status], status)


def test_a_refusal_without_details_is_the_services() -> None:
    """A refusal without details is the service's own, since protobuf's JSON may leave out an empty list."""
    assert isinstance(read(404, {"code": 5, "message": "session not found"}), Refused)


@pytest.mark.parametrize("sent", [True, False])
def test_no_response_is_unreachable(sent: bool) -> None:
    """A failed connection raises Unreachable, which says whether the request was sent."""
    error = read_response(GetStatusRes, Failure("cut", sent))
    assert isinstance(error, Unreachable)
    assert error.possibly_processed is sent


@pytest.mark.parametrize("body", [b'{"voiceStatus": 1}', b'{"voiceStatus": ["READY"]}'])
def test_an_answer_of_the_service_that_cannot_be_read_is_malformed(body: bytes) -> None:
    """An unreadable answer of the service is malformed, but has delivered the request's events."""
    error = read(200, body)
    assert isinstance(error, Malformed)
    assert (error.http_status, error.possibly_processed) == (200, True)


# -- what the operator sees


def test_the_first_words_of_a_foreign_page_are_shown() -> None:
    """An error shows the first words of a foreign page, without its markup."""
    error = read(404, HTML)
    assert "404 Not Found" in str(error)
    assert "<" not in str(error)
    assert "an empty body" in str(read(200, b""))


def test_an_excerpt_is_short_and_printable() -> None:
    """An excerpt is short and has no control characters."""
    assert len(excerpt(b"word " * 100_000)) <= 200
    assert excerpt(b"<script>var x = 1</script><b>a\x1b[31m</b>\r\n\tb") == "a\\x1b[31m b"


@pytest.mark.parametrize(
    "echo", [f"you sent {TOKEN}", f"Authorization: Bearer {TOKEN}", "authorization: bearer abc.def"]
)
def test_no_token_is_shown(echo: str) -> None:
    """A page that repeats the request's headers does not bring the token into an error."""
    for status, body in ((403, echo.encode()), (403, json.dumps(refusal(403, message=echo)).encode())):
        text = str(read(status, body))
        assert TOKEN not in text
        assert "abc.def" not in text


# -- how long to wait


@pytest.mark.parametrize("body", [json.dumps(refusal(429)).encode(), HTML])
@pytest.mark.parametrize(
    ("header", "date", "wait"),
    [
        ("7", None, 7),
        (" 0 ", None, 0),
        ("3600", None, MAX_RETRY_AFTER),
        ("9" * 400, None, MAX_RETRY_AFTER),
        (formatdate(1000, usegmt=True), formatdate(990, usegmt=True), 10),
        (formatdate(1000, usegmt=True), formatdate(1010, usegmt=True), 0),
        (formatdate(1000, usegmt=True), None, 0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", "soon", MAX_RETRY_AFTER),
        (formatdate(1000).replace("GMT", "-0000"), formatdate(990, usegmt=True), 10),
        ("", None, None),
        ("soon", None, None),
        ("-1", None, None),
        ("1.5", None, None),
        ("0x10", None, None),
        ("\xb2", None, None),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str, date: str | None, wait: float | None, body: bytes) -> None:
    """Retry-After is a number, or a date relative to the answer's own Date, up to the limit, also in a
    foreign answer.
    """
    error = read_response(GetStatusRes, Response(429, body, header, date))
    assert isinstance(error, AsmError)
    assert error.retry_after == wait
