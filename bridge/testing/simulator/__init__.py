"""The vendor's stand-in: agents that live plausible days, behind the vendor's HTTP interface, with faults on demand."""

from bridge.simulator.faults import Fault, Faults
from bridge.simulator.server import serve
from bridge.simulator.service import Simulator
from bridge.simulator.world import Options, token_of

__all__ = ["Fault", "Faults", "Options", "Simulator", "serve", "token_of"]
