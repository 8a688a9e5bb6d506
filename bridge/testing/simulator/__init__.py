"""A simulator of the vendor's service: agents with plausible days, behind the vendor's HTTP interface, with faults on
demand.
"""

from bridge.testing.simulator.faults import Fault, Faults
from bridge.testing.simulator.server import serve
from bridge.testing.simulator.service import Simulator
from bridge.testing.simulator.world import Options, token_of

__all__ = ["Fault", "Faults", "Options", "Simulator", "serve", "token_of"]
