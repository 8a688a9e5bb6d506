"""The checks before the bridge works: whether Kafka can be reached, its topics are right, it can do what
``kafka.delivery`` needs, and, if values are framed, the ids of the schemas are known.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bridge.clock import Clock
from bridge.kafka.clients import Clients
from bridge.kafka.errors import NoTransactionsError, describe, stack_of
from bridge.kafka.kafka_clock import follow, read_clock, try_transaction
from bridge.kafka.schema_registry import OutputFrames, SchemaRegistryError
from bridge.kafka.topics import TOPICS, ensure_topics
from bridge.settings import TopicsSettings
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_RETRY_EVERY = 2.0


class UnsuitableKafkaError(Exception):
    """The bridge cannot work with this Kafka as it is set up; the text says what to do."""


class Preflight:
    """``waiting_for``: why it has not passed yet; None after it has. ``frames``: None where no Schema Registry is
    used."""

    def __init__(
        self, clients: Clients, topics: TopicsSettings, clock: Clock, frames: OutputFrames | None = None
    ) -> None:
        self.waiting_for: str | None = "asking Kafka for its topics"
        self._clients = clients
        self._clock = clock
        self._topics = topics
        self._frames = frames

    async def run(self) -> None:
        """Waits for Kafka, creates missing topics, and tries a transaction; then waits for the Schema Registry, without
        which nothing could be published. Raises ``UnsuitableKafkaError``.
        """
        await self._until_passed(self._check)
        if self._frames is not None:
            self.waiting_for = "asking the Schema Registry for the ids of the schemas"
            await self._until_passed(self._frames.register)

    async def _until_passed(self, check: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await check()
            except UnsuitableKafkaError:
                raise
            except SchemaRegistryError as error:
                if self.waiting_for != str(error):
                    log.warning("schema_registry.awaited", error=error)
                self.waiting_for = str(error)
            except Exception as error:
                METRICS.kafka_errors.labels("start").inc()
                if self.waiting_for != (text := describe(error)):
                    log.warning("kafka.awaited", error=error, exc_info=stack_of(error))
                self.waiting_for = text
            else:
                self.waiting_for = None
                return
            await asyncio.sleep(_RETRY_EVERY)

    async def _check(self) -> None:
        results = await ensure_topics(self._clients.connection, self._topics, create=self._topics.create)
        if problems := [f"{result.name} {problem}" for result in results for problem in result.problems]:
            raise UnsuitableKafkaError("; ".join(problems))
        for result in results:
            for note in result.notes:
                log.warning("topic.limited", topic=result.name, note=note)
        found = zip(TOPICS, results, strict=True)
        self._clients.limits.update({topic.name: result.configs for topic, result in found if topic.output})
        if not self._clients.exactly_once:
            note = "at_least_once: one process only; after a crash an agent's last step may appear again"
            log.warning("delivery.limited", note=note)
        try:
            reading = await (try_transaction if self._clients.exactly_once else read_clock)(self._clients)
        except NoTransactionsError as error:
            raise UnsuitableKafkaError(
                "the broker has no transactions, which kafka.delivery exactly_once needs: set it to at_least_once"
            ) from error
        if reading is not None:
            follow(self._clock, reading)
