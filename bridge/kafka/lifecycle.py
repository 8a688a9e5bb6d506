"""The life of an aiokafka client: started, called and stopped within deadlines, which aiokafka itself lacks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka.errors import AuthenticationFailedError, KafkaError, UnsupportedVersionError

from bridge.kafka.errors import KafkaUnavailableError

T = TypeVar("T")
C = TypeVar("C")

START_DEADLINE = 10.0
CALL_DEADLINE = 30.0
STOP_DEADLINE = 5.0
"""Seconds after which a client counts as unreachable, a call as failed, and a client that stops is left to itself."""


async def with_deadline(call: Awaitable[T], deadline: float = CALL_DEADLINE) -> T:
    """Returns the result of a call to Kafka. Raises ``TimeoutError``; aiokafka would wait as long as the broker is
    down.
    """
    async with asyncio.timeout(deadline):
        return await call


async def stop_quietly(call: Coroutine[Any, Any, Any], deadline: float = STOP_DEADLINE) -> None:
    """Stops a client within the deadline, whatever it raises.

    In a task of its own: in an outage aiokafka's ``stop()`` lets the cancellation of its own parts out, which would
    look as if the caller had been cancelled.
    """
    stopping = asyncio.ensure_future(call)
    await asyncio.wait([stopping], timeout=deadline)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled():
        stopping.exception()


@asynccontextmanager
async def connected(client: C, servers: str) -> AsyncIterator[C]:
    """An aiokafka client (producer, consumer or admin) that is started on entry and stopped on exit.

    ``servers``: what the user set, for the text of an error. Raises ``KafkaUnavailableError`` within 10 s.
    """
    try:
        await _start(client, servers)
        yield client
    finally:
        await stop_quietly(client.stop() if hasattr(client, "stop") else client.close())  # type: ignore[attr-defined]


async def _start(client: Any, servers: str) -> None:
    try:
        await with_deadline(client.start(), START_DEADLINE)
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
    except Exception as error:  # a server that does not speak Kafka, or a login that makes no sense to aiokafka
        raise KafkaUnavailableError(
            f"Kafka at {servers} cannot be understood ({error!r}): check kafka.bootstrap_servers and the kind of login"
        ) from error
