"""Follows the registry's topic, and adds to it the entries of ``sessions_file``."""

import asyncio
import time
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

_QUIET = 30.0
"""Seconds without another entry after which a recreated registry counts as whole, since its entries are being written
again."""


class RegistryFollower:
    """``whole`` is set once the registry has been read to its end, with the entries of ``sessions_file`` in it."""

    def __init__(
        self,
        registry: Registry,
        clients: Clients,
        kafka: KafkaSettings,
        sessions_file: Mapping[str, SessionEntry] | None,
        clock: Clock,
        topics: TopicWatch,
    ) -> None:
        self.whole = asyncio.Event()
        self.stable = StableOffsets()
        self.problem: str | None = None
        """Why the registry cannot be read; None while it can."""
        self.emptied: str | None = None
        """The advice about a registry that was recreated and has no entries yet; None if it has some."""
        self._registry = registry
        self._clients = clients
        self._kafka = kafka
        self._sessions_file = self._to_register = sessions_file
        self._topics = topics
        self._clock = clock
        self._topic = clients.topic("sessions")

    async def run(self) -> None:
        """Reads until cancelled, and waits out an outage of Kafka. A registry that was deleted and recreated is read
        from its beginning. Agents that it lacks are unwatched once it has entries and has received no more for a while:
        an empty registry is an accident, not a request to watch no agents."""
        read = written = -1
        read_at, settled, stale = 0.0, False, set[bytes]()
        failures, topic_id = RepeatFilter(), self._topics.id("sessions")
        while True:
            try:
                await self._topics.look()
                if topic_id not in (None, self._topics.id("sessions")):  # also if it was recreated during a failure
                    read = written = -1
                    read_at, settled, stale = time.monotonic(), False, self._registry.begin_again()
                    self._to_register = self._sessions_file
                topic_id = self._topics.id("sessions")
                async with open_reader(self._clients.connection, [(self._topic, 0)]) as reader:
                    while topic_id in (None, self._topics.id("sessions")):
                        topic_id = self._registry.topic_id = self._topics.id("sessions")
                        if reader.at_end and read >= written and not settled:
                            written = max(written, await self._register(stale))
                            if read >= written and not (stale and time.monotonic() - read_at < _QUIET):
                                self._forget(stale)
                                settled = True
                                self.whole.set()
                                log.info("registry.read", agents=len(self._registry))
                        found = await reader.fetch()
                        reader.check_answered()
                        self.problem = None
                        if read < 0 and stale:
                            read_at = time.monotonic()
                        self.emptied = self._advice(stale) if read < 0 and stale else None
                        reader.watch(self.stable)
                        for message in found:
                            if message.offset > read:
                                read = message.offset  # first, so that a record that fails does not fail forever
                                read_at = time.monotonic()
                                stale.discard(message.key or b"")
                                self._registry.read(message)
            except Exception as error:
                METRICS.kafka_errors.labels("registry").inc()
                self.problem = describe(error, "read")
                self.stable.clear()
                if failures.is_new(error):
                    log.warning("registry.read_failed", error=error, exc_info=stack_of(error))
                await asyncio.sleep(1)

    def _advice(self, stale: set[bytes]) -> str:
        return (
            f"{self._topic} was deleted and recreated, and has no entries; the {len(stale)} agents that it had stay "
            "watched until this process ends: write them again (asm-bridge sessions import)"
        )

    def _forget(self, stale: set[bytes]) -> None:
        """Unwatches the agents that the recreated registry lacks."""
        if stale:
            log.warning("registry.lacks_agents", agents=len(stale))
        self._registry.forget(stale)
        stale.clear()

    async def _register(self, stale: set[bytes]) -> int:
        """Writes the entries of the sessions file that the registry lacks, once. Returns the last offset written, or
        -1. ``stale``: the keys of which it has no entry, though they are in force.
        """
        if self._to_register is None:
            return -1
        written = -1
        entries = {name: entry for name, entry in self._registry.entries().items() if name.encode() not in stale}
        if changed := changes(entries, self._to_register):
            written = await write_registry(self._kafka, self._topic, changed, at=self._clock.now().wall)
        log.info("sessions_file.registered", agents=len(self._to_register), changed=len(changed))
        self._to_register = None
        return written
