"""Runs coroutines that talk to Kafka, and turns each failure into one text."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from bridge.cli.errors import CliError
from bridge.kafka.errors import KafkaError, KafkaUnavailableError, describe

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
