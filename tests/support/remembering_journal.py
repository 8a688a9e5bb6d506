"""A journal for ``PartitionAgents`` that writes nothing."""

import msgspec

from asm_bridge_schemas import records
from asm_bridge_schemas.records import AgentState
from bridge.agents.step import DeadLetter, KnownOutcome, Step
from bridge.partitions.offsets import CommitMetadata, OffsetTracker


class RememberingJournal:
    """Keeps what is appended."""

    def __init__(self) -> None:
        self.partition = 0
        self.states: dict[str, AgentState] = {}
        self.offsets = OffsetTracker(0)
        self.metadata = CommitMetadata()
        self.held: dict[int, KnownOutcome] = {}
        self.accepting = True
        self.observed_until: float | None = None
        self.records: list[records.Published] = []
        self.dead_letters: list[DeadLetter] = []

    def dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters.append(letter)

    def advance(self, **fields: int | str | None) -> None:
        self.metadata = msgspec.structs.replace(self.metadata, **fields)

    def append(self, step: Step) -> None:
        self.states[step.state.agent_id] = step.state
        self.records += step.records
        for offset in step.finished:
            self.offsets.completed(offset)
