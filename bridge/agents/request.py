"""The requests of one agent: pure. A request without events is built once, and reused as long as it stays the same."""

from dataclasses import dataclass
from typing import Any

import msgspec

from asm_bridge_schemas.commands import SessionEntry
from bridge.agents.injection import Injection


@dataclass(slots=True)
class PollRequest:
    """A request to make.

    ``call`` is the service's name of it; ``sid`` its session (None: the current one); ``calls`` and ``messages``:
    whether it requests these; ``known``: the body of the answer whose content is in the agent's state.
    ``prepared`` and ``sent_at`` (monotonic seconds) belong to the sender.
    """

    call: str
    body: bytes
    stream_id: str | None
    sid: str | None = None
    injections: tuple[Injection, ...] = ()
    calls: bool = False
    messages: bool = False
    known: bytes | None = None
    token: str = ""
    prepared: Any = None
    sent_at: float = 0.0


class RequestBuilder:
    """Builds an agent's requests, and keeps the one without events.

    ``cursor``: messages are requested from this timestamp on. ``known``: the body of the last answer that was applied;
    None ensures that the next answer is decoded.
    """

    __slots__ = ("_plain", "cursor", "known")

    def __init__(self, cursor: int) -> None:
        self.cursor = cursor
        self.known: bytes | None = None
        self._plain: PollRequest | None = None

    def forget(self) -> None:
        """Builds the next request again, and reads its answer: the session or the contents of the request have
        changed.
        """
        self._plain = self.known = None

    def move_cursor(self, cursor: int) -> None:
        if cursor != self.cursor:
            self.cursor, self._plain = cursor, None

    def session(self, token: str, stream_id: str | None, sid: str | None) -> PollRequest:
        """Builds a request for the current session; ``sid`` is the one known so far."""
        return PollRequest("getcurrentsession", b"{}", stream_id, sid, token=token)

    def status(
        self,
        token: str,
        stream_id: str | None,
        sid: str,
        entry: SessionEntry,
        injections: tuple[Injection, ...] = (),
    ) -> PollRequest:
        """Builds a request for the status of session ``sid``, with ``injections``."""
        plain = self._plain
        if plain is not None and not injections:
            if plain.token != token:
                plain.token, plain.prepared = token, None
            plain.known = self.known
            return plain
        body = {
            "asm_session_sid": sid,
            "perform_keep_alive": entry.keep_alive,
            "perform_get_queued_calls": entry.get_queued_calls,
            "perform_get_message": entry.get_messages,
            "minimum_message_timestamp": str(self.cursor),
            "skills": entry.skills,
            "events": [injection.event.value for injection in injections if injection.event],
            "agent_pbx_extensions": entry.agent_pbx_extensions,
        }
        built = PollRequest(
            call="getstatus",
            body=msgspec.json.encode(body),
            stream_id=stream_id,
            sid=sid,
            injections=injections,
            calls=entry.get_queued_calls,
            messages=entry.get_messages,
            token=token,
        )
        if not injections:
            self._plain, built.known = built, self.known
        return built
