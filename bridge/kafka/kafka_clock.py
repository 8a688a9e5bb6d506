"""Kafka's clock. No request returns it, but the coordinator reports when a transaction began (KIP-664)."""

import asyncio
import time
from typing import NamedTuple

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from bridge.clock import Clock, difference
from bridge.kafka import internals
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaUnavailableError, stack_of
from bridge.kafka.lifecycle import with_deadline
from bridge.kafka.protocol import transaction
from bridge.telemetry.logs import RepeatFilter
from bridge.telemetry.metrics import METRICS

log = structlog.get_logger()

_DEADLINE = 5.0
_ATTEMPTS = 3
_TRIED_FOR = 15.0
_TRY_EVERY = 60.0


class Reading(NamedTuple):
    """Kafka's clock showed ``time`` (seconds since 1970) between ``since`` (monotonic seconds) and the return of the
    function that read it."""

    time: float
    since: float


async def try_transaction(clients: Clients) -> Reading | None:
    """Begins a transaction and ends it with nothing in it, to see whether this is allowed. Returns Kafka's time as the
    transaction shows it, or None if it shows none. Raises as ``Clients.start_producer`` does.

    Another process that starts at the same time may fence ours, which is then tried again.
    """
    for _ in range(_ATTEMPTS):
        async with clients.trial_producer() as producer:
            try:
                return await with_deadline(_read(producer, clients.group_id), _DEADLINE)
            except ProducerFenced:
                continue
            except (KafkaError, TimeoutError, OSError):
                return None
    return None


async def read_clock(clients: Clients) -> Reading | None:
    """Kafka's clock by ``try_transaction``, where nothing else depends on it: None also without transactions, or the
    right to use them. Raises ``KafkaUnavailableError``.
    """
    try:
        return await with_deadline(try_transaction(clients), _TRIED_FOR)
    except KafkaUnavailableError:
        raise
    except (KafkaError, TimeoutError, OSError):
        return None


class ClockTrials:
    """Lets the clock follow Kafka's by trials: in ``at_least_once`` no transaction of the bridge shows it."""

    def __init__(self, clock: Clock, clients: Clients) -> None:
        self._clock = clock
        self._clients = clients
        self._lock = asyncio.Lock()
        self._tried_at = float("-inf")
        self._failures = RepeatFilter()

    async def run(self) -> None:
        """Reads it from time to time until cancelled."""
        while True:
            await asyncio.sleep(_TRY_EVERY)
            await self._try()

    async def before_publishing(self) -> None:
        """Reads it, unless it is known or was tried in vain a moment ago: a process may have started without the right
        to see it, or while another one did. A time that has been published cannot be taken back."""
        async with self._lock:
            if not self._clock.follows_kafka and time.monotonic() - self._tried_at > _TRY_EVERY:
                self._tried_at = time.monotonic()
                await self._try()

    async def _try(self) -> None:
        try:
            reading = await read_clock(self._clients)
        except Exception as error:  # aiokafka asserts what a broker that starts does not yet say
            if self._failures.is_new(error):
                log.warning("clock.read_failed", error=error, exc_info=stack_of(error))
        else:
            if reading is not None:
                follow(self._clock, reading)


async def _read(producer: AIOKafkaProducer, group_id: str) -> Reading | None:
    since = time.monotonic()
    await producer.begin_transaction()
    await internals.add_group_to_transaction(producer, group_id)
    return await reading_of(producer, since)


async def reading_of(producer: AIOKafkaProducer, since: float) -> Reading | None:
    """The reading from a transaction that is open and was begun after ``since``; None from brokers before Kafka 3.0.

    Raises ``KafkaError``.
    """
    answer = await internals.ask_coordinator(producer, transaction(internals.transactional_id(producer)))
    if answer is None:
        return None
    code, _, state, _, began_ms, *_ = answer.transactions[0]
    return Reading(began_ms / 1000, since) if code == 0 and state == "Ongoing" else None


def follow(clock: Clock, reading: Reading) -> None:
    """Lets the clock follow Kafka's, and logs if this machine's clock differs."""
    differed = clock.differs
    clock.follow(reading.time, reading.since)
    METRICS.kafka_clock_ahead.set(clock.ahead)
    if clock.differs and not differed:
        log.warning("clock.differs", note=difference(clock.ahead), used="Kafka's")
    elif differed and not clock.differs:
        log.info("clock.agrees")
