"""The conversations of one agent: when to request them, and the changes that a complete list shows. Pure."""

from base64 import b64encode
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from asm_bridge_schemas.asm import ListConversationsRes, OmniConversation
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.records import ConversationChanged
from bridge.agents.bounds import MAX_BYTES
from bridge.agents.request import PollRequest
from bridge.agents.step import Step
from bridge.asm.answer import Answer
from bridge.asm.errors import AsmError, Malformed
from bridge.backoff import Backoff
from bridge.clock import Instant

LIST_CONVERSATIONS = "listconversations"

MAX_IN_VIEW = 200
"""Conversations of one agent whose changes are published: the state has some 120 bytes for each, and is written with
every change of the agent. Those in view stay in view until they leave the list; the next in the list takes the place
of one that has left."""
MAX_PAGES = 100
MAX_LIST = 16 * 1024 * 1024
"""Bytes of all pages together. A longer list is ignored, as it cannot be read completely."""

_FIELDS = OmniConversation.__struct_fields__
_NONE: dict[str, OmniConversation] = {}
_DIGEST = 4
"""Characters of a field's digest."""


class ConversationList:
    """Requests an agent's conversations, page by page, and compares a list once its last page has arrived.

    ``interval`` in seconds, None if they are not requested; ``due``: whether to start or continue a list. A failure
    changes nothing: the list is requested again, from its first page, at a tick after the back-off (``delay(failures)``
    seconds).
    """

    __slots__ = (
        "_bytes", "_delay", "_failures", "_known", "_last_seen", "_not_before", "_page_token", "_pages", "_read",
        "_request", "due", "interval",
    )  # fmt: skip

    def __init__(self, delay: Callable[[int], float]) -> None:
        self.interval: float | None = None
        self.due = False
        self._delay = delay
        self._failures = 0
        self._not_before = 0.0
        self._known: bytes | None = None
        self._last_seen = _NONE
        self._read = _NONE
        self._request: PollRequest | None = None
        self._begin()

    def watch(self, step: Step, entry: SessionEntry) -> None:
        """Applies ``entry``; conversations that are no longer requested leave the view."""
        self.interval = entry.conversations_interval if entry.get_conversations else None
        self.due, self._not_before = entry.get_conversations, 0.0
        self._known = None
        self._begin()
        if not entry.get_conversations:
            self.leave(step)

    def tick(self, at: Instant) -> None:
        """An interval has passed."""
        self.due = self.due or (self.interval is not None and at.monotonic >= self._not_before)

    def request(self, token: str, stream_id: str | None, sid: str) -> PollRequest:
        """Builds the request for the next page.

        The vendor's descriptors give the answer a ``next_page_token`` and the request no field to send it back in.
        ``page_token`` is what Google's API design (AIP-158) calls that field. A service that does not know it refuses
        the request: then nothing is concluded about an agent whose conversations do not fit on one page.
        """
        body = {"asm_session_sid": sid}
        if self._page_token:
            body["page_token"] = self._page_token
        known = None if self._page_token else self._known
        self._request = PollRequest(
            LIST_CONVERSATIONS, msgspec.json.encode(body), stream_id, sid, known=known, token=token
        )
        return self._request

    def answered(self, step: Step, request: PollRequest, answer: Answer) -> None:
        """Handles a page; one of an abandoned list is ignored. Raises ``Malformed`` if the list cannot be read
        completely."""
        if request is not self._request:
            return
        if isinstance(answer.message, ListConversationsRes):
            self._take(step, answer.message, len(answer.body))
            if self._page_token:
                return
            self._compare(step)
            self._known = answer.body if self._pages == 1 else None
        self._failures = 0
        self._end()

    def failed(self, request: PollRequest, error: AsmError, at: Instant) -> None:
        """Handles a failed request: the list starts over, later."""
        if request is not self._request:
            return
        self._not_before = at.monotonic + max(self._delay(self._failures), error.retry_after or 0.0)
        self._failures += 1
        self._end()

    def leave(self, step: Step) -> None:
        """Empties the view: the session has ended, or conversations are not requested."""
        self._known = None
        self._begin()
        for sid in step.state.bridge.conversations:
            _emit(step, "left", sid, [], self._last_seen.get(sid))
        if step.state.bridge.conversations:
            step.book(conversations={})
        self._last_seen = _NONE
        self.due = self.interval is not None

    def _begin(self) -> None:
        self._page_token, self._pages, self._bytes = "", 0, 0
        self._read, self._request = _NONE, None

    def _end(self) -> None:
        self.due = False
        self._begin()

    def _take(self, step: Step, page: ListConversationsRes, size: int) -> None:
        """Keeps the page's conversations, but no more new ones than may come into view."""
        if not self._pages:
            self._read = {}
        self._pages += 1
        self._bytes += size
        in_view, room = step.state.bridge.conversations, 2 * MAX_IN_VIEW
        for conversation in page.conversations:
            sid = conversation.conversation_sid
            if sid != "0" and (sid in in_view or sid in self._read or len(self._read) < room):
                self._read[sid] = conversation
        token, self._page_token = self._page_token, page.next_page_token
        if self._page_token and (self._page_token == token or self._pages >= MAX_PAGES or self._bytes > MAX_LIST):
            problem = f"after {self._pages} pages with {self._bytes} bytes the list of conversations does not end"
            raise Malformed(problem, http_status=200)

    def _compare(self, step: Step) -> None:
        known = step.state.bridge.conversations
        for sid in known:
            if sid not in self._read:
                _emit(step, "left", sid, [], self._last_seen.get(sid))
        view = {sid: digests for sid, digests in known.items() if sid in self._read}
        seen: dict[str, OmniConversation] = {}
        for sid, conversation in self._read.items():
            if sid not in view and len(view) >= MAX_IN_VIEW:
                continue
            seen[sid] = conversation
            if sid in view and self._last_seen.get(sid) == conversation:
                continue
            digests = _digests(conversation)
            if view.get(sid) != digests:
                if (old := view.get(sid)) is None:
                    _emit(step, "entered", sid, list(_FIELDS), conversation)
                else:
                    _emit(step, "updated", sid, _differing(old, digests), conversation)
                view[sid] = digests
        self._last_seen = seen
        if view != known:
            step.book(conversations=view)


NOT_ASKED = ConversationList(Backoff().delay)
"""Shared by all agents whose conversations were never asked for: nothing that they do changes it."""


def _emit(step: Step, change: str, sid: str, changed: list[str], conversation: OmniConversation | None) -> None:
    published = conversation and _published(conversation)
    step.emit(ConversationChanged, change=change, conversation_sid=sid, changed=changed, conversation=published)


def _published(conversation: OmniConversation) -> dict[str, Any] | None:
    """The conversation in snake_case; None for one that no record can hold."""
    fields: dict[str, Any] = msgspec.to_builtins(conversation)
    return fields if len(msgspec.json.encode(fields)) <= MAX_BYTES else None


def _digests(conversation: OmniConversation) -> str:
    values = (msgspec.json.encode(getattr(conversation, name)) for name in _FIELDS)
    return "".join(b64encode(blake2b(value, digest_size=3).digest()).decode() for value in values)


def _differing(old: str, new: str) -> list[str]:
    """The names of the fields whose digests differ; one that the release before did not know counts as different."""
    places = range(0, len(new), _DIGEST)
    return [name for name, at in zip(_FIELDS, places, strict=True) if old[at : at + _DIGEST] != new[at : at + _DIGEST]]
