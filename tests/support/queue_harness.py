"""The injections of one agent, its state, and the emitted records."""

from collections.abc import Iterable, Sequence

from asm_bridge_schemas.records import AgentState, InjectionCompleted
from bridge.agents.injection import Injection
from bridge.agents.queue import InjectionQueue
from bridge.agents.step import Step
from bridge.settings.model import InjectionSettings
from tests.support.strategies import EPOCH, injection


def offsets(injections: Iterable[Injection]) -> list[int]:
    return [one.offset for one in injections]


class QueueHarness:
    """A queue, the agent's state beside it, and the emitted records."""

    def __init__(self, state: AgentState | None = None, **settings: int) -> None:
        self.pending = InjectionQueue(InjectionSettings(**settings))
        self.step = Step(state or AgentState(agent_id="agent-7", stream_id="s"), EPOCH)

    def at(self, seconds: float) -> "QueueHarness":
        self.step.now = EPOCH + seconds
        return self

    def add(self, *injections: Injection) -> "QueueHarness":
        for one in injections:
            self.pending.add(self.step, one)
        return self

    def inject(self, *offsets: int, **headers: str) -> "QueueHarness":
        return self.add(*(injection(offset, self.step.now, **headers) for offset in offsets))

    def take(self) -> Sequence[Injection]:
        return self.pending.take(self.step.now)

    def deliver(self) -> list[int]:
        taken = self.take()
        self.pending.delivered(self.step, taken, "7", 200)
        return offsets(taken)

    def sweep(self, unknown_since: float | None = None, busy: Iterable[Injection] = ()) -> "QueueHarness":
        self.pending.sweep(self.step, busy, unknown_since)
        return self

    @property
    def completed(self) -> list[InjectionCompleted]:
        return [record for record in self.step.records if isinstance(record, InjectionCompleted)]

    @property
    def outcomes(self) -> dict[int, str]:
        """By offset: outcome, and its reason after a colon."""
        ends = {
            int(one.entry.split("/")[1]): ":".join(filter(None, (one.outcome, one.reason))) for one in self.completed
        }
        assert len(ends) == len(self.completed)
        assert sorted(ends) == sorted(self.step.finished)
        return ends

    @property
    def waiting(self) -> list[int]:
        return offsets(self.pending.injections)
