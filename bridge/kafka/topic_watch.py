"""Watches whether topics are deleted, recreated, or get another number of partitions while the bridge runs."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

import structlog
from aiokafka.admin import AIOKafkaAdminClient

from bridge.kafka.admin import SeenTopic, seen_topics
from bridge.kafka.clients import Clients, open_admin
from bridge.kafka.errors import stack_of
from bridge.kafka.lifecycle import with_deadline
from bridge.kafka.topics import TOPICS, judged_topics, too_many, unusable, wanted_partitions
from bridge.settings import TopicsSettings
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_LOOK_EVERY = 2.0
_DEADLINE = 10.0
_SETTINGS_EVERY = 60.0
"""Seconds between two looks at the topics' settings."""


class TopicWatch:
    """``on_inbox_changed`` is called when the inbox has another id or number of partitions than at the look before."""

    def __init__(self, clients: Clients, settings: TopicsSettings, on_inbox_changed: Callable[[], None]) -> None:
        self._clients = clients
        self._settings = settings
        self._judged: dict[str, list[str]] = {}
        """What is wrong with the settings of each topic that was looked at."""
        self._wanted = wanted_partitions(settings)
        self._single = {clients.topic(one.name) for one in TOPICS if not one.partitioned}
        self._outputs = {clients.topic(one.name) for one in TOPICS if one.output}
        self.writable = True
        """Whether no topic that the bridge writes to is known to be missing, or to lack partitions."""
        self._on_inbox_changed = on_inbox_changed
        self._seen: dict[str, SeenTopic] = {}
        self._ids: dict[str, str] = {}
        self._admin: AIOKafkaAdminClient | None = None
        self._opened = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._looked_at = float("-inf")
        """When the last successful look began (monotonic seconds)."""

    def id(self, topic: str) -> str | None:
        """Returns the id of a topic (without prefix), or the last one of a topic that does not exist now; None if the
        broker does not report it."""
        return self._ids.get(self._clients.topic(topic))

    def problems(self) -> list[str]:
        """Returns what is wrong with the topics, and what to do."""
        return [
            f"{name} {unusable(one.partitions, self._wanted[name])}"
            for name, one in self._seen.items()
            if self._lacks_partitions(name) or (name in self._single and one.partitions > 1)
        ]

    def _lacks_partitions(self, name: str) -> bool:
        return self._seen[name].partitions < self._wanted[name]

    async def run(self) -> None:
        """Looks until cancelled. An outage of Kafka is reported by other parts."""
        failures, settings_at = RepeatFilter(), float("-inf")
        try:
            while True:
                try:
                    await self.look()
                    if time.monotonic() - settings_at > _SETTINGS_EVERY:
                        settings_at = time.monotonic()
                        self._compare_settings(await judged_topics(self._clients, self._settings))
                except Exception as error:
                    METRICS.kafka_errors.labels("topics").inc()
                    if failures.is_new(error):
                        log.warning("topics.look_failed", error=error, exc_info=stack_of(error))
                await asyncio.sleep(_LOOK_EVERY)
        finally:
            await self._close()

    async def look(self) -> None:
        """Updates ids and problems; concurrent callers share one look. Raises ``KafkaError``, ``TimeoutError``."""
        asked = time.monotonic()
        async with self._lock:
            if self._looked_at > asked:
                return
            began = time.monotonic()
            try:
                if self._admin is None:
                    self._admin = await self._opened.enter_async_context(open_admin(self._clients.connection))
                found = await with_deadline(seen_topics(self._admin, self._wanted), _DEADLINE)
            except BaseException:
                await self._close()
                raise
            self._looked_at = began
            self._compare(found or {})

    def _compare_settings(self, found: dict[str, list[str]]) -> None:
        """Logs what has become wrong with a topic since it was looked at last; the start said the rest."""
        for name, texts in found.items():
            for text in texts:
                if text not in self._judged.get(name, texts):
                    log.warning("topic.limited", topic=name, note=text)
        self._judged |= found

    async def _close(self) -> None:
        self._admin = None
        await self._opened.aclose()

    def _compare(self, found: Mapping[str, SeenTopic]) -> None:
        inbox = self._clients.topic("inject")
        for name, now in found.items():
            before = self._seen.get(name)
            if now.id and now.id != (former := self._ids.get(name, now.id)):
                log.error("topic.recreated", topic=name, id=now.id, former=former)
                METRICS.kafka_errors.labels("another_log").inc()
            if before is not None and before.partitions > now.partitions == 0:
                log.error("topic.deleted", topic=name)
            grown = name not in self._single and now.partitions > self._wanted[name]
            if grown and (before is None or before.partitions != now.partitions):
                log.warning("topic.limited", topic=name, note=too_many(now.partitions, self._wanted[name]))
            if now.id:
                self._ids[name] = now.id
        changed = inbox in self._seen and self._seen[inbox] != found.get(inbox, self._seen[inbox])
        self._seen = dict(found)
        self.writable = not any(self._lacks_partitions(name) for name in self._outputs & found.keys())
        if changed:
            self._on_inbox_changed()
