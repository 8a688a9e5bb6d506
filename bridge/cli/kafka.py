"""For commands that talk to Kafka: runs their coroutines, turns each failure into one text, and reads Kafka's clock."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from bridge.cli.errors import CliError
from bridge.clock import Clock, difference
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaError, KafkaUnavailableError, describe
from bridge.kafka.kafka_clock import read_clock
from bridge.settings import Settings

T = TypeVar("T")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Returns the coroutine's result. Raises ``CliError`` if Kafka fails."""
    # What aiokafka logs while it tries is reported once, by the error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(main)
    except KafkaUnavailableError as error:
        raise CliError(str(error)) from None
    except (KafkaError, TimeoutError) as error:
        raise CliError(f"Kafka failed before the command was done ({describe(error)}): try again") from None


async def kafka_now(settings: Settings) -> float:
    """Seconds since 1970 by Kafka's clock, for commands that compare or set times, or by this machine's where Kafka's
    cannot be read. Says so if they differ.

    Raises ``KafkaUnavailableError``.
    """
    clock, reading = Clock(), await read_clock(Clients.of(settings.kafka, settings.topics))
    if reading is not None:
        clock.follow(*reading)
    if clock.differs:
        typer.echo(f"asm-bridge: {difference(clock.ahead)}, which is used: set it with NTP", err=True)
    return clock.now().wall
