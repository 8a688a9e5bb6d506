"""Puts the parts together for ``run``."""

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import structlog

from asm_bridge_schemas.commands import SessionEntry
from asm_bridge_schemas.protojson import report_unreadable_to
from asm_bridge_schemas.records import AgentState
from bridge.agents.injection import Message
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient
from bridge.asm.tokens import Tokens
from bridge.asm.transport import build_transport
from bridge.backoff import Backoff
from bridge.clock import Clock
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder
from bridge.kafka.errors import KafkaError, NoTransactionsError
from bridge.kafka.group import ConsumerGroupMember
from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import open_reader
from bridge.kafka.topics import ensure_topics
from bridge.ops.http import listen
from bridge.ops.server import serve
from bridge.ops.snapshot import Snapshot
from bridge.partitions.journal import Journal
from bridge.partitions.owner import PartitionOwner
from bridge.partitions.watcher import PartitionAgents, Policy
from bridge.polling.poller import Poller
from bridge.registry.file import SessionsFileError, changes, read_sessions_file
from bridge.registry.registry import InvalidEntry, Registry
from bridge.registry.topic import write_registry
from bridge.settings import Settings
from bridge.signals import stop_on_signals
from bridge.telemetry import tracing
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS
from bridge.telemetry.unreadable import UnreadableFields

log = structlog.get_logger()

_REVOKE_SHARE = 0.6
"""Of the session time-out, how much may go into coming to rest before a rebalance goes on without it."""


def run(settings: Settings) -> int:
    """Run the bridge until SIGINT or SIGTERM. Returns the exit code."""
    import uvloop

    # A poll makes a hundred short-lived objects and no cycle: looking for cycles less often saves a tenth of its cost,
    # and the pauses of a full collection over a big process's agents.
    gc.set_threshold(50_000, 20, 100)
    with tracing.traces(settings.kafka.group_id):
        return uvloop.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = stop_on_signals()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, stop.set)  # a worker's supervisor has ended
    try:
        await Bridge(settings).run(stop)
    except SessionsFileError as error:
        log.error("sessions_file.refused", error=error)  # noqa: TRY400 - the text says it all
        return 2
    except StartError as error:
        log.error("run.failed", error=error)  # noqa: TRY400 - the text says it all
        return 1
    return 0


class StartError(Exception):
    """The bridge cannot work with this Kafka, or on this machine, as it is set up; the text says what to do."""


class Bridge:
    """One process of the bridge: a member of the group, with a worker for each partition that it owns."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        kafka, asm = settings.kafka, settings.asm
        self._clients = Clients(
            connection=kafka.client_arguments(),
            group_id=kafka.group_id,
            topic=settings.topics.name,
            exactly_once=kafka.delivery == "exactly_once",
            compression=kafka.compression_type,
            session_timeout=kafka.session_timeout,
            group_instance_id=kafka.group_instance_id,
        )
        self._encoder = Encoder(settings.records.encoding, settings.topics.name("inject"))
        backoff = Backoff()
        self._client = AsmClient(build_transport(asm), asm.base_url, asm.max_retry_after)
        report_unreadable_to(UnreadableFields())
        self._tokens = Tokens(settings.secrets_dir, asm.token.get_secret_value() if asm.token else None)
        self._host = CircuitBreaker(backoff)
        self._poller = Poller(self._client, self._tokens, self._host, asm.rate_limit, self._holds)
        interval, clock = settings.poll.interval, Clock().now
        self._policy = Policy(interval=interval, injection=settings.injection, backoff=backoff, clock=clock)
        self._registry = Registry(self._changed, self._refused)
        self._registry_read = asyncio.Event()
        self._sessions: dict[str, SessionEntry] | None = None
        self._hindrance: str | None = None
        self._group: ConsumerGroupMember | None = None
        self._draining = False
        self._workers: dict[int, tuple[PartitionOwner, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``; then polls under way end, their steps are committed, and the partitions are handed over.

        Raises ``StartError``, and ``SessionsFileError`` before anything else is done.
        """
        path = self._settings.sessions_file
        self._sessions = None if path is None else read_sessions_file(path)
        async with self._served():
            await _until(stop, self._prepare())
            if not stop.is_set():
                await self._work(stop)
        await self._client.aclose()
        log.info("run.stopped")

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            parts = (self._follow_registry(), self._poller.run(), self._tell_readiness())
            running = [tasks.create_task(part) for part in parts]
            await _until(stop, self._registry_read.wait())
            if not stop.is_set():
                running.append(tasks.create_task(self._take_part(stop)))
            await stop.wait()
            log.info("run.draining", partitions=len(self._workers))
            await self._drain()
            for task in running:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _served(self) -> AsyncIterator[None]:
        ops = self._settings.ops
        try:
            listener = listen(ops.host, ops.port)
        except OSError as error:
            raise StartError(
                f"cannot listen on ops.listen {ops.listen}: {error.strerror}. Set another address"
            ) from error
        async with serve(listener, self.snapshot):
            log.info("ops.listening", address=ops.listen)
            yield

    async def _prepare(self) -> None:
        """See to Kafka and the topics; a Kafka that does not answer is waited for."""
        while True:
            try:
                await self._prepare_once()
            except (KafkaError, OSError, TimeoutError) as error:
                METRICS.kafka_errors.labels("start").inc()
                text = str(error) or type(error).__name__
                if text != self._hindrance:
                    log.warning("kafka.awaited", error=error)
                self._hindrance = text
                await asyncio.sleep(2)
            else:
                self._hindrance = None
                return

    async def _prepare_once(self) -> None:
        settings = self._settings
        results = await ensure_topics(self._clients.connection, settings.topics, create=settings.topics.create)
        if problems := [f"{result.name} {problem}" for result in results for problem in result.problems]:
            raise StartError("; ".join(problems))
        if self._clients.exactly_once:
            await self._try_transactions()
        else:
            note = "at_least_once: one process only; after a crash an agent's last step may appear again"
            log.warning("delivery.limited", note=note)

    async def _try_transactions(self) -> None:
        try:
            await self._clients.close(await self._clients.start_producer("check"))
        except NoTransactionsError as error:
            text = "the broker has no transactions, which kafka.delivery exactly_once needs: set it to at_least_once"
            raise StartError(text) from error

    def not_ready(self) -> str | None:
        """Why this process does not do its work now; None if it does."""
        if self._hindrance is not None:
            return self._hindrance
        if not self._registry_read.is_set():
            return "the registry has not been read yet: is Kafka reachable?"
        if self._group is None or not self._group.is_member:
            return "not a member of the consumer group yet, or partitions are being dealt out anew"
        if not self._group.is_current():
            return "Kafka has not answered a heartbeat within the session time-out"
        if not self._workers:
            return "owns no partition: there are more processes than partitions"
        waiting = sorted(number for number, (worker, _) in self._workers.items() if not worker.ready)
        return f"partitions are being opened, or cannot commit: {waiting}" if waiting else None

    def snapshot(self) -> Snapshot:
        """What this process is doing, for the page and ``status``."""
        return Snapshot(
            not_ready=self.not_ready(),
            group_id=self._clients.group_id,
            owned={number: worker for number, (worker, _) in self._workers.items()},
            partitions_total=self._settings.topics.partitions,
            registered=len(self._registry),
            refused=len(self._registry.invalid_entries()),
            host_down=self._host.is_down,
            token_reloads=self._tokens.reloads,
        )

    # -- parts that run all along

    async def _tell_readiness(self) -> None:
        """A line in the log whenever readiness changes."""
        told: str | None = ""
        while True:
            reason = self.not_ready()
            if reason != told:
                if reason is None:
                    log.info("run.ready")
                else:  # of a process that has just begun nothing else is to be expected
                    (log.warning if told is None else log.info)("run.not_ready", reason=reason)
                told = reason
            await asyncio.sleep(1)

    async def _follow_registry(self) -> None:
        """Read the registry, and go on reading; an outage of Kafka is waited out.

        It counts as read once it has the entries of the sessions file.
        """
        topic = self._clients.topic("sessions")
        read = written = -1
        failures = RepeatFilter()
        while True:
            try:
                async with open_reader(self._clients.connection, [(topic, 0)]) as reader:
                    while True:
                        if reader.at_end and read >= written and not self._registry_read.is_set():
                            written = await self._register()
                            if read >= written:
                                self._registry_read.set()
                                log.info("registry.read", agents=len(self._registry))
                        for message in await reader.fetch():
                            if message.offset > read:
                                self._registry.read(message)
                                read = message.offset
            except (KafkaError, OSError, TimeoutError) as error:
                METRICS.kafka_errors.labels("registry").inc()
                if failures.is_new(error):
                    log.warning("registry.read_failed", error=error)
                await asyncio.sleep(1)

    async def _register(self) -> int:
        """Write what the registry lacks of the sessions file, once; returns the last offset written, -1 if it lacks
        nothing."""
        wanted, written = self._sessions, -1
        if wanted is not None:
            if changed := changes(self._registry.entries(), wanted):
                written = await write_registry(self._settings.kafka, self._clients.topic("sessions"), changed)
            self._sessions = None
            log.info("sessions_file.registered", agents=len(wanted), changed=len(changed))
        return written

    async def _take_part(self, stop: asyncio.Event) -> None:
        """Be a member of the group; one that Kafka throws out for good joins anew."""
        failures = RepeatFilter()
        while not stop.is_set():
            group = self._group = ConsumerGroupMember(self._clients, self._revoke, self._assign, self._deliver)
            try:
                await group.start()
                await group.run()
            except (KafkaError, OSError, TimeoutError) as error:
                METRICS.kafka_errors.labels("group").inc()
                if failures.is_new(error):
                    log.warning("group.left", group=self._clients.group_id, error=error)
                await self._end(list(self._workers))
                await group.stop()
                await asyncio.sleep(1)

    async def _drain(self) -> None:
        self._draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout):
                await asyncio.gather(*(worker.suspend() for worker, _ in self._workers.values()))
        await self._end(list(self._workers))
        if self._group is not None:
            await self._group.stop()

    # -- what the group tells

    async def _revoke(self) -> None:
        """Come to rest, in the time there is; a partition that does not is taken over as if its owner had died."""
        workers = [asyncio.ensure_future(worker.suspend()) for worker, _ in self._workers.values()]
        if workers:
            await asyncio.wait(workers, timeout=self._settings.kafka.session_timeout * _REVOKE_SHARE)

    def _assign(self, partitions: set[int], kept: bool) -> None:
        if self._draining:  # a rebalance that was under way: nobody would end these workers
            return
        gone = [
            number
            for number, (worker, _) in self._workers.items()
            if number not in partitions or not (kept and worker.resume())
        ]
        for number in gone:
            self._workers.pop(number)[1].cancel()
        for number in partitions - self._workers.keys():
            worker = self._worker(number)
            self._workers[number] = worker, self._tasks.create_task(worker.run())
        log.info("partitions.assigned", partitions=sorted(partitions), kept=len(partitions) if kept else 0)

    def _deliver(self, number: int, messages: Sequence[Message]) -> None:
        if number in self._workers:
            self._workers[number][0].deliver(messages)

    def _worker(self, number: int) -> PartitionOwner:
        assert self._group is not None
        group = self._group
        count = self._settings.topics.partitions

        def partition(committed: Callable[[str, AgentState | None], None]) -> Journal:
            return Journal(number, self._clients, self._encoder, group.commit, committed)

        def agents(partition: Journal) -> PartitionAgents:
            return PartitionAgents(partition, count, self._registry, self._poller.update, self._policy)

        return PartitionOwner(number, group, partition, agents, self._gathering)

    def _gathering(self, since: float) -> float:
        """Seconds until steps are committed that are gathered since then (monotonic).

        Where all partitions share a producer they commit at the same time: it is one request for all.
        """
        interval, at = self._settings.kafka.commit_interval, time.monotonic()
        return since + interval - at if self._clients.exactly_once else interval - at % interval

    # -- what the registry tells

    def _changed(self, agent_id: str) -> None:
        for agents in self._owned(agent_id):
            agents.sync(agent_id)

    def _refused(self, bad: InvalidEntry) -> None:
        for agents in self._owned(bad.key):
            agents.dead_letter(bad)

    def _owned(self, key: str | bytes) -> Iterator[PartitionAgents]:
        """The agents that ``key`` belongs to, if they are ours and in memory."""
        if not self._workers:
            return
        owned = self._workers.get(partition_for(key, self._settings.topics.partitions))
        if owned is not None and owned[0].agents is not None:
            yield owned[0].agents

    async def _end(self, numbers: list[int]) -> None:
        tasks = [self._workers.pop(number)[1] for number in numbers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _holds(self) -> bool:
        return self._group is not None and self._group.is_current()


async def _until(stop: asyncio.Event, work: Awaitable[Any]) -> None:
    """Wait for ``work``, or for ``stop``, which ends it."""
    task = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
    else:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
