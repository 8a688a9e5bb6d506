"""What waits for one agent, and what becomes of it: pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from asm_bridge_schemas.records import AgentState, ConversationEventDelivered, Delivered, InjectionCompleted, Outcome
from bridge.agents.injection import MAX_BYTES, Entry
from bridge.agents.step import DeadLetter, Step
from bridge.clock import rfc3339

REMEMBERED = 100
"""Delivered injections by which a repeated one is known."""
_REQUEST_BYTES = 2 * MAX_BYTES


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of the section ``injection``; times in seconds."""

    ttl: float = 300.0
    unknown_agent_grace: float = 10.0
    max_attempts: int = 10
    max_events_per_request: int = 20
    max_pending: int = 1000


class InjectionQueue:
    """The entries of one agent that are not finished, in order.

    ``solo``: how many of the first are sent one by one, because they were refused together.
    """

    __slots__ = ("_limits", "entries", "solo")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.entries: list[Entry] = []
        self.solo = 0

    def __bool__(self) -> bool:
        return bool(self.entries)

    def add(self, step: Step, entry: Entry) -> None:
        """Take an entry in, or finish it at once where it cannot be sent."""
        self.entries.append(entry)
        if entry.fault:
            self._undeliverable(step, entry, *entry.fault)
        elif step.now >= entry.expires_at:
            self._complete(step, entry, "expired")
        elif _delivered(entry) in step.state.delivered and entry.identified:
            self._complete(step, entry, "duplicate")
        elif len(self.entries) > self._limits.max_pending:
            self._undeliverable(
                step, entry, "backlog", f"more than {self._limits.max_pending} events wait for this agent"
            )

    def take(self, now: float) -> list[Entry]:
        """The entries for the next request; of two with the same id, the second waits."""
        most = 1 if self.solo else self._limits.max_events_per_request
        taken: list[Entry] = []
        size, ids = 0, set()
        for entry in self.entries:
            size += entry.size
            if (
                len(taken) == most
                or (taken and size > _REQUEST_BYTES)
                or (entry.identified and _delivered(entry) in ids)
            ):
                break
            if now < entry.expires_at:
                taken.append(entry)
                ids.add(_delivered(entry))
        return taken

    def delivered(self, step: Step, taken: Iterable[Entry], sid: str | None, http_status: int) -> None:
        """The service took these, in session ``sid``."""
        for entry in taken:
            assert entry.injection is not None
            step.tell(
                ConversationEventDelivered,
                trace=entry.trace,
                asm_session_sid=sid,
                kind=entry.injection.kind,
                conversation_sid=entry.injection.conversation_sid,
                event=entry.injection.event,
                injection_id=entry.injection_id,
                delivered_at=step.at,
            )
            entry.http_status = http_status
            self._complete(step, entry, "delivered", sid=sid)
            if entry.identified:
                step.set(delivered=[*step.state.delivered, _delivered(entry)][-REMEMBERED:])
                self._repeated(step, _delivered(entry))

    def refused(self, step: Step, sent: Sequence[Entry], http_status: int | None) -> None:
        """The service refused what was sent: one alone is rejected; of several, those left are tried one by one."""
        left = [entry for entry in sent if entry in self.entries]
        if len(sent) > 1:
            self.solo = len(left)
            return
        for entry in left:
            entry.http_status = http_status
            text = f"the service refused the event with HTTP {http_status}"
            self._complete(step, entry, "rejected", "refused", text)

    def failed(self, step: Step, taken: Iterable[Entry], http_status: int | None, possibly_processed: bool) -> None:
        """A try that told nothing about the events themselves."""
        for entry in taken:
            entry.http_status = http_status
            entry.possibly_processed |= possibly_processed
            if entry.attempts >= self._limits.max_attempts:
                text = f"{entry.attempts} attempts failed; the last answer was {http_status or 'none'}"
                self._undeliverable(step, entry, "attempts_exhausted", text)

    def sweep(self, step: Step, busy: Iterable[Entry], unknown_since: float | None) -> None:
        """Finish what has expired, and what waited too long for an agent that is unknown since then."""
        under_way = {entry.offset for entry in busy}
        self._each(lambda e: e.offset not in under_way and step.now >= e.expires_at, step, "expired")
        if unknown_since is None:
            return
        for entry in list(self.entries):
            waited = step.now - max(entry.received_at, unknown_since)
            if waited >= self._limits.unknown_agent_grace and entry.offset not in under_way:
                text = f"no agent {entry.agent_id!r} is registered in the sessions topic"
                self._undeliverable(step, entry, "unknown_agent", text)

    def _repeated(self, step: Step, done: Delivered) -> None:
        self._each(lambda entry: entry.identified and _delivered(entry) == done, step, "duplicate")

    def _each(self, which: Callable[[Entry], bool], step: Step, outcome: Outcome) -> None:
        for entry in [entry for entry in self.entries if which(entry)]:
            self._complete(step, entry, outcome)

    def _undeliverable(self, step: Step, entry: Entry, code: str, text: str) -> None:
        self._complete(step, entry, "undeliverable", code, text)

    def _complete(
        self,
        step: Step,
        entry: Entry,
        outcome: Outcome,
        reason: str | None = None,
        text: str | None = None,
        sid: str | None = None,
    ) -> None:
        """The one place where an entry ends: its outcome, its dead letter, its offset."""
        position = self.entries.index(entry)
        del self.entries[position]
        self.solo = max(0, self.solo - (position < self.solo))
        step.tell(
            InjectionCompleted,
            trace=entry.trace,
            asm_session_sid=sid or step.state.asm_session_sid,
            injection_id=entry.injection_id,
            source=entry.source,
            entry=entry.entry,
            outcome=outcome,
            reason=reason,
            http_status=entry.http_status,
            attempts=entry.attempts,
            possibly_repeated=entry.possibly_processed and entry.fault is None and outcome != "duplicate",
            received_at=rfc3339(entry.received_at),
            completed_at=step.at,
        )
        if text is not None:
            step.dead_letters.append(
                DeadLetter(
                    key=entry.key,
                    value=entry.value if entry.size <= MAX_BYTES else None,
                    headers=tuple(entry.headers),
                    code=reason or outcome,
                    text=text,
                    origin=entry.origin,
                )
            )
        step.finished.append(entry.offset)
        step.set(**self._account(step.state, entry.offset))

    def _account(self, state: AgentState, finished: int) -> dict[str, Any]:
        """What the state says of the inbox once ``finished`` is; open ones may not have been read again yet."""
        last = max(state.inbox_offset, finished)
        still_open = {*state.inbox_open, *(entry.offset for entry in self.entries if entry.offset < last)}
        return {"inbox_offset": last, "inbox_open": sorted(still_open - {finished})}


def _delivered(entry: Entry) -> Delivered:
    return Delivered(source=entry.source, injection_id=entry.injection_id)
