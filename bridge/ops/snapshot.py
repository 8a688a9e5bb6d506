"""The present state of the bridge, as references: cheap to take, valid until control returns to the event loop."""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from bridge.agents.agent import Agent
from bridge.partitions.owner import PartitionOwner

PartitionState = Literal["opening", "watching", "cannot_commit", "handing_over"]


class Watched(NamedTuple):
    """An agent and the partition that it belongs to."""

    partition: int
    agent: Agent


class PartitionView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An owned partition; ``agents``: the number of agents in memory; ``problem``: why it was lost, until it can
    commit.
    """

    number: int
    state: PartitionState
    agents: int
    problem: str | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """``not_ready``: why this process is not ready, or None; ``standing_by``: ready to take over, without a partition;
    ``given_up``: why it should be restarted, or None. ``registered``: agents in the registry, of all processes;
    ``refused``: invalid registry entries; ``token_reloads``: token files read so far. ``now``: seconds since 1970, by
    Kafka's clock, of which this machine's is ``clock_ahead`` seconds ahead.
    """

    not_ready: str | None
    group_id: str
    owned: Mapping[int, PartitionOwner]
    partitions_total: int
    registered: int
    refused: int
    service_down: bool
    now: float
    clock_ahead: float = 0.0
    standing_by: bool = False
    token_reloads: int = 0
    given_up: str | None = None

    @property
    def partitions(self) -> list[PartitionView]:
        return [_view(number, self.owned[number]) for number in sorted(self.owned)]

    def agents(self) -> Iterator[Watched]:
        """All agents in memory."""
        for number, owner in self.owned.items():
            for agent in owner.agents or ():
                yield Watched(number, agent)

    def arrivals(self) -> list[float]:
        """The arrival time of each waiting injection, in seconds since 1970."""
        return [injection.received_at for one in self.agents() for injection in one.agent.pending.injections]


StatusSource = Callable[[], Snapshot]


def _view(number: int, owner: PartitionOwner) -> PartitionView:
    agents = owner.agents
    if agents is None:
        return PartitionView(number, "opening", 0, owner.problem)
    state: PartitionState = "watching" if agents.accepting else "cannot_commit" if agents.active else "handing_over"
    return PartitionView(number, state, len(agents), owner.problem)
