"""One agent: chooses its next request and interprets the answers. Pure: it does no I/O.

Every decision is returned as a ``Step`` for the journal of the agent's partition, or as None if there is nothing to
publish.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from zlib import crc32

from asm_bridge_schemas.asm import AsmSession, GetStatusRes, VoiceStatus
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.protojson import timestamp
from asm_bridge_schemas.records import AgentProfileChanged, AgentState, AgentWatchEnded, AgentWatchStarted, Books
from bridge.agents.conversations import LIST_CONVERSATIONS, NOT_ASKED, ConversationList
from bridge.agents.diff import end_session, observe
from bridge.agents.health import BRIDGE_DOWN, Health, Unpollable
from bridge.agents.injection import Injection
from bridge.agents.queue import InjectionQueue, may_be_an_events
from bridge.agents.request import PollRequest, RequestBuilder
from bridge.agents.step import KnownOutcome, Step
from bridge.asm.answer import Answer
from bridge.asm.errors import AsmError, Malformed, Refused
from bridge.backoff import Backoff
from bridge.clock import Instant

if TYPE_CHECKING:
    from bridge.settings.model import InjectionSettings

CONDITIONS = ("in_session", "no_session", "lost", "unknown")
"""The conditions of an agent: in a session, without one, not observed, or not registered but with waiting
injections."""

_MAX_TEXT = 256 * 1024
"""Characters of a message, of at most 6 bytes each: a topic accepts records of 2 MiB."""

_SWEPT_WITHIN = 0.5
"""Seconds within which the sweep completes expired events."""
_LONGEST_EVENT_WAIT = 5.0
"""Seconds between attempts of an event, at most, while the service answers requests without it."""


@dataclass(frozen=True, slots=True)
class UnexplainedRefusal:
    """A refusal that may concern the request or its session: ``getcurrentsession`` shows which."""

    sid: str | None
    injections: tuple[Injection, ...]
    http_status: int | None


class Agent:
    """An agent of an owned partition: watched, or unknown but with waiting injections.

    ``sid``: the session to poll; ``unpollable``: set by the registry; ``in_flight``: the current request, set and
    cleared by the poller.
    """

    __slots__ = (
        "_again", "_ended", "_events_at", "_plain_next", "_refusal", "_requests", "_voice_sid", "conversations",
        "entry", "health", "in_flight", "interval", "pending", "share", "sid", "state", "unknown_since", "unpollable",
    )  # fmt: skip

    def __init__(self, state: AgentState, injection: "InjectionSettings", backoff: Backoff, at: Instant) -> None:
        self.state = state
        self.entry: SessionEntry | None = None
        self.interval = 1.0
        self.unpollable: Unpollable | None = None
        self.unknown_since: float | None = 0.0
        self.pending = InjectionQueue(injection)
        self.health = Health(backoff, at)
        self.conversations = NOT_ASKED
        self.share = crc32(state.agent_id.encode()) / 2**32
        """Its phase, as a share of its interval from 0 to 1: a fleet that starts together must not poll together."""
        self.in_flight: PollRequest | None = None
        self.sid = state.asm_session_sid
        self._requests = RequestBuilder(state.bridge.message_cursor)
        self._again = False
        self._refusal: UnexplainedRefusal | None = None
        self._ended = False
        self._voice_sid: str | None = None
        self._plain_next = False
        self._events_at = 0.0

    @property
    def condition(self) -> str:
        """One of ``CONDITIONS``."""
        if self.entry is None:
            return "unknown"
        if self.unpollable or self.state.lost:
            return "lost"
        return "in_session" if self.state.asm_session_sid else "no_session"

    @property
    def problem(self) -> AsmError | Unpollable | None:
        """Why it cannot be polled, or why its last poll failed."""
        return self.unpollable or self.health.problem

    # -- the registry

    def watch(self, entry: SessionEntry, interval: float, at: Instant) -> Step | None:
        """Starts to watch the agent, or applies a changed ``entry``. The first time begins a stream."""
        step = Step(self.state, at.wall)
        restored = self.entry is None and self.state.stream_id is not None
        profile: dict[str, Any] = {"labels": entry.labels, "skills": entry.skills}
        if self.state.stream_id is None:
            step.set(stream_id=uuid4().hex, sequence=0, **profile)
            step.emit(AgentWatchStarted, **profile, reason="registered", asm_session_sid=None)
        elif (self.state.labels, self.state.skills) != (entry.labels, entry.skills):
            step.set(**profile)
            step.emit(AgentProfileChanged, **profile)
        if self.entry is None or self.entry.asm_session_sid != entry.asm_session_sid:
            self.sid = entry.asm_session_sid or self.state.asm_session_sid
            self._refusal, self._ended = None, False
            if not restored:
                self.health.answered = at
        if self.entry is None or self.entry.token != entry.token:
            self.health.forget_token()
        self.entry, self.interval, self.unknown_since = entry, entry.interval or interval, None
        if entry.get_conversations and self.conversations is NOT_ASKED:
            self.conversations = ConversationList(self.health.backoff.delay)
        self.conversations.watch(step, entry)
        self._requests.forget()
        if restored:
            self.health.check_lost(step, self.interval, at, BRIDGE_DOWN)
        return self._done(step)

    def check_unobserved(self, at: Instant) -> Step | None:
        """Reports the agent as lost if the bridge was down, or without Kafka, for too long."""
        step = Step(self.state, at.wall)
        if self.entry is not None:
            self.health.check_lost(step, self.interval, at, BRIDGE_DOWN)
        return self._done(step)

    def unwatch(self, at: Instant) -> Step | None:
        """Stops watching: ends the session and the stream. Injections keep waiting, now for an unknown agent."""
        step = Step(self.state, at.wall)
        self.entry, self.sid, self.unknown_since, self._refusal = None, None, at.wall, None
        self._requests.forget()
        if self.state.stream_id is not None:
            self._end_session(step, "unwatched")
            profile: dict[str, Any] = {"labels": self.state.labels, "skills": self.state.skills}
            step.emit(AgentWatchEnded, **profile, reason="unregistered", asm_session_sid=None)
            books = step.state.bridge
            inbox = Books(inbox_offset=books.inbox_offset, inbox_open=books.inbox_open, delivered=books.delivered)
            step.state = AgentState(agent_id=step.state.agent_id, bridge=inbox)
        return self._done(step)

    # -- requests

    def next_request(self, token: str, at: Instant, *, status: bool = True) -> PollRequest:
        """The next request; the events in it count as tried. ``status``: a status poll is due; otherwise it may be for
        conversations that are due, unless events or a check of the session take precedence."""
        assert self.entry is not None
        again, self._again = self._again, False
        if (self._refusal is not None and not self._plain_next) or self.sid is None:
            return self._requests.session(token, self.state.stream_id, self.sid)
        taken: tuple[Injection, ...] = ()
        if self.pending.injections and not self._ended and not self._plain_next and at.monotonic >= self._events_at:
            taken = self.pending.take(at.wall)
            if not taken:  # all have expired: the sweep ends them
                self._events_at = at.monotonic + _SWEPT_WITHIN
        if not (status or again or taken or self._plain_next) and self._has_list:
            return self.conversations.request(token, self.state.stream_id, self.sid)
        self._plain_next = False
        return self._requests.status(token, self.state.stream_id, self.sid, self.entry, taken)

    @property
    def urgent(self) -> bool:
        """Whether the next request should not wait for its tick."""
        return self.entry is not None and (self._again or self._has_events or self._has_list)

    def urgent_at(self, outage_ended: float) -> float:
        """When an urgent request may be sent (monotonic seconds); see ``Health.may_poll``."""
        ready_at = self.health.ready_at(outage_ended)
        at_once = self._again or self._plain_next or self._has_list
        return ready_at if at_once else max(ready_at, self._events_at)

    @property
    def _has_events(self) -> bool:
        """Whether events wait, and there is a session to send them into."""
        return bool(self.pending.injections) and self.sid is not None and not self._ended

    @property
    def _has_list(self) -> bool:
        """Whether conversations are due, and the status of the session that they belong to has been published."""
        if not self.conversations.due or self._ended or self._refusal is not None:
            return False
        return self.sid is not None and self.sid == self.state.asm_session_sid

    def status_next(self) -> bool:
        """Schedules a status poll that came due during a request for conversations, to follow it at once. Returns
        whether none was scheduled yet."""
        following, self._again = self._again, True
        return not following

    # -- results

    def answered(self, request: PollRequest, answer: Answer, at: Instant) -> Step | None:
        """Handles a 2xx answer. It mostly equals the previous one, and need not be decoded."""
        if request.call == LIST_CONVERSATIONS:
            return self._listed(request, answer, at)
        stale = self._stale(request)
        if answer.message is None and self.state.lost is None and not self.pending.doubts and self._refusal is None:
            if not stale:
                self.health.record_success(request.token, at)
            return None
        step = Step(self.state, at.wall)
        try:
            if not stale:
                self._read(step, request, answer, at)
        except Malformed as error:
            self._failed(step, request, error, at)
        self._delivered(step, request, answer.status)
        if request.call == "getstatus" and not stale and (refusal := self._refusal) is not None:
            self._refusal = None
            if refusal.injections and refusal.sid == request.sid:  # the session lives
                self._request_refused(step, request, refusal, at)
        return self._done(step)

    def _listed(self, request: PollRequest, answer: Answer, at: Instant) -> Step | None:
        """Handles a page of conversations. It says nothing about the agent's status and health."""
        step = Step(self.state, at.wall)
        try:
            self.conversations.answered(step, request, answer)
        except Malformed as error:
            self.conversations.failed(request, error, at)
        return self._done(step)

    def failed(self, request: PollRequest, error: AsmError, at: Instant) -> Step | None:
        """Handles a request without a usable answer. A refusal is examined at once; anything else is retried."""
        if request.call == LIST_CONVERSATIONS:
            self.conversations.failed(request, error, at)
            step = Step(self.state, at.wall)
            if not self._stale(request):  # status polls have waited for it, perhaps for too long
                self.health.check_lost(step, self.interval, at, error.reason)
            return self._done(step)
        step = Step(self.state, at.wall)
        if self._stale(request):
            self.pending.failed(step, request.injections, error)
        elif isinstance(error, Refused):
            if request.call == "getcurrentsession":
                self._session_read(step, request, AsmSession(), at)
            elif self._ended and not request.injections:
                self._succeeded(step, request, None, at)
            else:
                if self._refusal is None:
                    self._refusal = UnexplainedRefusal(request.sid, request.injections, error.http_status)
                self._again = True
        else:
            if self._refusal is not None and self._refusal.injections:
                self._plain_next = True  # the session cannot be looked up: a poll without the events may show it
            if isinstance(error, Malformed) and error.http_status is not None:
                self._delivered(step, request, error.http_status)  # the service accepted them, whatever it answered
            elif request.injections:
                self._events_failed(step, request, error, at)
            else:
                self.pending.forget_doubts()
            self._failed(step, request, error, at)
        return self._done(step)

    def poll_skipped(self, problem: AsmError | None, at: Instant) -> Step | None:
        """A poll was due, but no request could be sent, because of this problem or of the last one."""
        self.health.problem = problem or self.problem
        step = Step(self.state, at.wall)
        self.health.check_lost(step, self.interval, at)
        return self._done(step)

    def sweep(self, at: Instant) -> Step | None:
        """Completes the injections that have expired, or waited too long for an unknown agent."""
        step = Step(self.state, at.wall)
        in_flight = self.in_flight.injections if self.in_flight else ()
        self.pending.sweep(step, in_flight, self.unknown_since)
        return self._done(step)

    def take(self, injection: Injection, at: Instant, known: KnownOutcome | None = None) -> Step | None:
        """Takes an injection from the inbox: it waits for the next request, or is completed here; ``known``: its
        outcome, if it was sent before."""
        step = Step(self.state, at.wall)
        if known is None:
            self.pending.add(step, injection)
        else:
            self.pending.settle(step, injection, known)
        return self._done(step)

    def committed(self, state: AgentState) -> None:
        """The records up to ``state`` are durable: messages are requested from there on."""
        self._requests.move_cursor(state.bridge.message_cursor)

    # -- inside

    def _done(self, step: Step) -> Step | None:
        changed, self.state = step.state is not self.state, step.state
        return None if step.empty and not changed else step

    def _read(self, step: Step, request: PollRequest, answer: Answer, at: Instant) -> None:
        """Raises ``Malformed``."""
        message = answer.message
        if isinstance(message, AsmSession):
            self._session_read(step, request, message, at)
        elif isinstance(message, GetStatusRes):
            self._status_read(step, request, message.voice_status or VoiceStatus(), answer.body, at)
        else:
            status = self.state.status
            self._succeeded(step, request, status.status_desc if status else None, at)

    def _status_read(self, step: Step, request: PollRequest, status: VoiceStatus, body: bytes, at: Instant) -> None:
        if len(body) > _MAX_TEXT and (longest := _longest_text(status)) > _MAX_TEXT:
            raise Malformed(f"a text of {longest} characters does not fit into a record", http_status=200)
        assert request.sid is not None
        self._succeeded(step, request, status.status_desc, at)
        if self.state.asm_session_sid != request.sid:
            self.conversations.leave(step)
        observe(
            step, status, sid=request.sid, voice_sid=self._voice_sid, calls=request.calls, messages=request.messages
        )
        self._requests.known, self._ended = body, False

    def _session_read(self, step: Step, request: PollRequest, session: AsmSession, at: Instant) -> None:
        """Applies the current session; after a refusal, decides whether the request or its session was at fault."""
        now = None if session.asm_session_sid == "0" or timestamp(session.asm_session_end) else session.asm_session_sid
        refusal, self._refusal = self._refusal, None
        if refusal is not None and now == refusal.sid:
            self._request_refused(step, request, refusal, at)
            return
        fixed = self.entry.asm_session_sid if self.entry else None
        self._ended = fixed is not None and now != fixed
        if now is None or self._ended:
            self._succeeded(step, request, None, at)
        else:
            self.health.record_success(request.token, at)  # the status to resume with is in the session's answer
        if self.state.asm_session_sid != (None if self._ended else now):
            self._end_session(step, "ended" if now is None else "replaced")
        self._voice_sid = session.voice_session.voice_session_sid if session.voice_session else None
        self.sid = fixed or now
        self._requests.forget()
        self._again = now is not None and not self._ended

    def _end_session(self, step: Step, reason: str) -> None:
        self.conversations.leave(step)
        end_session(step, reason)

    def _request_refused(self, step: Step, request: PollRequest, refusal: UnexplainedRefusal, at: Instant) -> None:
        """The session still exists, so the request was bad: one of its events, or all of it."""
        if not refusal.injections:
            error = Refused("the request was refused", http_status=refusal.http_status)
            self._failed(step, request, error, at)
            return
        self.pending.refused(step, refusal.injections, refusal.http_status)
        self._plain_next = self._again = True

    def _delivered(self, step: Step, request: PollRequest, http_status: int) -> None:
        self.pending.delivered(step, request.injections, request.sid, http_status)
        if request.injections:
            self._events_at = 0.0
        elif request.call == "getstatus":
            self.pending.cleared(step)

    def _events_failed(self, step: Step, request: PollRequest, error: AsmError, at: Instant) -> None:
        """The events may have made the request fail: one without them goes first, and they follow after a back-off."""
        self.pending.failed(step, request.injections, error)
        tries = max(injection.attempts for injection in request.injections)
        if may_be_an_events(error) and (tries > 1 or error.http_status != 429):
            self._plain_next = True
            self._events_at = at.monotonic + min(self.health.backoff.delay(tries), _LONGEST_EVENT_WAIT)

    def _stale(self, request: PollRequest) -> bool:
        """Whether a request was about something that is no longer watched."""
        return self.entry is None or request.stream_id != self.state.stream_id or request.sid != self.sid

    def _succeeded(self, step: Step, request: PollRequest, status_desc: str | None, at: Instant) -> None:
        """The service answered; ``status_desc`` is the agent's status now, None without a session."""
        self.health.record_success(request.token, at)
        self.health.resume(step, status_desc)

    def _failed(self, step: Step, request: PollRequest, error: AsmError, at: Instant) -> None:
        self.health.record_failure(error, request.token, at)
        self.health.check_lost(step, self.interval, at)


def _longest_text(status: VoiceStatus) -> int:
    alert = status.alert.backoffice_message if status.alert else None
    texts = [status.message, status.queue, alert.message if alert else ""]
    texts += [member.display_label for member in status.transfer_members]
    return max(map(len, texts))
