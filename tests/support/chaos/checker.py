"""Judges a run: every promise of the contract that can be seen from outside. Pure functions over ``Facts``.

``streams`` judges what each stream says by itself, ``injections`` what became of the inbox; here is what the simulator
showed beside what was published, and the state beside the records.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import msgspec

from asm_bridge_schemas.records import Status
from tests.support.chaos import injections, streams
from tests.support.chaos.facts import Facts, Record, Told
from tests.support.chaos.streams import STATUS_FIELDS, View

_DEFAULTS = msgspec.structs.asdict(Status())
"""A field that an answer leaves out is at its default."""


def broken_promises(facts: Facts) -> list[str]:
    """Every promise that was broken, with the evidence; empty if all were kept."""
    return [*streams.broken(facts), *injections.broken(facts), *pictures(facts), *states(facts)]


def assert_kept(facts: Facts) -> None:
    """Raises ``AssertionError`` with the first broken promises."""
    broken = broken_promises(facts)
    assert not broken, f"{len(broken)} broken promises:\n" + "\n".join(text[:600] for text in broken[:40])


def pictures(facts: Facts) -> Iterator[str]:
    """The published state of each agent follows what the simulator showed it, and ends with its last state."""
    current = _current(facts)
    for agent_id, shown in facts.agents.items():
        if shown["truncated"]:
            yield f"{agent_id}: the simulator forgot what it had shown; give it no log limit"
        own = _streams_of(facts, agent_id)
        views = [_view(stream) for stream in own]
        checks = [*_statuses(views, shown, facts.whole), *_messages(views, shown, facts.whole)]
        checks += [*_calls(own, views, shown), *_conversations(views, shown), *_sessions(own, shown)]
        if agent_id in current:
            checks += _at_the_end(_view(current[agent_id]), shown)
        elif shown["shown"] and not views:
            checks.append("was shown, and there is no stream")
        yield from (f"{agent_id}: {problem}" for problem in checks)


def states(facts: Facts) -> Iterator[str]:
    """``AgentState`` matches the stream; of an agent that is not watched it has no stream."""
    current = _current(facts)
    for agent_id in {*current, *(agent_id for agent_id, state in facts.states.items() if state is not None)}:
        state = facts.states.get(agent_id) or {}
        if agent_id not in current:
            if state.get("stream_id") is not None:
                yield f"{agent_id}: the state has stream {state['stream_id']}, which has ended or never was"
            continue
        stream = current[agent_id]
        for problem in _state_of(state, stream[-1].record, _view(stream)):
            yield f"{agent_id}: the state's {problem}"


def _state_of(state: Record, last: Record, view: View) -> Iterator[str]:
    calls = sorted((call["list"], call["call_sid"]) for call in state.get("calls", ()))
    alert = state.get("alert")
    status, books = state.get("status"), state.get("bridge", {})
    pairs: dict[str, tuple[Any, Any]] = {
        "stream_id": (state.get("stream_id"), last["stream_id"]),
        "sequence": (state.get("sequence"), last["sequence"]),
        "asm_session_sid": (state.get("asm_session_sid"), view.sid),
        "status": (status, view.status and {name: view.status[name] for name in STATUS_FIELDS}),
        "calls": (calls, sorted(view.calls)),
        "conversations": (sorted(books.get("conversations", ())), sorted(view.conversations)),
        "alert": (alert and (alert["kind"], alert["alert_id"]), view.alert),
        "message_cursor": (
            books.get("message_cursor", 0),
            view.messages[-1][0] if view.messages else 0,
        ),
    }
    for name, (found, expected) in pairs.items():
        if found != expected:
            yield f"{name} is {found!r}, the stream says {expected!r}"


def _statuses(views: list[View], shown: Record, whole: bool) -> Iterator[str]:
    published = [_picture(status) for view in views for status in view.statuses]
    was_shown = [_picture(picture) for picture in shown["pictures"]]
    # A session that comes back under its sid begins a new chain, with a status that may be the last one again.
    published = [picture for n, picture in enumerate(published) if n == 0 or picture != published[n - 1]]
    yield from _compared("statuses", published, was_shown, whole and len(views) == 1)


def _messages(views: list[View], shown: Record, whole: bool) -> Iterator[str]:
    was_shown = [(m["message_timestamp"], m["message"]) for m in shown["messages"]]
    for view in views:
        yield from _compared("messages", view.messages, was_shown, whole and len(views) == 1)


def _compared(what: str, published: list[Any], shown: list[Any], whole: bool) -> Iterator[str]:
    stray = _not_within(published, shown)
    if stray is not None:
        yield f"{what}: {stray} was published, and not shown there; shown {shown}, published {published}"
    elif whole and published != shown:
        missing = [one for one in shown if one not in published]
        yield f"{what}: {missing} were shown, and not published"


def _sessions(streams: list[list[Told]], shown: Record) -> Iterator[str]:
    """No session ends more often than the service ended it, whatever other answers there were."""
    ended = Counter(
        record["asm_session_sid"]
        for stream in streams
        for _, record in stream
        if record["type"] == "AgentSessionEnded" and record["reason"] != "unwatched"
    )
    for sid, times in ended.items():
        if times > shown["ends"].get(sid, 0):
            yield f"session {sid} was ended {times} times, and ended {shown['ends'].get(sid, 0)} times"


def _call_pictures(stream: list[Told]) -> Iterator[frozenset[tuple[str, str]]]:
    """The calls in view after each answer that changed them, except for the ends of sessions."""
    view = View()
    for (_, record), following in zip(stream, [*stream[1:], None], strict=True):
        for _ in view.follow([record]):
            """Contradictions are reported by ``streams``."""
        seen = record["type"] == "QueuedCallChanged" and record["reason"] in (None, "gone")
        more = following is not None and following.record["type"] == "QueuedCallChanged"
        if seen and not (more and following and following.record["observed_at"] == record["observed_at"]):
            yield frozenset(view.calls)


def _calls(streams: list[list[Told]], views: list[View], shown: Record) -> Iterator[str]:
    pictures = [frozenset((name, sid) for name, sid in picture["calls"]) for picture in shown["calls"]]
    for stream in streams:
        published = [key for key, _ in groupby(_call_pictures(stream))]
        stray = _not_within(published, [frozenset(), *(key for key, _ in groupby(pictures))])
        if stray is not None:
            yield f"calls {sorted(stray)} were in view, and not shown so; shown {[sorted(one) for one in pictures]}"
    ever = {tuple(call) for picture in shown["calls"] for call in picture["calls"]}
    for view in views:
        if view.calls - ever:
            yield f"calls {sorted(view.calls - ever)} are in view, and were never shown"


def _conversations(views: list[View], shown: Record) -> Iterator[str]:
    """What was published of a conversation is what was shown of it, status by status."""
    ever = {(sid, status) for picture in shown["conversations"] for sid, status in picture["conversations"].items()}
    for view in views:
        if strays := sorted(view.conversations_told - ever):
            yield f"conversations {strays} were published, and never shown"


def _at_the_end(view: View, shown: Record) -> Iterator[str]:
    """The final state of a consumer is what the simulator shows at the end."""
    sid = shown["asm_session_sid"]
    if view.sid != sid:
        yield f"the session at the end is {sid}, published {view.sid}"
    if sid is None or view.sid != sid:
        return
    last = {**_DEFAULTS, **shown["last_status"]}
    for name in STATUS_FIELDS:
        if name != "transfer_members" and _plain(view.status, name) != _plain(last, name):
            yield f"{name} at the end is {_plain(last, name)}, published {_plain(view.status, name)}"
    if len((view.status or {}).get("transfer_members", ())) != len(last["transfer_members"]):
        yield f"transfer_members at the end are {last['transfer_members']}, published {view.status}"
    calls = {tuple(call) for call in shown["calls"][-1]["calls"]} if shown["calls"] else set()
    if view.calls != calls:
        yield f"calls at the end are {sorted(calls)}, published {sorted(view.calls)}"
    listed = shown["conversations"][-1] if shown["conversations"] else {"asm_session_sid": None}
    told = {name: one["status"] for name, one in view.conversations.items()}
    if listed["asm_session_sid"] == sid and told != listed["conversations"]:
        yield f"conversations at the end are {listed['conversations']}, published {told}"
    alert = shown["alerts"][-1] if shown["alerts"] else {"kind": None, "alert_id": None}
    if (view.alert or (None, None)) != (alert["kind"], alert["alert_id"]):
        yield f"the alert at the end is {alert}, published {view.alert}"
    if shown["messages"] and (shown["messages"][-1]["message_timestamp"], shown["messages"][-1]["message"]) not in (
        view.messages
    ):
        yield f"the last message shown, {shown['messages'][-1]}, was not published"


def _picture(status: Record) -> tuple[str, str, int]:
    return status["asm_session_sid"], status["status_desc"], status["last_status_change"]


def _plain(status: Record | None, name: str) -> Any:
    value = (status or {}).get(name)
    return str(value) if name == "current_session_id" else value


def _not_within(published: Sequence[Any], shown: Sequence[Any]) -> Any:
    """The first of ``published`` that is not in ``shown`` after the previous one, or None."""
    rest = iter(shown)
    return next((one for one in published if not any(one == other for other in rest)), None)


def _streams_of(facts: Facts, agent_id: str) -> list[list[Told]]:
    """An agent's streams, the oldest first."""
    mine = [stream for stream in facts.streams.values() if stream[0].record["agent_id"] == agent_id]
    return sorted(mine, key=lambda stream: stream[0].message.offset)


def _current(facts: Facts) -> dict[str, list[Told]]:
    """The stream of each agent that has not ended."""
    alive = [stream for stream in facts.streams.values() if stream[-1].record["type"] != "AgentWatchEnded"]
    return {stream[0].record["agent_id"]: stream for stream in alive}


def _view(stream: list[Told]) -> View:
    view = View()
    for _ in view.follow(told.record for told in stream):
        """Contradictions are reported by ``streams``."""
    return view
