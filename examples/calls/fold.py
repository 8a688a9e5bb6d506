"""One call out of the views of many agents. Pure, and in any order of the agents: only each agent's own records have
one.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

Views = dict[str, dict[str, Any]]
"""``agent_id/list`` -> when this agent first and last saw the call in this list, and why it left."""


def see(views: Views, record: Mapping[str, Any]) -> None:
    """Adds a `QueuedCallChanged` to the views of its call."""
    view = views.setdefault(f"{record['agent_id']}/{record['list']}", {"first": record["observed_at"], "left": None})
    view["last"] = record["observed_at"]
    view["left"] = record["reason"] if record["change"] == "left" else None
    view.update({name: record[name] for name in ("start_date", "call_type", "skills") if record[name] is not None})


def row(call_sid: str, views: Views) -> dict[str, Any] | None:
    """The call's row; None as long as any agent sees it.

    ``left_at``: when the last agent who saw it leave the queue did; null if all of them logged out first, and it may
    still wait.
    """
    if any(view["left"] is None for view in views.values()):
        return None
    left_at = max((view["last"] for view in views.values() if view["left"] == "gone"), key=instant, default=None)
    started = _first(views.values(), "start_date")
    return {
        "call_sid": call_sid,
        "call_type": _first(views.values(), "call_type"),
        "skills": _first(views.values(), "skills"),
        "started": started,
        "first_seen": min((view["first"] for view in views.values()), key=instant),
        "left_at": left_at,
        "waited_ms": round((instant(left_at) - instant(started)) * 1000) if left_at and started else None,
        "seen_by": sorted({name.rpartition("/")[0] for name in views}),
    }


def instant(time: str) -> float:
    """RFC 3339 as seconds since 1970: as text, times with and without a fraction do not sort."""
    return datetime.fromisoformat(time).timestamp()


def _first(views: Iterable[Mapping[str, Any]], name: str) -> Any:
    return next((view[name] for view in views if view.get(name) is not None), None)
