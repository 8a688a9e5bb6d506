"""The waiting calls: one queue for the whole floor, of which each agent sees the calls that match its skills.

Pure: time is passed in as virtual seconds since the simulator's start.
"""

import heapq
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf
from random import Random

from bridge.testing.simulator import statuses
from bridge.testing.simulator.pictures import SKILLS, phone
from bridge.testing.simulator.wire import Value, timestamp

CALL_SIDS = 4 * 10**18
CALL_TYPES = ("INBOUND", "INBOUND", "INBOUND", "OUTBOUND", "PREVIEW", "MAC")
ARRIVALS_A_CHANGE = 0.5
MEAN_WAIT_IN_CHANGES = 4.0
ANYONE = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A waiting call; ``agent_id`` if it waits for one agent only, ``hqm`` if it is in the hold queue monitor."""

    data: Value
    hqm: bool = False
    agent_id: str | None = None

    def shown_to(self, agent_id: str, skills: Collection[str]) -> bool:
        """Whether all its skills are among the caller's, and it waits for any agent or for this one."""
        return self.agent_id in (None, agent_id) and all(skill in skills for skill in self.data["skills"])


@dataclass(slots=True)
class CallQueue:
    """The queue now; ``epoch`` is virtual time 0 in seconds since 1970."""

    rng: Random
    change_rate: float
    epoch: float
    calls: dict[int, Call] = field(default_factory=dict)
    versions: Counter[str] = field(default_factory=Counter)
    arrivals: int = 0
    next_arrival: float = inf
    due: list[tuple[float, int, str]] = field(default_factory=list)

    def version(self, skills: Collection[str]) -> int:
        """A number that grows with every change of the calls that callers with these skills may see."""
        return self.versions[ANYONE] + sum(self.versions[skill] for skill in skills)


def opened(seed: int, *, change_rate: float, epoch: float) -> CallQueue:
    """A queue with one call per skill, at virtual time 0."""
    queue = CallQueue(statuses.dice(seed, "calls"), change_rate, epoch)
    for skill in SKILLS:
        _arrive(queue, 0.0, skill)
    queue.next_arrival = _next_arrival(queue, 0.0)
    return queue


def advance(queue: CallQueue, now: float) -> None:
    """Lets calls arrive, be queued again and leave until ``now``."""
    while True:
        leaving = queue.due[0][0] if queue.due else inf
        if min(queue.next_arrival, leaving) > now:
            return
        if queue.next_arrival <= leaving:
            at, queue.next_arrival = queue.next_arrival, _next_arrival(queue, queue.next_arrival)
            _arrive(queue, at, queue.rng.choice(SKILLS))
        else:
            _, sid, what = heapq.heappop(queue.due)
            _requeue(queue, sid) if what == "requeue" else remove(queue, sid)


def add(queue: CallQueue, now: float, *, skills: Collection[str] = (), hqm: bool = False, agent_id: str | None = None,
        **fields: object) -> int:  # fmt: skip
    """Adds a call that stays until it is removed, and returns its sid. ``fields`` override the generated values.

    A call for one agent (``agent_id``) is ``agent_specific``; an existing sid is replaced.
    """
    data = _made_up(queue, now, list(skills)) | {"agent_specific": agent_id is not None} | fields
    sid = int(data["call_sid"])
    remove(queue, sid)
    queue.calls[sid] = Call({**data, "call_sid": sid}, hqm, agent_id)
    _touch(queue, queue.calls[sid])
    return sid


def remove(queue: CallQueue, sid: int) -> bool:
    """Removes a call; False if there is none."""
    call = queue.calls.pop(sid, None)
    if call is not None:
        _touch(queue, call)
    return call is not None


def seen(queue: CallQueue, agent_id: str, skills: Collection[str], on_hold: Collection[Value]) -> Value:
    """``QueuedCalls`` for one caller."""
    mine = [call for call in queue.calls.values() if call.shown_to(agent_id, skills)]
    return {
        "agent_queue_calls": [call.data for call in mine if not call.hqm],
        "on_hold_calls": list(on_hold),
        "hqm_calls": [call.data for call in mine if call.hqm],
    }


def _arrive(queue: CallQueue, now: float, skill: str) -> None:
    rng = queue.rng
    sid = add(queue, now, skills=[skill], hqm=rng.random() < 0.15)
    if queue.change_rate > 0:
        wait = rng.expovariate(queue.change_rate / MEAN_WAIT_IN_CHANGES)
        heapq.heappush(queue.due, (now + wait, sid, "leave"))
        if rng.random() < 0.25:
            heapq.heappush(queue.due, (now + wait * rng.random(), sid, "requeue"))


def _made_up(queue: CallQueue, now: float, skills: list[str]) -> Value:
    queue.arrivals += 1
    return {
        "call_sid": CALL_SIDS + queue.arrivals * 1_000_003,
        "phone_number": phone(queue.rng),
        "caller_id": phone(queue.rng),
        "call_type": queue.rng.choice(CALL_TYPES),
        "start_date": timestamp(queue.epoch + now),
        "skills": skills,
    }


def _requeue(queue: CallQueue, sid: int) -> None:
    call = queue.calls.get(sid)
    if call is not None:
        data = {**call.data, "queued_notification_type": "QueuedNotificationType_GENERAL_REQUEUED"}
        queue.calls[sid] = Call(data, call.hqm, call.agent_id)
        _touch(queue, call)


def _touch(queue: CallQueue, call: Call) -> None:
    specific = call.agent_id is not None or not call.data["skills"]
    for skill in (ANYONE,) if specific else call.data["skills"]:
        queue.versions[skill] += 1


def _next_arrival(queue: CallQueue, now: float) -> float:
    rate = queue.change_rate * ARRIVALS_A_CHANGE * len(SKILLS)
    return now + queue.rng.expovariate(rate) if rate > 0 else inf
