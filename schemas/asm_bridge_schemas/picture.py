"""The latest picture of each agent: events folded into ``AgentState``, from the beginning or from a published state.

The picture has the form of the records of ``asm.agent-state`` (without the bridge's books, the calls in the order in
which they came), so a reader that joins late begins with those and continues with the events.

    >>> from asm_bridge_schemas.picture import fold
    >>> from asm_bridge_schemas.records import AgentState, QueuedCallChanged
    >>> state = AgentState(agent_id="agent-7", stream_id="s1", sequence=16)
    >>> entered = QueuedCallChanged(
    ...     agent_id="agent-7", stream_id="s1", sequence=17, topic_sequence=5, asm_session_sid="7",
    ...     observed_at="2026-11-23T09:30:00.000250Z", change="entered", list="agent_queue", call_sid="42")
    >>> [call.call_sid for call in fold(state, entered).calls]
    ['42']
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from asm_bridge_schemas import records
from asm_bridge_schemas.consume import Decoded
from asm_bridge_schemas.records import AgentState, Alert, CallInView, Loss, Published, Status


def fold(state: AgentState | None, record: Published) -> AgentState | None:
    """The picture after the record: the next one of the agent's stream, in order of ``sequence``.

    None for an agent that is not watched: before ``AgentWatchStarted``, and after ``AgentWatchEnded``.
    """
    if record.stream_id is None or record.sequence is None:
        return state  # the outcome of an event for an agent that is not watched
    if isinstance(record, records.AgentWatchEnded):
        return None
    if state is None or isinstance(record, records.AgentWatchStarted):
        state = AgentState(agent_id=record.agent_id)
    changed = _changed(state, record)
    return replace(
        state, stream_id=record.stream_id, sequence=record.sequence, observed_at=record.observed_at, **changed
    )


def _changed(state: AgentState, record: Published) -> dict[str, Any]:
    """The fields that the record changes, except for its number and time."""
    match record:
        case records.AgentWatchStarted() | records.AgentProfileChanged():
            return {"labels": record.labels, "skills": record.skills}
        case records.AgentSessionStarted():
            return _session(record.asm_session_sid, record.voice_session_sid)
        case records.AgentSessionEnded():
            return _session(None, None)
        case records.AgentObservationLost():
            return {"lost": Loss(reason=record.reason, since=record.since)}
        case records.AgentObservationResumed():
            return {"lost": None}
        case records.AgentStatusChanged():
            status = Status(**{name: getattr(record, name) for name in Status.__struct_fields__})
            return {"status": status, "status_group": record.status_group, "status_since": record.status_since}
        case records.QueuedCallChanged():
            return {"calls": _calls(state.calls, record)}
        case records.AgentAlertRaised():
            return {"alert": Alert(kind=record.kind, alert_id=record.alert_id)}
        case records.AgentAlertCleared():
            return {"alert": None}
    return {}


def _session(sid: str | None, voice_sid: str | None) -> dict[str, Any]:
    none = {"status": None, "status_group": None, "status_since": None}
    return {"asm_session_sid": sid, "voice_session_sid": voice_sid, **none}


def _calls(calls: list[CallInView], record: records.QueuedCallChanged) -> list[CallInView]:
    key = record.list, record.call_sid
    call = CallInView(
        list=record.list,
        call_sid=record.call_sid,
        start_date=record.start_date,
        call_type=record.call_type,
        skills=record.skills,
    )
    if record.change == "left":
        return [one for one in calls if (one.list, one.call_sid) != key]
    if any((one.list, one.call_sid) == key for one in calls):
        return [call if (one.list, one.call_sid) == key else one for one in calls]
    return [*calls, call]


_REPLACEABLE = 16
"""How many of an agent's last records a step that comes again may replace."""


class Pictures:
    """The picture of every agent, by agent_id in ``agents``, for a reader of all topics.

    ``apply`` accepts records in the order in which Kafka delivers them: it holds back records that arrive ahead of
    those of another topic, and skips those that the picture already contains. With ``at_least_once``, an agent's last
    step may arrive again with different content after a crash of the bridge: it replaces the first one, also while a
    topic lags. For this, each agent's last 16 records are kept (some 25 kB).

    To join late: ``load`` the states on asm.agent-state up to the end of the topic, then ``apply`` the other topics'
    records from any earlier time on. If you also load the states that follow, this repairs gaps that are due to a
    topic's retention, or to reading without read_committed.
    """

    def __init__(self) -> None:
        self.agents: dict[str, AgentState] = {}
        self._former: dict[str, dict[str, AgentState]] = {}
        """agent_id -> the pictures of streams before this one, while a topic that lags still holds records of them."""
        self._recent: dict[str, list[tuple[Published, AgentState | None]]] = {}
        """agent_id -> the last records applied, in order, and the picture before each: others may replace them."""
        self._ahead: dict[str, dict[str, dict[int, Published]]] = {}
        """agent_id -> stream_id -> the records that wait for others, by number."""
        self._ended: dict[str, dict[str, str]] = {}
        """agent_id -> its streams that have ended -> when they did."""
        self._loaded: dict[str, str] = {}
        """agent_id -> the stream of the last state loaded: the one that a tombstone ends."""

    @property
    def held(self) -> int:
        """How many records wait for others that have not come yet."""
        return sum(len(held) for streams in self._ahead.values() for held in streams.values())

    def load(self, agent_id: str, state: Decoded) -> list[Published]:
        """Loads a record of asm.agent-state, None for a tombstone. Returns the held records that can be applied now.

        A state older than the picture is left out, and so is anything that is no state.
        """
        if not isinstance(state, AgentState | None):
            return []
        if state is None or state.stream_id is None:
            ended = self._loaded.pop(agent_id, None)
            self._end_those(agent_id, lambda stream_id: stream_id == ended)
            return []
        stream_id = self._loaded[agent_id] = state.stream_id
        if stream_id in self._ended.get(agent_id, {}):
            return []
        of_former = stream_id in self._former.get(agent_id, {})
        latest = self._picture(agent_id, stream_id) or self.agents.get(agent_id)
        newer = latest is None or _newer(state, latest)
        if not of_former and (newer or stream_id == _stream(latest)):
            self._end_those(agent_id, lambda other: other != stream_id)
        if not newer:
            return []
        if of_former:
            self._former[agent_id][stream_id] = state
        else:
            self._recent.pop(agent_id, None)
            self._now_is(agent_id, state)
        return self._release(agent_id, stream_id)

    def apply(self, record: Decoded) -> list[Published]:
        """Returns the records that were applied, in order: this one and those that waited for it, or none. Records of
        an agent's former stream may come after the first ones of the next.

        Whatever is no event is left out: a state belongs to ``load``.
        """
        if not isinstance(record, Published):
            return []
        agent_id, stream_id, number = record.agent_id, record.stream_id, record.sequence
        if stream_id is None or number is None:
            return []
        known = self.agents.get(agent_id)
        if known is not None and known.stream_id == stream_id:
            if number <= known.sequence and not self._replaces(record, known.sequence - number):
                return []
        elif self._is_past(record, number):
            return []
        self._hold(record, stream_id, number)
        return self._release(agent_id, stream_id)

    def _hold(self, record: Published, stream_id: str, number: int) -> None:
        held = self._ahead.setdefault(record.agent_id, {}).setdefault(stream_id, {})
        if number not in held or held[number].observed_at < record.observed_at:
            held[number] = record

    def _is_past(self, record: Published, number: int) -> bool:
        """Whether a record of another stream than the agent's is of one that has ended, or of one before."""
        former, known = self._picture(record.agent_id, record.stream_id), self.agents.get(record.agent_id)
        if former is not None:
            return number <= former.sequence
        ended = self._ended.get(record.agent_id, {})
        newest = max(ended.values(), default="") if known is None else known.observed_at or ""
        return record.stream_id in ended or record.observed_at < newest

    def _replaces(self, record: Published, later: int) -> bool:
        """Whether the record is of a step that was published before with another content; goes back if it is.

        ``later``: how many records after it were applied. Those of the new step, and of later ones, are held again.
        """
        recent = self._recent.get(record.agent_id, [])
        first = len(recent) - 1 - later
        if first < 0 or recent[first][0].observed_at >= record.observed_at:
            return False
        while first and recent[first - 1][0].observed_at == recent[first][0].observed_at:
            first -= 1  # a step is replaced as a whole
        before = recent[first][1]
        if before is None:
            return False
        for applied, _ in recent[first:]:
            if applied.observed_at >= record.observed_at and applied.stream_id and applied.sequence:
                self._hold(applied, applied.stream_id, applied.sequence)
        del recent[first:]
        self.agents[record.agent_id] = before
        return True

    def _release(self, agent_id: str, stream_id: str) -> list[Published]:
        """Applies what can be applied of the records held for a stream."""
        streams, applied = self._ahead.get(agent_id, {}), list[Published]()
        held = streams.get(stream_id, {})
        of_former = stream_id in self._former.get(agent_id, {})
        current = self._picture(agent_id, stream_id)
        number = 0 if current is None else current.sequence
        while (record := held.pop(number + 1, None)) is not None:
            if current is not None and record.observed_at < (current.observed_at or ""):
                break  # of a step that another one, which was shorter, has replaced
            if not of_former:
                recent = self._recent.setdefault(agent_id, [])
                recent.append((record, current))
                del recent[:-_REPLACEABLE]
            current = fold(current, record)
            applied.append(record)
            number += 1
        at = "" if current is None else current.observed_at or ""
        for passed in [one for one, record in held.items() if one <= number or record.observed_at < at]:
            del held[passed]
        if not held:
            streams.pop(stream_id, None)
        if applied and current is None:
            self._end(agent_id, stream_id, applied[-1].observed_at)
        elif current is not None and of_former:
            self._former[agent_id][stream_id] = current
        elif current is not None:
            self._now_is(agent_id, current)
        return applied

    def _now_is(self, agent_id: str, state: AgentState) -> None:
        known = self.agents.get(agent_id)
        self.agents[agent_id] = state
        if known is not None and known.stream_id == state.stream_id:
            return
        if known is not None:
            self._follow(agent_id, known)
        streams = self._ahead.get(agent_id, {})
        for stream_id, held in list(streams.items()):
            earlier = next(iter(held.values())).observed_at < (state.observed_at or "")
            if earlier and self._picture(agent_id, stream_id) is None:
                del streams[stream_id]  # its beginning will not come any more

    def _follow(self, agent_id: str, former: AgentState) -> None:
        if former.stream_id is not None:
            self._former.setdefault(agent_id, {})[former.stream_id] = former

    def _picture(self, agent_id: str, stream_id: str | None) -> AgentState | None:
        """That of a stream, be it the agent's or a former one."""
        known = self.agents.get(agent_id)
        return known if stream_id == _stream(known) else self._former.get(agent_id, {}).get(stream_id or "")

    def _end_those(self, agent_id: str, of: Callable[[str], bool]) -> None:
        known = self.agents.get(agent_id)
        for picture in [*self._former.get(agent_id, {}).values(), *([] if known is None else [known])]:
            if picture.stream_id is not None and of(picture.stream_id):
                self._end(agent_id, picture.stream_id, picture.observed_at or "")

    def _end(self, agent_id: str, stream_id: str, at: str) -> None:
        self._ahead.get(agent_id, {}).pop(stream_id, None)
        self._ended.setdefault(agent_id, {})[stream_id] = at
        if self._former.get(agent_id, {}).pop(stream_id, None) is None:
            self._recent.pop(agent_id, None)
            known = self.agents.pop(agent_id, None)
            if known is not None and known.stream_id != stream_id:
                self._follow(agent_id, known)


def _stream(state: AgentState | None) -> str | None:
    return None if state is None else state.stream_id


def _newer(state: AgentState, known: AgentState) -> bool:
    at, known_at = state.observed_at or "", known.observed_at or ""
    if state.stream_id == known.stream_id:  # a step that has replaced a longer one is later, with a smaller number
        return state.sequence > known.sequence or at > known_at
    return at >= known_at
