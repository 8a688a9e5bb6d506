"""The life of an aiokafka client: started, called and stopped within deadlines, which aiokafka itself lacks."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aiokafka.errors import AuthenticationFailedError, KafkaError, SaslAuthenticationFailed, UnsupportedVersionError

from bridge.asm.http.connect_error import explain
from bridge.kafka import internals
from bridge.kafka.errors import KafkaUnavailableError, LoginError

T = TypeVar("T")
C = TypeVar("C")

CONNECT_DEADLINE = 5.0
"""Seconds for each step of making a connection: the network's, and those of a login."""
START_DEADLINE = 10.0
CALL_DEADLINE = 30.0
STOP_DEADLINE = 5.0
"""Seconds after which a client counts as unreachable, a call as failed, and a client that stops is left to itself."""


async def with_deadline(call: Awaitable[T], deadline: float = CALL_DEADLINE) -> T:
    """Returns the result of a call to Kafka. Raises ``TimeoutError``; aiokafka would wait as long as the broker is
    down.
    """
    try:
        async with asyncio.timeout(deadline):
            return await call
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer from Kafka within {deadline:g} s") from error


async def stop_quietly(call: Coroutine[Any, Any, Any], deadline: float = STOP_DEADLINE) -> None:
    """Stops a client within the deadline, whatever it raises.

    It runs in a separate task, because in an outage aiokafka's ``stop()`` raises the cancellation of its own parts, as
    if the caller had been cancelled.
    """
    stopping = asyncio.ensure_future(call)
    await asyncio.wait([stopping], timeout=deadline)
    if not stopping.done():
        stopping.cancel()
    elif not stopping.cancelled():
        stopping.exception()


@asynccontextmanager
async def connected(client: C) -> AsyncIterator[C]:
    """An aiokafka client (producer, consumer or admin) that is started on entry and stopped on exit.

    Raises ``KafkaUnavailableError`` within 10 s.
    """
    try:
        await started(client)
        yield client
    finally:
        await stop_quietly(client.stop() if hasattr(client, "stop") else client.close())  # type: ignore[attr-defined]


async def started(client: Any) -> None:
    """Starts an aiokafka client. Raises ``KafkaUnavailableError`` within 10 s."""
    try:
        await with_deadline(client.start(), START_DEADLINE)
    except UnsupportedVersionError as error:
        raise KafkaUnavailableError(
            f"the broker at {internals.servers(client)} lacks what this needs: {error}"
        ) from error
    except (KafkaError, OSError, TimeoutError) as error:
        raise KafkaUnavailableError(why_unavailable(client, error)) from error
    except Exception as error:  # a server that does not speak Kafka, or a login that makes no sense to aiokafka
        raise KafkaUnavailableError(
            f"Kafka at {internals.servers(client)} cannot be understood ({error!r}): check kafka.bootstrap_servers and "
            "the kind of login"
        ) from error


def why_unavailable(client: Any, error: Exception | None = None) -> str:
    """Why a client does not connect, and what to check; ``error``: what it said of it."""
    servers, login = internals.servers(client), internals.login(client)
    cause = error if login is None else login.failure or error
    if isinstance(cause, LoginError):
        return str(cause)
    if isinstance(cause, AuthenticationFailedError | SaslAuthenticationFailed):
        return (
            f"Kafka at {servers} refused the login ({refusal(cause)}): check kafka.sasl_mechanism, kafka.sasl_username "
            "and its password, or the OAuth settings"
        )
    if isinstance(cause, ssl.SSLError):
        return (
            f"the TLS connection to Kafka at {servers} failed ({explain(cause)[1]}): check "
            "kafka.security_protocol, kafka.ssl_cafile, and the client's certificate"
        )
    if (fault := network_fault(cause)) is not None:
        found, advice = fault
        return f"Kafka cannot be reached at {servers} ({found}): {advice}"
    return (
        f"Kafka cannot be reached at {servers}: check kafka.bootstrap_servers and kafka.security_protocol, "
        "that the broker runs, that its advertised listeners can be reached from here, and whether it requires a "
        "client certificate (kafka.ssl_certfile)"
    )


def network_fault(
    error: Exception | None, setting: str = "kafka.bootstrap_servers", protocol: str = "kafka.security_protocol"
) -> tuple[str, str] | None:
    """Why the network makes no connection to a broker, and what to check; None where the error is another one.

    ``setting`` has the broker's address; ``protocol``: the setting of the protocol, with its value if that is known.
    """
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved (DNS)", f"check {setting}, and the resolver of this machine"
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused", f"check host and port in {setting}, and that the broker is running"
    if isinstance(error, TimeoutError):
        advice = f"check the firewall, whether the broker hangs, {setting}, and that {protocol} is right for this port"
        return f"no answer within {CONNECT_DEADLINE:g} s", advice
    return None


def refusal(error: Exception) -> str:
    """The broker's words when it refused a login."""
    return str(error.args[0]) if error.args and error.args[0] else type(error).__name__
