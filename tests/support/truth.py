"""What really happened at a simulated service, between the polls too: its lives, lived again from the same seed."""

from dataclasses import dataclass
from math import inf
from typing import Any

from asm_bridge_schemas.statuses import status_group
from bridge.testing.simulator import agents, calls
from bridge.testing.simulator.statuses import OUT


@dataclass(frozen=True)
class Stay:
    """An agent was in this state (a status_group, or ``logged out``) between these times, seconds since 1970."""

    state: str
    begins: float
    ends: float


@dataclass(frozen=True)
class Wait:
    """A call waited from ``begins`` to ``ends`` (``inf`` if it still does), seconds since 1970."""

    call_sid: str
    skills: tuple[str, ...]
    begins: float
    ends: float


def epoch_of(ledgers: dict[str, dict[str, Any]]) -> float:
    """When the lives began: the first status that was shown of an agent who is in the one that it began with."""
    return min(ledger["pictures"][0]["last_status_change"] for ledger in ledgers.values()) / 1000


def stays(number: int, seed: int, change_rate: float, epoch: float, until: float, *, logouts: bool) -> list[Stay]:
    """The states of agent ``number`` up to ``until``, without gaps."""
    life = agents.born(number, seed, change_rate=change_rate, epoch=epoch, logouts=logouts)
    found, state, since = [], _state(life.desc), 0.0
    while (now := life.next_due) <= until - epoch:
        agents.advance(life, now)
        if _state(life.desc) != state:
            found.append(Stay(state, epoch + since, epoch + now))
            state, since = _state(life.desc), now
    return [*found, Stay(state, epoch + since, until)]


def waits(seed: int, change_rate: float, epoch: float, until: float) -> dict[str, Wait]:
    """Every call that waited up to ``until``, by its sid."""
    queue = calls.opened(seed, change_rate=change_rate, epoch=epoch)
    began = {sid: (epoch, tuple(call.data["skills"])) for sid, call in queue.calls.items()}
    ended: dict[int, float] = {}
    while (now := min(queue.next_arrival, queue.due[0][0] if queue.due else inf)) <= until - epoch:
        before = set(queue.calls)
        calls.advance(queue, now)
        began |= {sid: (epoch + now, tuple(queue.calls[sid].data["skills"])) for sid in queue.calls.keys() - before}
        ended |= dict.fromkeys(before - queue.calls.keys(), epoch + now)
    return {str(sid): Wait(str(sid), skills, at, ended.get(sid, inf)) for sid, (at, skills) in began.items()}


def pictures(ledger: dict[str, Any]) -> list[tuple[int, str]]:
    """(last_status_change in ms, status_desc) of each status that the ledger says was shown."""
    return [(picture["last_status_change"], picture["status_desc"]) for picture in ledger["pictures"]]


def changes(number: int, seed: int, change_rate: float, epoch: float, until: float, *, logouts: bool) -> set[Any]:
    """(time in ms, status_desc) of each status that agent ``number`` had."""
    life = agents.born(number, seed, change_rate=change_rate, epoch=epoch, logouts=logouts)
    found = set()
    while True:
        if life.status is not None:
            found.add((life.status["last_status_change"], life.desc))
        if life.next_due > until - epoch:
            return found
        agents.advance(life, life.next_due)


def _state(desc: str) -> str:
    return "logged out" if desc == OUT else status_group(desc)
