"""The agents as operators see them: searched, filtered and paged here, so that the page copes with thousands."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bridge.ops.snapshot import Snapshot, Watched

Condition = Literal["in_session", "no_session", "lost", "unknown", "sick"]
"""An agent's condition; an agent is ``sick`` if it is lost, or if its last poll failed."""

ADVICE = {
    "unauthorized": "replace the token; a new one is used within a second",
    "unreachable": "check asm.base_url, the network, the proxy and the service's status",
    "unavailable": "the service fails; the bridge retries with back-off",
    "throttled": "the service asks for fewer requests: raise poll.interval or set asm.rate_limit",
    "foreign_answer": "something else answers in the service's place: check asm.base_url, proxies and firewalls",
    "malformed": "the service's answer cannot be read: report it",
    "refused": "the service rejects the request: check the entry's asm_session_sid, skills and agent_pbx_extensions",
}
"""The advice for each reason; a reason that is missing has it in its text."""


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of ``/api/sessions``."""

    search: str = ""
    condition: Condition | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    offset: Annotated[int, Meta(ge=0)] = 0


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """An agent; times in seconds. ``reason``, ``why``, ``advice``: its problem, or None.

    Of its registry entry only the labels are shown: not its token, nor the reference to it.
    """

    agent_id: str
    partition: int
    condition: str
    reason: str | None
    why: str | None
    advice: str | None
    lost_since: str | None
    asm_session_sid: str | None
    status_desc: str | None
    last_answer_seconds: float | None
    pending: int
    labels: dict[str, str]


class SessionsPage(msgspec.Struct, frozen=True):
    """``total``: the number of matches for the query, of which ``sessions`` are those from ``offset`` on."""

    total: int
    offset: int
    limit: int
    sessions: list[SessionView]


def sessions_page(snapshot: Snapshot, query: Query) -> SessionsPage:
    """The agents that match the query, in the order of their agent_id."""
    search = query.search.strip().lower()
    found = [one for one in snapshot.agents() if _fits(one, query.condition) and _matches(one, search)]
    found.sort(key=lambda one: one.agent.state.agent_id)
    shown = [_view(one, snapshot.now) for one in found[query.offset : query.offset + query.limit]]
    return SessionsPage(len(found), query.offset, query.limit, shown)


def why_sick(watched: Watched) -> str | None:
    """The reason for which an agent is sick; None for one that is not."""
    agent = watched.agent
    cause = None if agent.entry is None else agent.problem or agent.state.lost
    return cause.reason if cause else None


def _fits(watched: Watched, condition: Condition | None) -> bool:
    if condition == "sick":
        return why_sick(watched) is not None
    return condition is None or watched.agent.condition == condition


def _matches(watched: Watched, search: str) -> bool:
    state = watched.agent.state
    return (
        not search
        or search in state.agent_id.lower()
        or search == state.asm_session_sid
        or any(search in f"{name}={value}".lower() for name, value in state.labels.items())
    )


def _view(watched: Watched, now: float) -> SessionView:
    partition, agent = watched
    state, asked, reason = agent.state, agent.entry is not None, why_sick(watched)
    return SessionView(
        agent_id=state.agent_id,
        partition=partition,
        condition=agent.condition,
        reason=reason,
        why=str(agent.problem) if asked and agent.problem else None,
        advice=ADVICE.get(reason) if reason else None,
        lost_since=state.lost.since if state.lost else None,
        asm_session_sid=state.asm_session_sid,
        status_desc=state.status.status_desc if state.status else None,
        last_answer_seconds=round(max(0.0, now - agent.health.answered.wall), 1) if asked else None,
        pending=len(agent.pending.injections),
        labels=state.labels,
    )
