"""The calls of the ASM service: requests, and what their answers mean."""

import email.utils
import time
from typing import TypeVar

import httpx
import msgspec

from asm_bridge_schemas import protojson
from asm_bridge_schemas.asm import AsmSession
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.asm.http.request import Failure, OnResponse, PreparedRequest, Response, Target
from bridge.asm.transport import Transport, fetch

T = TypeVar("T", bound=msgspec.Struct)

PATH = "/api/v1alpha1/asm/asmapi/"
CALLS = ("getstatus", "getcurrentsession")
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer: some 30,000 calls. What cannot be written must not stop the agents of a whole partition."""
_HEADERS = {"content-type": "application/json", "accept": "application/json", "user-agent": "asm-kafka-bridge"}
_LONGEST_WAIT = 86400.0
"""Seconds; a Retry-After beyond a day is a mistake."""
_REFUSALS = frozenset({400, 404, 409, 412, 422})


class AsmClient:
    """Calls of the ASM service. Raises only ``AsmError``; every call is bounded by the transport's time-outs."""

    def __init__(self, transport: Transport, base_url: str) -> None:
        self._transport = transport
        self._targets = {call: Target.of(httpx.URL(base_url + PATH + call)) for call in CALLS}

    def request(self, call: str, token: str, body: bytes) -> PreparedRequest:
        """A request that may be sent any number of times."""
        return PreparedRequest(self._targets[call], {**_HEADERS, "authorization": f"Bearer {token}"}, body)

    def ask(self, request: PreparedRequest, on_response: OnResponse) -> None:
        """Send; ``on_response`` is called once, later, with the response or ``Failure``, both for ``usable``."""
        self._transport.send(request, on_response)

    async def send(self, request: PreparedRequest) -> tuple[int, bytes]:
        """Status and body of a 2xx answer."""
        return usable(await fetch(self._transport, request))

    async def current_session(self, token: str) -> AsmSession:
        """The caller's session; ``asm_session_sid`` is "0" where there is none (undocumented: any refusal is taken
        for it)."""
        try:
            return read(AsmSession, (await self.send(self.request("getcurrentsession", token, b"{}")))[1])
        except Refused:
            return AsmSession()

    async def aclose(self) -> None:
        await self._transport.aclose()


def usable(answer: Response | Failure) -> tuple[int, bytes]:
    """Status and body of a 2xx answer. Raises ``AsmError`` for any other, and for none."""
    if isinstance(answer, Failure):
        raise Unreachable(answer.text, possibly_processed=answer.sent, counts_as_outage=answer.counts_as_outage)
    status, body, retry_after, _ = answer
    if not 200 <= status < 300:
        raise _failure(status, retry_after)
    if len(body) > MAX_ANSWER:
        text = f"the answer has {len(body)} bytes; its records would not fit into Kafka"
        raise Malformed(text, http_status=status, possibly_processed=True)
    return status, body


def read(cls: type[T], body: bytes) -> T:
    """The answer as a Struct. Raises ``Malformed``."""
    try:
        return protojson.read(cls, body)
    except protojson.ProtoJSONError as error:
        raise Malformed(f"the answer is not a {cls.__name__}: {error}", http_status=200) from error


def _failure(status: int, retry_after: str | None) -> AsmError:
    text = f"HTTP {status}"
    if status == 407:
        return Unreachable("the proxy wants a user and a password (HTTP 407): put them into asm.proxy")
    if status in (401, 403):
        return Unauthorized(text, http_status=status)
    if status in (429, 503):
        return Throttled(text, http_status=status, retry_after=_retry_after(retry_after))
    if status in _REFUSALS:
        return Refused(text, http_status=status)
    if status >= 500:
        return Unavailable(text, http_status=status, possibly_processed=status != 501)
    return Malformed(
        f"HTTP {status}, which is no answer to this call", http_status=status, possibly_processed=200 <= status < 300
    )


def _retry_after(value: str | None) -> float | None:
    """Seconds to wait (RFC 9110, section 10.2.3: a number or a date)."""
    if value is None:
        return None
    value = value.strip()
    try:
        wait = float(value) if value.isascii() and value.isdigit() else _date(value) - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(0.0, wait), _LONGEST_WAIT)


def _date(value: str) -> float:
    return email.utils.parsedate_to_datetime(value).timestamp()
