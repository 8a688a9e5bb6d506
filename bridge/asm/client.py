"""The calls of the ASM service: requests, and what their answers mean."""

import email.utils
import time
from collections.abc import Callable
from functools import partial

import httpx
import structlog

from asm_bridge_schemas import protojson
from asm_bridge_schemas.asm import AsmSession, GetStatusRes
from bridge.asm.answer import UNCHANGED, Answer
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized, Unavailable, Unreachable
from bridge.asm.http.request import Failure, PreparedRequest, Response, Target
from bridge.asm.transport import Transport, fetch

log = structlog.get_logger()

OnAnswer = Callable[[Answer | AsmError], None]

PATH = "/api/v1alpha1/asm/asmapi/"
CALLS: dict[str, type[GetStatusRes | AsmSession]] = {"getstatus": GetStatusRes, "getcurrentsession": AsmSession}
"""Each call, and the message that answers it."""
MAX_ANSWER = 8 * 1024 * 1024
"""Bytes of an answer: some 30,000 calls. What cannot be written must not stop the agents of a whole partition."""
_HEADERS = {"content-type": "application/json", "accept": "application/json", "user-agent": "asm-kafka-bridge"}
_LONGEST_WAIT = 86400.0
"""Seconds; a Retry-After beyond a day is a mistake."""
_REFUSALS = frozenset({400, 404, 409, 412, 422})


class AsmClient:
    """Calls of the ASM service. Every call is bounded by the transport's time-outs, and no error but ``AsmError`` comes
    out of it."""

    def __init__(self, transport: Transport, base_url: str) -> None:
        self._transport = transport
        self._targets = {call: Target.of(httpx.URL(base_url + PATH + call)) for call in CALLS}
        self._messages = {self._targets[call]: message for call, message in CALLS.items()}

    def request(self, call: str, token: str, body: bytes, *, repeatable: bool = False) -> PreparedRequest:
        """A request that may be sent any number of times; ``repeatable``: one that carries no events."""
        headers = {**_HEADERS, "authorization": f"Bearer {token}"}
        return PreparedRequest(self._targets[call], headers, body, repeatable=repeatable)

    def send(self, request: PreparedRequest, on_answer: OnAnswer, known: bytes | None = None) -> None:
        """Send; ``on_answer`` is called once, later, with the answer, read, or with the error.

        An answer whose body is ``known`` is not read: it is ``UNCHANGED``.
        """
        self._transport.send(request, partial(self._on_response, request, on_answer, known))

    async def current_session(self, token: str) -> AsmSession:
        """The caller's session; ``asm_session_sid`` is "0" where there is none (undocumented: any refusal is taken
        for it). Raises ``AsmError``."""
        response = await fetch(self._transport, self.request("getcurrentsession", token, b"{}", repeatable=True))
        answer = read_response(AsmSession, response)
        if isinstance(answer, Refused):
            return AsmSession()
        if isinstance(answer, AsmError):
            raise answer
        assert isinstance(answer.message, AsmSession)
        return answer.message

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _on_response(
        self, request: PreparedRequest, on_answer: OnAnswer, known: bytes | None, response: Response | Failure
    ) -> None:
        if isinstance(response, Response) and response.body == known and response.status == 200:
            on_answer(UNCHANGED)
            return
        answer: Answer | AsmError
        try:
            answer = read_response(self._messages[request.target], response)
        except Exception as error:  # a fault of ours with this answer must not leave its agent waiting for ever
            log.exception("answer.unreadable", error=error)
            answer = Malformed(type(error).__name__, possibly_processed=True)
        on_answer(answer)


def read_response(message: type[GetStatusRes | AsmSession], response: Response | Failure) -> Answer | AsmError:
    """What a response means: the answer, or the error. Raises nothing."""
    if isinstance(response, Failure):
        return Unreachable(response.text, possibly_processed=response.sent, counts_as_outage=response.counts_as_outage)
    if not 200 <= response.status < 300:
        return _failure(response.status, response.retry_after)
    if len(response.body) > MAX_ANSWER:
        text = f"the answer has {len(response.body)} bytes; its records would not fit into Kafka"
        return Malformed(text, http_status=response.status, possibly_processed=True)
    try:
        return Answer(response.status, protojson.read(message, response.body), response.body)
    except protojson.ProtoJSONError as error:
        text = f"the answer is not a {message.__name__}: {error}"
        return Malformed(text, http_status=response.status, possibly_processed=True)


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
