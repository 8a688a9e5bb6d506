"""The record of what the service showed to each agent and accepted from it, to compare with the records in Kafka."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from bridge.testing.simulator.wire import Value

T = TypeVar("T")


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """An own status that differs from the one shown before; ``at`` in seconds since 1970."""

    at: float
    asm_session_sid: str
    status_desc: str
    last_status_change: int


class MessageShown(msgspec.Struct, frozen=True, kw_only=True):
    """A message, the first time it was shown."""

    at: float
    message: str
    message_timestamp: int


class AlertShown(msgspec.Struct, frozen=True, kw_only=True):
    """An alert that came into view; ``kind`` and ``alert_id`` are null for a view without one."""

    at: float
    kind: str | None
    alert_id: str | None


class CallsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The calls in view, as [list, call_sid], when they differ from those before."""

    at: float
    calls: list[tuple[str, str]]


class ConversationsShown(msgspec.Struct, frozen=True, kw_only=True):
    """The conversations of a list that was read to its end, when they differ from those before: sid -> status."""

    at: float
    asm_session_sid: str
    conversations: dict[str, str]


class TakenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that the service accepted; ``event`` in snake_case, with int64 as digits."""

    index: int
    agent_id: str
    asm_session_sid: str
    event: dict[str, Any]
    at: float
    request: int


class RefusedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in a request that the service refused; ``alone``: it had no other event."""

    agent_id: str
    event: dict[str, Any]
    status: int
    alone: bool
    at: float


class Conduct(msgspec.Struct, kw_only=True):
    """Everything that one agent was shown and requested. ``truncated``: a list reached its limit and lost its oldest
    entries.
    """

    requests: int = 0
    polls: int = 0
    shown: int = 0
    """Answers with a picture in them."""
    in_flight: int = 0
    overlaps: int = 0
    """Requests that came while another of this agent was under way: a client should make none."""
    early_after_429: int = 0
    early_after_503: int = 0
    """Requests that came before the Retry-After of such an answer had passed."""
    last_poll_at: float | None = None
    gaps: list[float] = []
    """Seconds between the beginnings of polls."""
    pictures: list[Picture] = []
    messages: list[MessageShown] = []
    alerts: list[AlertShown] = []
    calls: list[CallsShown] = []
    conversations: list[ConversationsShown] = []
    lists: int = 0
    """Lists of conversations that were read to their end."""
    truncated: bool = False
    last_status: dict[str, Any] | None = None
    """The own status last shown."""
    last_answer: msgspec.Raw | None = None
    """The last answer with a picture, as sent (JSON)."""


class Ledger:
    """Keeps the newest ``limit`` entries of each list (None: all)."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.events: list[TakenEvent] = []
        self.events_taken = 0
        self.refused: list[RefusedEvent] = []
        self.truncated = False

    def polled(self, conduct: Conduct, now: float) -> None:
        """A poll began."""
        conduct.polls += 1
        if conduct.last_poll_at is not None:
            self._keep(conduct, conduct.gaps, round(now - conduct.last_poll_at, 6))
        conduct.last_poll_at = now

    def status_shown(self, conduct: Conduct, now: float, asm_session_sid: str, status: Value) -> None:
        """Remembers the own status if it differs from the last one."""
        picture = Picture(
            at=now,
            asm_session_sid=asm_session_sid,
            status_desc=status["status_desc"],
            last_status_change=status["last_status_change"],
        )
        last = conduct.pictures[-1] if conduct.pictures else None
        if last is None or conduct.last_status != status or last.asm_session_sid != asm_session_sid:
            self._keep(conduct, conduct.pictures, picture)
        conduct.last_status = status

    def message_shown(self, conduct: Conduct, now: float, stamp: int, text: str) -> None:
        """Remembers the message if it differs from the last one."""
        last = conduct.messages[-1] if conduct.messages else None
        if last is None or (last.message_timestamp, last.message) != (stamp, text):
            self._keep(conduct, conduct.messages, MessageShown(at=now, message=text, message_timestamp=stamp))

    def alert_shown(self, conduct: Conduct, now: float, alert: Value | None) -> None:
        """Remembers the alert in view, or that there is none, if that differs from before."""
        kind = next(iter(alert)) if alert else None
        shown = AlertShown(at=now, kind=kind, alert_id=alert[kind]["id"] if alert and kind else None)
        last = conduct.alerts[-1] if conduct.alerts else AlertShown(at=now, kind=None, alert_id=None)
        if (last.kind, last.alert_id) != (shown.kind, shown.alert_id):
            self._keep(conduct, conduct.alerts, shown)

    def calls_shown(self, conduct: Conduct, now: float, queued: Value) -> None:
        """Remembers the calls in view if they differ from before."""
        calls = [
            (name.removesuffix("_calls"), str(call["call_sid"])) for name, found in queued.items() for call in found
        ]
        if calls != (conduct.calls[-1].calls if conduct.calls else []):
            self._keep(conduct, conduct.calls, CallsShown(at=now, calls=calls))

    def conversations_shown(self, conduct: Conduct, now: float, asm_session_sid: str, listed: Iterable[Value]) -> None:
        """Remembers the conversations of a list, or that another session had them, if that differs from before."""
        conduct.lists += 1
        found = {str(one["conversation_sid"]): str(one["status"]) for one in listed}
        last = conduct.conversations[-1] if conduct.conversations else None
        if last is None or (last.asm_session_sid, last.conversations) != (asm_session_sid, found):
            shown = ConversationsShown(at=now, asm_session_sid=asm_session_sid, conversations=found)
            self._keep(conduct, conduct.conversations, shown)

    def take(self, agent_id: str, asm_session_sid: str, events: Iterable[Value], now: float, request: int) -> None:
        """Remembers the events of one request, in order."""
        for event in events:
            taken = TakenEvent(
                index=self.events_taken,
                agent_id=agent_id,
                asm_session_sid=asm_session_sid,
                event=event,
                at=now,
                request=request,
            )
            self.truncated |= self._append(self.events, taken)
            self.events_taken += 1

    def refuse(self, agent_id: str, events: Sequence[Value], status: int, now: float) -> None:
        """Remembers that the request with these events was refused."""
        for event in events:
            refused = RefusedEvent(agent_id=agent_id, event=event, status=status, alone=len(events) == 1, at=now)
            self.truncated |= self._append(self.refused, refused)

    def _keep(self, conduct: Conduct, entries: list[T], entry: T) -> None:
        conduct.truncated |= self._append(entries, entry)

    def _append(self, entries: list[T], entry: T) -> bool:
        """True if older entries were dropped, which happens in batches, so that it stays cheap."""
        entries.append(entry)
        if self.limit is None or len(entries) <= self.limit:
            return False
        del entries[: self.limit // 10 + 1]
        return True
