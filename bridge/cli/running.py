"""Running what is asynchronous and talks to Kafka."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from bridge.cli.errors import CliError
from bridge.kafka.errors import KafkaError, KafkaUnavailableError

T = TypeVar("T")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. Raises ``CliError`` if Kafka fails."""
    # What aiokafka logs while it tries is reported once, by the error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(main)
    except KafkaUnavailableError as error:
        raise CliError(str(error)) from None
    except (KafkaError, TimeoutError) as error:
        raise CliError(
            f"Kafka failed before the command was done ({error or 'no answer in time'}): try again"
        ) from None
