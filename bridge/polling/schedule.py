"""When each agent is polled, which ticks are skipped, and how many polls go out at a time. Times are monotonic seconds
that are passed in.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from math import floor, inf
from typing import TYPE_CHECKING

from bridge.agents.agent import Agent
from bridge.agents.conversations import LIST_CONVERSATIONS
from bridge.asm.answer import Answer
from bridge.asm.errors import AsmError
from bridge.telemetry.metrics import METRICS

if TYPE_CHECKING:
    from bridge.partitions.watcher import PartitionAgents

SLOT = 0.05
"""Seconds: polls that are due within one slot go out together, because waking up costs more than polling."""


class Scheduled:
    """An agent in the schedule: ``due`` is its next tick, ``list_due`` the next one of its conversations, every
    ``list_interval`` seconds (None: they are not requested); ``on_answer`` gets the answers to its requests.

    ``current``: False once the agent was removed, or its intervals have changed.
    """

    __slots__ = ("agent", "current", "due", "interval", "list_due", "list_interval", "partition", "take", "waking")

    def __init__(self, agent: Agent, partition: "PartitionAgents", take: "Take") -> None:
        self.agent = agent
        self.partition = partition
        self.interval = agent.interval
        self.due = 0.0
        self.list_interval = agent.conversations.interval
        self.list_due = 0.0
        self.current = True
        self.waking = False
        self.take = take

    def on_answer(self, answer: Answer | AsmError) -> None:
        self.take(self, answer)


Take = Callable[[Scheduled, Answer | AsmError], None]


class Schedule:
    """The ticks of all agents of a process: each one's last tick plus its interval, so that nothing drifts.

    Phases are spread by a hash of the agent_id. ``take`` gets the answers to the agents' requests.
    """

    def __init__(self, take: Take) -> None:
        self.ready: dict[Scheduled, bool] = {}
        """Agents whose turn it is: for a status poll (True), or for any urgent request (False)."""
        self._take = take
        self._scheduled: dict[Agent, Scheduled] = {}
        self._ticks: defaultdict[int, list[Scheduled]] = defaultdict(list)
        self._wakes: defaultdict[int, list[Scheduled]] = defaultdict(list)
        self._lists: defaultdict[int, list[Scheduled]] = defaultdict(list)
        self._slot = 0

    def __len__(self) -> int:
        return len(self._scheduled)

    def __iter__(self) -> Iterator[Scheduled]:
        return iter(list(self._scheduled.values()))

    def get(self, agent: Agent) -> Scheduled | None:
        return self._scheduled.get(agent)

    def add(self, agent: Agent, partition: "PartitionAgents", at: float) -> None:
        """Schedules ticks in the agent's own phase; if the first is more than a second away, one tick before it."""
        known = self._scheduled.get(agent)
        rhythm = agent.interval, agent.conversations.interval
        if known is not None and (known.interval, known.list_interval) == rhythm:
            known.partition = partition
            return
        self.remove(agent)
        scheduled = self._scheduled[agent] = Scheduled(agent, partition, self._take)
        due = _next_due(agent.share, agent.interval, at - agent.interval / 2)
        self._put(scheduled, due if due <= at + 1 else at + agent.share)
        if scheduled.list_interval is not None:
            self._put_list(scheduled, _next_due(agent.share, scheduled.list_interval, at))

    def remove(self, agent: Agent) -> None:
        if (scheduled := self._scheduled.pop(agent, None)) is not None:
            scheduled.current = False

    def wake(self, scheduled: Scheduled, at: float) -> None:
        """Returns the agent from ``advance`` once more, soon after ``at``."""
        if not scheduled.waking:
            scheduled.waking = True
            self._wakes[max(int(at / SLOT), self._slot) + 1].append(scheduled)

    def start(self, at: float) -> None:
        """Begins with the first slot that is not empty, or with now."""
        self._slot = min([*self._ticks, *self._lists], default=int(at / SLOT)) - 1

    @property
    def next_slot(self) -> float:
        """The time at which the next slot begins."""
        return (self._slot + 1) * SLOT

    def advance(self) -> tuple[list[Scheduled], list[Scheduled], list[Scheduled]]:
        """Enters the next slot. Returns the agents whose tick is due, those whose conversations are due, and those to
        be woken.
        """
        self._slot += 1
        woken = self._wakes.pop(self._slot, [])
        for scheduled in woken:
            scheduled.waking = False
        due = [scheduled for scheduled in self._ticks.pop(self._slot, ()) if scheduled.current]
        return due, [scheduled for scheduled in self._lists.pop(self._slot, ()) if scheduled.current], woken

    def tick(self, scheduled: Scheduled, at: float) -> None:
        """Takes the tick that is due, which makes it the agent's turn or is skipped, and schedules the next one."""
        due, interval = scheduled.due, scheduled.interval
        late = at - due
        missed = int(late / interval) if late >= interval else 0
        self._put(scheduled, _next_due(scheduled.agent.share, interval, due + missed * interval if missed else due))
        if missed:
            skip("late", missed)
        if (in_flight := scheduled.agent.in_flight) is not None:
            if in_flight.call != LIST_CONVERSATIONS or not scheduled.agent.status_next():
                skip("unanswered")
        elif self.ready.get(scheduled):
            skip("rate_limit")
        else:
            METRICS.lateness_seconds.observe(late)
            self.ready[scheduled] = True

    def list_tick(self, scheduled: Scheduled, at: float) -> None:
        """Takes the tick of an agent's conversations, and schedules the next one."""
        due, interval = scheduled.list_due, scheduled.list_interval
        assert interval is not None
        self._put_list(scheduled, _next_due(scheduled.agent.share, interval, due + (at - due) // interval * interval))

    def _put(self, scheduled: Scheduled, due: float) -> None:
        scheduled.due = due
        self._ticks[max(int(due / SLOT), self._slot) + 1].append(scheduled)

    def _put_list(self, scheduled: Scheduled, due: float) -> None:
        scheduled.list_due = due
        self._lists[max(int(due / SLOT), self._slot) + 1].append(scheduled)


class RateLimit:
    """At most ``per_second`` requests over all agents; None: no limit. ``allowance``: how many may go out now."""

    def __init__(self, per_second: float | None) -> None:
        self._per_slot = None if per_second is None else per_second * SLOT
        self.allowance = inf if per_second is None else 0.0

    def refill(self) -> None:
        """Begins a slot."""
        if self._per_slot is not None:
            self.allowance = min(max(1.0, self._per_slot), self.allowance + self._per_slot)


def skip(reason: str, ticks: int = 1) -> None:
    """Counts ticks without a poll."""
    METRICS.skipped_ticks.labels(reason).inc(ticks)


def _next_due(share: float, interval: float, due: float) -> float:
    """The next time of an agent's phase that is at least half an interval after ``due``: a whole interval from one to
    the next."""
    phase = share * interval
    return phase + (floor((due - phase) / interval + 0.5) + 1) * interval
