"""The injections that wait for one agent, and their outcomes: pure."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from asm_bridge_schemas.protojson import without_omitted
from asm_bridge_schemas.records import ConversationEventDelivered, Delivered, InjectionCompleted, Outcome
from bridge.agents.bounds import MAX_BYTES
from bridge.agents.injection import Injection
from bridge.agents.step import DeadLetter, KnownOutcome, Step
from bridge.asm.errors import AsmError, ForeignAnswer
from bridge.clock import rfc3339

if TYPE_CHECKING:
    from bridge.settings.model import InjectionSettings

REMEMBERED = 100
"""Delivered injections that are remembered, to recognize a repeated one."""
_REQUEST_BYTES = 2 * MAX_BYTES
_BLOCKED = frozenset({403, 413, 414, 431})
"""The answers of a firewall or a proxy to a request that it blocks, or that is too large for it."""
_TRIES_BLOCKED = 3


class InjectionQueue:
    """The injections of one agent that are not finished, in order.

    ``one_at_a_time``: how many of the first are sent one by one, because a request with several of them failed.
    ``_suspect``: an event whose request has just been blocked; ``cleared`` shows whether the event is the cause.
    ``_throttled_together``: how many were in a request that has just been throttled.
    """

    __slots__ = ("_settings", "_suspect", "_throttled_together", "injections", "one_at_a_time")

    def __init__(self, settings: "InjectionSettings") -> None:
        self._settings = settings
        self.injections: list[Injection] = []
        self.one_at_a_time = 0
        self._suspect: Injection | None = None
        self._throttled_together = 0

    @property
    def doubts(self) -> bool:
        """Whether the success of a request without events would explain why earlier requests failed."""
        return self._suspect is not None or self._throttled_together > 0

    def forget_doubts(self) -> None:
        """A request without events failed as well: the earlier failures need not be caused by an event."""
        self._suspect, self._throttled_together = None, 0

    def __bool__(self) -> bool:
        return bool(self.injections)

    def add(self, step: Step, injection: Injection) -> None:
        """Adds an injection, or completes it at once if it cannot be sent."""
        self.injections.append(injection)
        if injection.fault:
            self._complete(step, injection, "undeliverable", *injection.fault)
        elif step.now >= injection.expires_at:
            self._complete(step, injection, "expired")
        elif _delivered(injection) in step.state.bridge.delivered and injection.identified:
            self._complete(step, injection, "duplicate")
        elif len(self.injections) > self._settings.max_pending:
            text = f"more than {self._settings.max_pending} events wait for this agent"
            self._complete(step, injection, "undeliverable", "backlog", text)

    def settle(self, step: Step, injection: Injection, known: KnownOutcome) -> None:
        """Completes an injection that was sent, but whose outcome could not be written: it is not sent again."""
        record, text = known
        injection.attempts, injection.http_status = record.attempts, record.http_status
        injection.possibly_processed = record.possibly_repeated
        self.injections.append(injection)
        if record.outcome == "delivered":
            self.delivered(
                step, (injection,), record.asm_session_sid, record.http_status or 200, at=record.completed_at
            )
        else:
            self._complete(step, injection, record.outcome, record.reason, text, record.asm_session_sid)

    def take(self, now: float) -> tuple[Injection, ...]:
        """The injections for the next request, which count as tried; of two with the same id, the second waits."""
        most = 1 if self.one_at_a_time else self._settings.max_events_per_request
        taken: list[Injection] = []
        size, ids = 0, set()
        for injection in self.injections:
            size += injection.size
            if (
                len(taken) == most
                or (taken and size > _REQUEST_BYTES)
                or (injection.identified and _delivered(injection) in ids)
            ):
                break
            if now < injection.expires_at:
                taken.append(injection)
                ids.add(_delivered(injection))
        for injection in taken:
            injection.attempts += 1
        return tuple(taken)

    def delivered(
        self, step: Step, taken: Iterable[Injection], sid: str | None, http_status: int, at: str | None = None
    ) -> None:
        """The service accepted these, in session ``sid``; ``at``: when, if not in this step."""
        for injection in taken:
            assert injection.event is not None
            step.emit(
                ConversationEventDelivered,
                trace=injection.trace,
                asm_session_sid=sid,
                kind=injection.event.kind,
                conversation_sid=injection.event.conversation_sid,
                event=without_omitted(injection.event.value),
                injection_id=injection.injection_id,
                delivered_at=at or step.at,
            )
            injection.http_status = http_status
            self._complete(step, injection, "delivered", sid=sid)
            if injection.identified:
                done = _delivered(injection)
                step.book(delivered=[*step.state.bridge.delivered, done][-REMEMBERED:])
                for same in [other for other in self.injections if other.identified and _delivered(other) == done]:
                    self._complete(step, same, "duplicate")

    def refused(self, step: Step, sent: Sequence[Injection], http_status: int | None) -> None:
        """The service refused the events: a single one is rejected; several are retried one by one."""
        left = [injection for injection in sent if injection in self.injections]
        if len(sent) > 1:
            self.one_at_a_time = len(left)
            return
        for injection in left:
            injection.http_status = http_status
            text = f"the service refused the event with HTTP {http_status}"
            self._complete(step, injection, "rejected", "refused", text)

    def failed(self, step: Step, sent: Sequence[Injection], error: AsmError) -> None:
        """An attempt failed for a reason that is not about the events, though one of them may be the cause: if the
        service may have seen them, they are sent one by one from now on."""
        throttled = error.http_status == 429 or (error.http_status == 503 and error.retry_after is not None)
        for injection in sent:
            injection.http_status = error.http_status
            injection.possibly_processed |= error.possibly_processed
            injection.throttled += throttled
            if injection.attempts - injection.throttled >= self._settings.max_attempts:
                text = f"{injection.attempts} attempts failed; the last answer was {error.http_status or 'none'}"
                self._complete(step, injection, "undeliverable", "attempts_exhausted", text)
        left = [injection for injection in sent if injection in self.injections]
        if len(sent) > 1 and may_be_an_events(error) and not throttled:
            self.one_at_a_time = max(self.one_at_a_time, len(left))
        self._throttled_together = len(left) if len(sent) > 1 and throttled else 0
        blocked = isinstance(error, ForeignAnswer) and error.http_status in _BLOCKED
        self._suspect = left[0] if blocked and len(sent) == len(left) == 1 else None

    def cleared(self, step: Step) -> None:
        """A request without events got through: if one with a single event was blocked before, that event is the cause,
        and events that were throttled together are sent one by one."""
        injection, self._suspect = self._suspect, None
        self.one_at_a_time, self._throttled_together = max(self.one_at_a_time, self._throttled_together), 0
        if injection is None or injection not in self.injections:
            return
        injection.blocked += 1
        if injection.blocked >= _TRIES_BLOCKED:
            text = f"requests with this event are blocked on the way to the service, with HTTP {injection.http_status}"
            self._complete(step, injection, "rejected", "refused", text)

    def sweep(self, step: Step, busy: Iterable[Injection], unknown_since: float | None) -> None:
        """Completes the injections that have expired, or waited too long for an agent that is unknown."""
        under_way, grace = {injection.offset for injection in busy}, self._settings.unknown_agent_grace
        for injection in [injection for injection in self.injections if injection.offset not in under_way]:
            if step.now >= injection.expires_at:
                self._complete(step, injection, "expired")
            elif unknown_since is not None and step.now - max(injection.readable_at, unknown_since) >= grace:
                text = f"no agent {injection.agent_id!r} is registered in the sessions topic"
                self._complete(step, injection, "undeliverable", "unknown_agent", text)

    def _complete(
        self,
        step: Step,
        injection: Injection,
        outcome: Outcome,
        reason: str | None = None,
        text: str | None = None,
        sid: str | None = None,
    ) -> None:
        """The one place where an injection ends: its outcome, its dead letter, its offset."""
        position = self.injections.index(injection)
        del self.injections[position]
        self.one_at_a_time = max(0, self.one_at_a_time - (position < self.one_at_a_time))
        step.emit(
            InjectionCompleted,
            trace=injection.trace,
            asm_session_sid=sid or step.state.asm_session_sid,
            injection_id=injection.injection_id,
            source=injection.source,
            entry=injection.entry,
            outcome=outcome,
            reason=reason,
            http_status=injection.http_status,
            attempts=injection.attempts,
            possibly_repeated=injection.possibly_processed and injection.fault is None and outcome != "duplicate",
            received_at=rfc3339(injection.received_at),
            completed_at=step.at,
        )
        if text is not None:
            step.dead_letters.append(
                DeadLetter(
                    key=injection.key,
                    value=injection.value if injection.size <= MAX_BYTES else None,
                    headers=tuple(injection.headers),
                    code=reason or outcome,
                    text=text,
                    origin=injection.origin,
                )
            )
        step.finished.append(injection.offset)
        self._book(step, injection.offset)

    def _book(self, step: Step, finished: int) -> None:
        """Notes in the books that ``finished`` is completed; open entries may not have been read again yet."""
        books = step.state.bridge
        last = max(books.inbox_offset, finished)
        waiting = {injection.offset for injection in self.injections if injection.offset < last}
        still_open = {*books.inbox_open, *waiting} - {finished}
        step.book(inbox_offset=last, inbox_open=sorted(still_open))


def may_be_an_events(error: AsmError) -> bool:
    """Whether an event may have made its request fail: not if the request reached no one, or the token is bad."""
    return error.possibly_processed or error.http_status not in (None, 401)


def _delivered(injection: Injection) -> Delivered:
    return Delivered(source=injection.source, injection_id=injection.injection_id)
