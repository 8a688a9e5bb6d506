"""A broker that was not started here, given by its address."""

import asyncio
from typing import Never

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bridge.testing.brokers.base import Broker, BrokerNotOursError, BrokerUnavailableError

PROBE_DEADLINE = 15.0


class ExternalBroker(Broker):
    """A broker that must not be killed."""

    name = "external"

    def __init__(self, address: str) -> None:
        self.bootstrap_servers = address

    @property
    def description(self) -> str:
        return f"{self.bootstrap_servers} (given)"

    def start(self) -> str:
        """Checks only whether the broker answers, and whether it has transactions."""
        if not asyncio.run(self._starts(None)):
            raise BrokerUnavailableError(f"no Kafka broker answers at {self.bootstrap_servers}")
        self.transactions = asyncio.run(self._starts("asm-bridge-tests-probe"))
        return self.bootstrap_servers

    async def _starts(self, transactional_id: str | None) -> bool:
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, transactional_id=transactional_id)
        try:
            await asyncio.wait_for(producer.start(), PROBE_DEADLINE)
        except (KafkaError, TimeoutError):
            return False
        finally:
            await asyncio.wait_for(producer.stop(), PROBE_DEADLINE)
        return True

    def stop(self) -> None:
        """Does nothing, since the broker was not started here."""

    def kill(self) -> None:
        self._not_ours()

    def restart(self) -> None:
        self._not_ours()

    def pause(self) -> None:
        self._not_ours()

    def resume(self) -> None:
        self._not_ours()

    def _not_ours(self) -> Never:
        raise BrokerNotOursError(f"the broker at {self.bootstrap_servers} is not ours to kill or pause")
