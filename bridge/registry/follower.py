"""Follows the registry's topic, and adds to it the entries of ``sessions_file``."""

import asyncio
from collections.abc import Mapping

import structlog

from asm_bridge_schemas.commands import SessionEntry
from bridge.clock import Clock
from bridge.kafka.clients import Clients
from bridge.kafka.errors import describe, stack_of
from bridge.kafka.reading import open_reader
from bridge.kafka.stable_offsets import StableOffsets
from bridge.kafka.topic_watch import TopicWatch
from bridge.registry.file import changes
from bridge.registry.registry import Registry
from bridge.registry.topic import write_registry
from bridge.settings import KafkaSettings
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()


class RegistryFollower:
    """``whole`` is set once the registry has been read to its end, with the entries of ``sessions_file`` in it."""

    def __init__(
        self,
        registry: Registry,
        clients: Clients,
        kafka: KafkaSettings,
        sessions_file: Mapping[str, SessionEntry] | None,
        clock: Clock,
        topics: TopicWatch | None = None,
    ) -> None:
        self.whole = asyncio.Event()
        self.stable = StableOffsets()
        self.problem: str | None = None
        """Why the registry cannot be read; None while it can."""
        self._registry = registry
        self._clients = clients
        self._kafka = kafka
        self._sessions_file = self._to_register = sessions_file
        self._topics = topics
        self._clock = clock
        self._topic = clients.topic("sessions")

    async def run(self) -> None:
        """Reads until cancelled, and waits out an outage of Kafka. A registry that was deleted and recreated is read
        from its beginning, and what it lacks is unwatched."""
        read = written = -1
        settled, stale = False, set[bytes]()
        failures = RepeatFilter()
        while True:
            try:
                topic_id = self._topic_id()
                async with open_reader(self._clients.connection, [(self._topic, 0)]) as reader:
                    while topic_id in (None, self._topic_id()):
                        topic_id = self._topic_id()
                        if reader.at_end and read >= written and not settled:
                            self._registry.forget(stale)
                            stale.clear()
                            written = await self._register()
                            if read >= written:
                                settled = True
                                self.whole.set()
                                log.info("registry.read", agents=len(self._registry))
                        found = await reader.fetch()
                        self.problem = None
                        reader.watch(self.stable)
                        for message in found:
                            if message.offset > read:
                                read = message.offset  # first: a record that fails must not fail for ever
                                stale.discard(message.key or b"")
                                self._registry.read(message)
                read = written = -1
                settled, stale = False, self._registry.keys()
                self._to_register = self._sessions_file
            except Exception as error:
                METRICS.kafka_errors.labels("registry").inc()
                self.problem = describe(error, "read")
                self.stable.clear()
                if failures.is_new(error):
                    log.warning("registry.read_failed", error=error, exc_info=stack_of(error))
                await asyncio.sleep(1)

    def _topic_id(self) -> str | None:
        return None if self._topics is None else self._topics.id("sessions")

    async def _register(self) -> int:
        """Writes the entries of the sessions file that the registry lacks, once. Returns the last offset written, or
        -1.
        """
        if self._to_register is None:
            return -1
        written = -1
        if changed := changes(self._registry.entries(), self._to_register):
            written = await write_registry(self._kafka, self._topic, changed, at=self._clock.now().wall)
        log.info("sessions_file.registered", agents=len(self._to_register), changed=len(changed))
        self._to_register = None
        return written
