"""Brokers for tests: real ones, each started, killed, paused and restarted in the same way."""

from bridge.testing.brokers.base import Broker, BrokerNotOursError, BrokerUnavailableError
from bridge.testing.brokers.choice import start_broker

__all__ = ["Broker", "BrokerNotOursError", "BrokerUnavailableError", "start_broker"]
