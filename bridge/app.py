"""Builds the parts of the bridge for ``run``."""

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator

import structlog

from asm_bridge_schemas.protojson import omit, report_unreadable_to
from bridge.asm.circuit_breaker import CircuitBreaker
from bridge.asm.client import AsmClient
from bridge.asm.tokens import Tokens
from bridge.asm.transport import build_transport
from bridge.backoff import Backoff
from bridge.clock import Clock
from bridge.kafka.clients import Clients
from bridge.kafka.encoding import Encoder
from bridge.kafka.kafka_clock import ClockTrials
from bridge.kafka.preflight import Preflight, UnsuitableKafkaError
from bridge.kafka.schema_registry import OutputFrames
from bridge.kafka.topic_watch import TopicWatch
from bridge.ops.http import cannot_listen, listen
from bridge.ops.readiness import Readiness
from bridge.ops.server import serve
from bridge.ops.snapshot import Snapshot
from bridge.partitions.assignment import Assignment
from bridge.partitions.owner import Shared
from bridge.partitions.watcher import Policy
from bridge.polling.poller import Poller
from bridge.registry.file import SessionsFileError, read_sessions_file
from bridge.registry.follower import RegistryFollower
from bridge.registry.registry import InvalidEntry, Registry
from bridge.settings import Settings
from bridge.signals import stop_on_signals, unless
from bridge.telemetry import tracing
from bridge.telemetry.unreadable import UnreadableFields

log = structlog.get_logger()

_TRIM_EVERY = 10.0


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


async def _return_freed_memory() -> None:
    """Gives freed memory back to the system. glibc keeps what is free below the top of its heap: after the burst in
    which a partition's first records are encoded, that is an eighth of a process with 5,000 agents. Takes 1 to 4 ms.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it; musl and macOS need it less
    while trim is not None:
        await asyncio.sleep(_TRIM_EVERY)
        trim(0)


class StartError(Exception):
    """The bridge cannot work with this Kafka, or on this machine, as configured; the text says what to do."""


class Bridge:
    """One process of the bridge. Raises ``SessionsFileError`` for a wrong ``sessions_file``."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        kafka, asm, records = settings.kafka, settings.asm, settings.records
        backoff, self._clock = Backoff(), Clock()
        clock = self._clock
        clients = Clients.of(kafka, settings.topics)
        frames = OutputFrames(settings.schema_registry, settings.topics) if settings.schema_registry.url else None
        self._client = AsmClient(build_transport(asm), asm.base_url, asm.max_retry_after)
        report_unreadable_to(UnreadableFields())
        omit(records.omitted)
        self._tokens = Tokens(settings.secrets_dir, asm.token.get_secret_value() if asm.token else None)
        self._circuit = CircuitBreaker(backoff)
        self._registry = Registry(self._on_entry, self._on_invalid_entry)
        self._poller = Poller(self._client, self._tokens, self._circuit, asm.rate_limit, self._may_send, clock=clock)
        self._topics = TopicWatch(clients, settings.topics, self._on_inbox_changed)
        self._clock_trials = None if clients.exactly_once else ClockTrials(clock, clients)
        self._assignment = Assignment(
            Shared(
                partitions=settings.topics.partitions,
                commit_interval=kafka.commit_interval,
                clients=clients,
                encoder=Encoder(
                    records.encoding,
                    settings.topics.name("inject"),
                    records.source or "",
                    None if frames is None else frames.framed,
                    clients.limits,
                ),
                heartbeat_interval=records.heartbeat_interval,
                instance=f"{socket.gethostname()}:{os.getpid()}",
                registry=self._registry,
                reschedule=self._poller.update,
                policy=Policy(settings.poll.interval, settings.injection, backoff, clock),
                topics=self._topics,
                clock_trials=self._clock_trials,
            )
        )
        self._preflight = Preflight(clients, settings.topics, clock, frames)
        sessions = None if settings.sessions_file is None else read_sessions_file(settings.sessions_file)
        self._follower = RegistryFollower(self._registry, clients, kafka, sessions, clock, self._topics)
        self.readiness = Readiness(self._preflight, self._follower, self._assignment, self._topics)

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until ``stop``; then polls in flight end, their steps are committed, and the partitions are handed over.

        Raises ``StartError``.
        """
        async with contextlib.aclosing(self._client), self._serving():
            try:
                await unless(stop, self._preflight.run())
            except UnsuitableKafkaError as error:
                raise StartError(str(error)) from error
            if not stop.is_set():
                await self._work(stop)
        log.info("run.stopped")

    async def _work(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            parts = (
                self._topics.run(),
                self._follower.run(),
                self._poller.run(),
                self.readiness.log_changes(),
                _return_freed_memory(),
            )
            running = [tasks.create_task(part) for part in parts]
            if self._clock_trials is not None:
                running.append(tasks.create_task(self._clock_trials.run()))
            await unless(stop, self._follower.whole.wait())
            if not stop.is_set():
                running.append(tasks.create_task(self._assignment.run()))
            await stop.wait()
            await self._assignment.drain(self._settings.drain_timeout)
            for task in running:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        ops = self._settings.ops
        try:
            listener = listen(ops.host, ops.port)
        except OSError as error:
            raise StartError(cannot_listen(ops, error)) from error
        async with serve(listener, self.snapshot, ops):
            log.info("ops.listening", address=ops.listen)
            yield

    def snapshot(self) -> Snapshot:
        """The present state of this process, for the endpoints."""
        return Snapshot(
            not_ready=self.readiness.reason(),
            given_up=self.readiness.given_up(),
            standing_by=self.readiness.standing_by(),
            group_id=self._settings.kafka.group_id,
            owned=self._assignment.owners,
            partitions_total=self._settings.topics.partitions,
            registered=len(self._registry),
            refused=len(self._registry.invalid_entries()),
            service_down=self._circuit.is_down,
            token_reloads=self._tokens.reloads,
            now=self._clock.now().wall,
            clock_ahead=self._clock.ahead,
        )

    # -- called by the registry and the poller; the assignment is built after them

    def _on_entry(self, agent_id: str) -> None:
        self._assignment.sync(agent_id)

    def _on_invalid_entry(self, entry: InvalidEntry) -> None:
        self._assignment.dead_letter(entry)

    def _on_inbox_changed(self) -> None:
        self._assignment.rejoin()

    def _may_send(self) -> bool:
        return self._topics.writable and self._assignment.is_current()
