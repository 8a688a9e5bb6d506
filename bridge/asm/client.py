"""The calls of the ASM service: requests, and the meaning of their answers."""

from collections.abc import Callable
from functools import partial

import httpx
import structlog

from asm_bridge_schemas.asm import AsmSession, GetStatusRes, ListConversationsRes
from bridge.asm.answer import MAX_RETRY_AFTER, UNCHANGED, Answer, MessageType, read_response
from bridge.asm.errors import AsmError, Malformed, Refused
from bridge.asm.http.request import PreparedRequest, Target
from bridge.asm.http.response import Failure, Response
from bridge.asm.transport import Transport, fetch

log = structlog.get_logger()

OnAnswer = Callable[[Answer | AsmError], None]

PATH = "/api/v1alpha1/asm/asmapi/"
CALLS: dict[str, MessageType] = {
    "getstatus": GetStatusRes,
    "getcurrentsession": AsmSession,
    "listconversations": ListConversationsRes,
}
"""Each call, and the message that answers it."""
HEADERS = {"content-type": "application/json", "accept": "application/json", "user-agent": "asm-kafka-bridge"}


class AsmClient:
    """Calls of the ASM service. The transport's time-outs bound every call, and ``AsmError`` is the only error."""

    def __init__(self, transport: Transport, base_url: str, max_retry_after: float = MAX_RETRY_AFTER) -> None:
        self._transport = transport
        self._max_retry_after = max_retry_after
        self._targets = {call: Target.of(httpx.URL(base_url + PATH + call)) for call in CALLS}
        self._messages = {self._targets[call]: message for call, message in CALLS.items()}

    def request(self, call: str, token: str, body: bytes, *, repeatable: bool = False) -> PreparedRequest:
        """A request that may be sent any number of times; ``repeatable``: one that carries no events."""
        authorization = f"Bearer {token}"
        return PreparedRequest(self._targets[call], HEADERS, body, authorization=authorization, repeatable=repeatable)

    def send(self, request: PreparedRequest, on_answer: OnAnswer, known: bytes | None = None) -> None:
        """Sends a request; ``on_answer`` is called once, later, with the decoded answer or with the error.

        An answer whose body is ``known`` is not read: it is ``UNCHANGED``.
        """
        self._transport.send(request, partial(self._on_response, request, on_answer, known))

    async def current_session(self, token: str) -> AsmSession:
        """The caller's session; its ``asm_session_sid`` is "0" if there is none (undocumented: any refusal counts as
        that). Raises ``AsmError``.
        """
        request = self.request("getcurrentsession", token, b"{}", repeatable=True)
        answer = self._read(request, await fetch(self._transport, request))
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
            answer = self._read(request, response)
        except Exception as error:  # a bug of ours must not leave the agent waiting forever
            log.exception("answer.unreadable", error=error)
            answer = Malformed(type(error).__name__, possibly_processed=True)
        on_answer(answer)

    def _read(self, request: PreparedRequest, response: Response | Failure) -> Answer | AsmError:
        return read_response(
            self._messages[request.target],
            response,
            token=(request.authorization or "").removeprefix("Bearer "),
            max_retry_after=self._max_retry_after,
        )
