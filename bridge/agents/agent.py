"""One agent: what to ask next, and what an answer means. Decides; does no I/O.

Every decision comes back as a ``Step`` (or None where there is nothing to tell), to be appended to the agent's
partition.
"""

from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4
from zlib import crc32

import msgspec

from asm_bridge_schemas.asm import AsmSession, GetStatusRes, VoiceStatus
from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.protojson import timestamp
from asm_bridge_schemas.records import (
    AgentObservationLost,
    AgentObservationResumed,
    AgentState,
    AgentWatchEnded,
    AgentWatchStarted,
    Loss,
)
from bridge.agents.diff import end_session, observe
from bridge.agents.injection import Entry
from bridge.agents.queue import InjectionQueue, Limits
from bridge.agents.step import Step
from bridge.asm.client import read
from bridge.asm.errors import AsmError, Malformed, Refused, Throttled, Unauthorized
from bridge.asm.http.request import PreparedRequest
from bridge.backoff import Backoff
from bridge.clock import rfc3339

CONDITIONS = ("in_session", "no_session", "lost", "unknown")
"""What can be said of an agent: it has a session, it has none, it is not observed, it only has entries that wait."""

UNAUTHORIZED_RETRY = 60.0
_LOST_AFTER = 5.0
_MAX_TEXT = 256 * 1024
"""Characters of a message, 6 bytes each at most: a topic takes records of 2 MiB."""
_LOST_AFTER_INTERVALS = 3


class Instant(NamedTuple):
    """Now: ``mono`` to measure with, ``wall`` (seconds since 1970) to publish."""

    mono: float
    wall: float


@dataclass(slots=True)
class PollRequest:
    """A request to make: ``call`` is the vendor's, ``sid`` the session it is about (None: whichever there is)."""

    call: str
    body: bytes
    stream_id: str | None
    sid: str | None = None
    entries: tuple[Entry, ...] = ()
    calls: bool = False
    messages: bool = False
    token: str = ""
    request: PreparedRequest | None = None


@dataclass(slots=True)
class UnexplainedRefusal:
    """A refusal that may mean the request or its session: ``getcurrentsession`` tells."""

    sid: str | None
    entries: tuple[Entry, ...]
    http_status: int | None


class Unpollable(AsmError):
    """The agent cannot be asked at all, by its registry entry."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Agent:
    """An agent of an owned partition, watched or only with entries that wait for it."""

    __slots__ = (
        "_answered", "_backoff", "_body", "_doubt", "_ended", "_failures", "_plain", "_plain_next", "_refused_token",
        "_trouble", "_voice_sid", "again", "committed_cursor", "due", "entry", "in_flight", "interval", "not_before",
        "pending", "share", "sick", "sid", "state", "unknown_since",
    )  # fmt: skip

    def __init__(self, state: AgentState, limits: Limits, backoff: Backoff, at: Instant) -> None:
        self.state = state
        self.entry: SessionEntry | None = None
        self.pending = InjectionQueue(limits)
        self.sid = state.asm_session_sid
        self.interval = 1.0
        self.sick: Unpollable | None = None
        self.unknown_since: float | None = 0.0
        self.committed_cursor = state.message_cursor
        self.not_before = 0.0
        self.due = 0.0
        self.share = crc32(state.agent_id.encode()) / 2**32
        """Where in its interval it is asked, from 0 to 1: a fleet that starts together must not ask together."""
        self.in_flight: PollRequest | None = None
        self.again = False
        self._backoff = backoff
        self._answered = at
        self._failures = 0
        self._trouble: AsmError | None = None
        self._refused_token: str | None = None
        self._doubt: UnexplainedRefusal | None = None
        self._ended = False
        self._voice_sid: str | None = None
        self._plain_next = False
        self._plain: PollRequest | None = None
        self._body: bytes | None = None

    @property
    def condition(self) -> str:
        """One of ``CONDITIONS``."""
        if self.entry is None:
            return "unknown"
        if self.sick or self.state.lost:
            return "lost"
        return "in_session" if self.state.asm_session_sid else "no_session"

    @property
    def trouble(self) -> AsmError | None:
        """Why it is not, or was not the last time, asked with success."""
        return self.sick or self._trouble

    @property
    def answered_at(self) -> float:
        """When the last good answer came (wall clock), or watching began."""
        return self._answered.wall

    # -- the registry's wishes

    def watch(self, entry: SessionEntry, interval: float, at: Instant) -> Step | None:
        """Watch from now on, or as ``entry`` now says. The first time begins a stream."""
        step = Step(self.state, at.wall)
        if self.state.stream_id is None:
            step.set(stream_id=uuid4().hex, sequence=0, labels=entry.labels)
            step.tell(AgentWatchStarted, labels=entry.labels, reason="registered", asm_session_sid=None)
        if self.entry is None or self.entry.asm_session_sid != entry.asm_session_sid:
            self.sid = entry.asm_session_sid or self.state.asm_session_sid
            self._answered, self._doubt, self._ended = at, None, False
        if self.entry is None or self.entry.token != entry.token:
            self._refused_token, self.not_before = None, 0.0
        self.entry, self.interval, self.unknown_since = entry, entry.interval or interval, None
        self._plain = self._body = None
        if step.state.labels != entry.labels:
            step.set(labels=entry.labels)
        return self._done(step)

    def unwatch(self, at: Instant) -> Step | None:
        """Watch no longer: ends the session in view and the stream. Entries wait on, for an agent now unknown."""
        step = Step(self.state, at.wall)
        self.entry, self.sid, self.unknown_since = None, None, at.wall
        self._plain = self._body = self._doubt = None
        if self.state.stream_id is not None:
            end_session(step, "unwatched")
            step.tell(AgentWatchEnded, labels=self.state.labels, reason="unregistered", asm_session_sid=None)
            accounts = step.state
            step.state = AgentState(
                agent_id=accounts.agent_id,
                inbox_offset=accounts.inbox_offset,
                inbox_open=accounts.inbox_open,
                delivered=accounts.delivered,
            )
        return self._done(step)

    # -- what to ask

    def may_poll(self, token: str, at: Instant) -> bool:
        """Whether it is time: not while backing off, and not with a token that was refused within the last minute."""
        changed = self._refused_token is not None and token != self._refused_token
        return self.entry is not None and (at.mono >= self.not_before or changed)

    def ask(self, token: str, at: Instant) -> PollRequest:
        """The next request; the events in it count as tried."""
        self.again = False
        if self._doubt is not None or self.sid is None:
            return self._with_token(PollRequest("getcurrentsession", b"{}", self.state.stream_id, self.sid), token)
        taken = self.pending.take(at.wall) if self._carries and not self._plain_next else []
        self._plain_next = False
        if taken:
            for entry in taken:
                entry.attempts += 1
            return self._with_token(self._status(tuple(taken)), token)
        if self._plain is None:
            self._plain = self._status(())
        return self._with_token(self._plain, token)

    @property
    def urgent(self) -> bool:
        """Whether the next request should not wait for its tick."""
        return self.entry is not None and (self.again or (self._carries and bool(self.pending)))

    @property
    def _carries(self) -> bool:
        return self.sid is not None and not self._ended

    def _with_token(self, ask: PollRequest, token: str) -> PollRequest:
        if ask.token != token:
            ask.token, ask.request = token, None
        return ask

    def _status(self, taken: tuple[Entry, ...]) -> PollRequest:
        entry = self.entry
        assert entry is not None
        body = {
            "asm_session_sid": self.sid,
            "perform_keep_alive": entry.keep_alive,
            "perform_get_queued_calls": entry.get_queued_calls,
            "perform_get_message": entry.get_messages,
            "minimum_message_timestamp": str(self.committed_cursor),
            "skills": entry.skills,
            "events": [e.injection.event for e in taken if e.injection],
            "agent_pbx_extensions": entry.agent_pbx_extensions,
        }
        calls, messages = entry.get_queued_calls, entry.get_messages
        return PollRequest(
            "getstatus", msgspec.json.encode(body), self.state.stream_id, self.sid, taken, calls, messages
        )

    # -- what came of it

    def answered(self, ask: PollRequest, status: int, body: bytes, at: Instant) -> Step | None:
        """A 2xx answer. Most often the same as the last one: then there is nothing to read."""
        if body == self._body and not ask.entries and ask.call == "getstatus" and self.state.lost is None:
            self._recovered(at)
            return None
        step = Step(self.state, at.wall)
        try:
            if self._stale(ask):
                pass
            elif ask.call == "getstatus":
                self._status_read(step, ask, body, at)
            else:
                self._session_read(step, read(AsmSession, body), at)
        except Malformed as error:
            self._trouble_with(step, error, at)
        self.pending.delivered(step, ask.entries, ask.sid, status)
        return self._done(step)

    def failed(self, ask: PollRequest, error: AsmError, at: Instant) -> Step | None:
        """No usable answer. A refusal is looked into at once; everything else is tried again later."""
        step = Step(self.state, at.wall)
        if self._stale(ask):
            self.pending.failed(step, ask.entries, error.http_status, error.possibly_processed)
        elif isinstance(error, Refused):
            if ask.call == "getcurrentsession":
                self._session_read(step, AsmSession(), at)
            elif self._ended and not ask.entries:
                self._well(step, at)
            else:
                self._doubt, self.again = UnexplainedRefusal(ask.sid, ask.entries, error.http_status), True
        else:
            self._refused_token = ask.token if isinstance(error, Unauthorized) else None
            if error.http_status is not None and 200 <= error.http_status < 300:
                self.pending.delivered(step, ask.entries, ask.sid, error.http_status)
            else:
                self.pending.failed(step, ask.entries, error.http_status, error.possibly_processed)
            self._trouble_with(step, error, at)
        return self._done(step)

    def hindered(self, error: AsmError | None, at: Instant) -> Step | None:
        """It was time to ask, and could not be done; without an error, because of the last one."""
        self._trouble = error or self._trouble
        step = Step(self.state, at.wall)
        self._check_lost(step, at)
        return self._done(step)

    def sweep(self, at: Instant) -> Step | None:
        """Finish the entries whose time has come."""
        step = Step(self.state, at.wall)
        self.pending.sweep(step, self.in_flight.entries if self.in_flight else (), self.unknown_since)
        return self._done(step)

    def take(self, entry: Entry, at: Instant) -> Step | None:
        """An entry of the inbox: it waits for the next request, or is finished here."""
        step = Step(self.state, at.wall)
        self.pending.add(step, entry)
        return self._done(step)

    def committed(self, state: AgentState) -> None:
        """What was told up to ``state`` is durable: messages are asked for from there."""
        if state.message_cursor != self.committed_cursor:
            self.committed_cursor, self._plain = state.message_cursor, None

    # -- inside

    def _done(self, step: Step) -> Step | None:
        changed, self.state = step.state is not self.state, step.state
        return None if step.empty and not changed else step

    def _status_read(self, step: Step, ask: PollRequest, body: bytes, at: Instant) -> None:
        answer = read(GetStatusRes, body).voice_status or VoiceStatus()
        if len(body) > _MAX_TEXT and (longest := _longest_text(answer)) > _MAX_TEXT:
            raise Malformed(f"a text of {longest} characters does not fit into a record", http_status=200)
        assert ask.sid is not None
        self._well(step, at)
        observe(step, answer, sid=ask.sid, voice_sid=self._voice_sid, calls=ask.calls, messages=ask.messages)
        self._body, self._ended = body, False

    def _session_read(self, step: Step, session: AsmSession, at: Instant) -> None:
        """Which session there is now; with a doubt, whether the request or its session was at fault."""
        now = None if session.asm_session_sid == "0" or timestamp(session.asm_session_end) else session.asm_session_sid
        doubt, self._doubt = self._doubt, None
        if doubt is not None and now == doubt.sid:
            self._refused(step, doubt, at)
            return
        self._well(step, at)
        fixed = self.entry.asm_session_sid if self.entry else None
        self._ended = fixed is not None and now != fixed
        if self.state.asm_session_sid != (None if self._ended else now):
            end_session(step, "ended" if now is None else "replaced")
            self._body = None
        self._voice_sid = session.voice_session.voice_session_sid if session.voice_session else None
        self.sid, self._plain = fixed or now, None
        self.again = now is not None and not self._ended

    def _refused(self, step: Step, doubt: UnexplainedRefusal, at: Instant) -> None:
        """The session lives, so the request was bad: one of its events, or all of it."""
        if not doubt.entries:
            self._trouble_with(step, Refused("the request was refused", http_status=doubt.http_status), at)
            return
        self.pending.refused(step, doubt.entries, doubt.http_status)
        self._plain_next = self.again = True

    def _stale(self, ask: PollRequest) -> bool:
        """Whether a request was about something that is not watched any more."""
        return self.entry is None or ask.stream_id != self.state.stream_id or ask.sid != self.sid

    def _recovered(self, at: Instant) -> None:
        self._failures, self._answered, self._trouble, self.not_before = 0, at, None, 0.0
        self._refused_token = None

    def _well(self, step: Step, at: Instant) -> None:
        self._recovered(at)
        if (lost := step.state.lost) is not None:
            step.tell(AgentObservationResumed, reason=lost.reason, since=lost.since)
            step.set(lost=None)

    def _trouble_with(self, step: Step, error: AsmError, at: Instant) -> None:
        self._trouble = error
        self.not_before = at.mono + self._pause(error)
        self._failures += 1
        self._check_lost(step, at)

    def _pause(self, error: AsmError) -> float:
        if isinstance(error, Unauthorized):
            return UNAUTHORIZED_RETRY
        if isinstance(error, Throttled) and error.retry_after is not None:
            return error.retry_after
        return self._backoff.delay(self._failures)

    def _check_lost(self, step: Step, at: Instant) -> None:
        silent = at.mono - self._answered.mono
        if (
            step.state.lost is None
            and self._trouble
            and silent > max(_LOST_AFTER, _LOST_AFTER_INTERVALS * self.interval)
        ):
            loss = Loss(reason=self._trouble.reason, since=rfc3339(self._answered.wall))
            step.tell(AgentObservationLost, reason=loss.reason, since=loss.since)
            step.set(lost=loss)


def _longest_text(answer: VoiceStatus) -> int:
    alert = answer.alert.backoffice_message if answer.alert else None
    texts = [answer.message, answer.queue, alert.message if alert else ""]
    texts += [member.display_label for member in answer.transfer_members]
    return max(map(len, texts))
