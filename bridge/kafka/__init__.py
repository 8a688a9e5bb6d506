"""Kafka: topics, clients, partitions. Nothing outside this package and the commands knows aiokafka."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

C = TypeVar("C")

_START_DEADLINE = 10.0
_STOP_DEADLINE = 3.0


class KafkaUnavailableError(Exception):
    """Kafka cannot be reached, or does not let us in. The text says where, and what to check."""


@asynccontextmanager
async def connected(client: C, servers: str) -> AsyncIterator[C]:
    """An aiokafka client (producer, consumer or admin), started and in the end stopped.

    Raises ``KafkaUnavailableError`` within some 10 s; ``servers`` is what the user set, for the text.
    """
    try:
        await _start(client, servers)
        yield client
    finally:
        # Both wait for ever while the broker is down.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_STOP_DEADLINE):
                await (client.stop() if hasattr(client, "stop") else client.close())  # type: ignore[attr-defined]


async def _start(client: Any, servers: str) -> None:
    from aiokafka.errors import AuthenticationFailedError, KafkaError, UnsupportedVersionError

    try:
        async with asyncio.timeout(_START_DEADLINE):
            await client.start()
    except AuthenticationFailedError as error:
        raise KafkaUnavailableError(
            f"Kafka at {servers} refused the login: check kafka.sasl_mechanism, kafka.sasl_username and its password"
        ) from error
    except UnsupportedVersionError as error:
        raise KafkaUnavailableError(f"the broker at {servers} lacks what this needs: {error}") from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailableError(
            f"Kafka cannot be reached at {servers}: check kafka.bootstrap_servers and kafka.security_protocol, "
            "that the broker runs, and that its advertised listeners can be reached from here"
        ) from error
