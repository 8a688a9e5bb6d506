"""The time by Kafka's clock, for commands that compare or set times: this machine's clock may be wrong."""

import typer

from bridge.clock import Clock, difference
from bridge.kafka.clients import Clients
from bridge.kafka.kafka_clock import read_clock
from bridge.settings import Settings


async def kafka_now(settings: Settings) -> float:
    """Seconds since 1970 by Kafka's clock, or by this machine's where Kafka's cannot be read. Says so if they differ.

    Raises ``KafkaUnavailableError``.
    """
    clock, reading = Clock(), await read_clock(Clients.of(settings.kafka, settings.topics))
    if reading is not None:
        clock.follow(*reading)
    if clock.differs:
        typer.echo(f"asm-bridge: {difference(clock.ahead)}, which is used: set it with NTP", err=True)
    return clock.now().wall
