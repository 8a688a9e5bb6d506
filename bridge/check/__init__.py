"""Tries everything that ``run`` needs, in half a minute at most, and changes nothing."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx

from bridge.check import agents, kafka, schemas, service
from bridge.check.finding import Finding, Result, failed, ok, problem, skipped, warning
from bridge.kafka.clients import Clients
from bridge.kafka.errors import KafkaUnavailableError, advice_about
from bridge.ops.http import listen
from bridge.registry.registry import Registry
from bridge.settings import Settings, secret_values
from bridge.telemetry.logs import Masking

__all__ = ["Finding", "Result", "examine", "failed"]

_CONNECT = 12.0
_LOOK = 8.0
_ASK = 10.0
"""Seconds for the stages, one after the other: reaching Kafka and the service, looking at Kafka, trying tokens."""


async def examine(
    settings: Settings,
    *,
    offline: bool = False,
    all_agents: bool = False,
    on_progress: Callable[[int, int], None] = lambda number, of: None,
) -> list[Finding]:
    """The findings, in the order of the checks. ``offline``: only checks without network; ``on_progress`` follows the
    tokens that are tried. Never raises, and never shows a secret.
    """
    watched = Registry()
    entries, file = agents.sessions_file(settings)
    local = [ok("settings", "valid; `asm-bridge config` shows them"), *file, *ops(settings)]
    if offline:
        registry = ("schemas",) if settings.schema_registry.url else ()
        reached = [skipped(name, "offline") for name in (*_KAFKA, *registry, "service", "clock")]
        reachable = False
    else:
        reached, reachable = await _reached(settings, watched)
    agents.register(watched, settings.topics.name("sessions"), entries)
    tokens, secrets = agents.readable(settings, watched)
    unknown = not watched and any(one.check == "registry" and one.result in ("problem", "skipped") for one in reached)
    sharing = [skipped("sessions", "the registry was not read")] if unknown else agents.sharing(watched)
    if not reachable:
        trial = [skipped("tokens", "offline" if offline else "the service cannot be reached")]
    else:
        trial = await _within(
            "tokens", None if all_agents else _ASK, agents.accepted(settings, tokens, all_agents, on_progress)
        )
    return _masked(settings, [*local, *reached, *sharing, *secrets, *trial])


_KAFKA = ("kafka", "topics", "rights", "transactions", "group", "registry")


async def _reached(settings: Settings, watched: Registry) -> tuple[list[Finding], bool]:
    """The findings about Kafka and the service, and whether tokens can be tried with the service."""
    broker, host, registered = await asyncio.gather(
        _within("kafka", _CONNECT, kafka.connection(settings.kafka)),
        _within("service", _CONNECT, service.address(settings.asm)),
        _within("schemas", _CONNECT, schemas.subjects(settings)),
    )
    if failed(broker):
        rest = [skipped(name, "Kafka cannot be used, see kafka") for name in _KAFKA[1:]]
    else:
        rest = await _looked(settings, watched)
    return [*broker, *rest, *registered, *host], not failed(host)


async def _looked(settings: Settings, watched: Registry) -> list[Finding]:
    clients = Clients.of(settings.kafka, settings.topics)
    stages = (
        _within("topics", _LOOK, kafka.topics(settings)),
        _within("transactions", _LOOK, kafka.transactions(settings, clients)),
        _within("group", _LOOK, kafka.group(settings)),
        _within("registry", _LOOK, agents.registry(settings, watched)),
    )
    return [finding for findings in await asyncio.gather(*stages) for finding in findings]


async def _within(check: str, seconds: float | None, work: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        return [problem(check, f"no answer within {seconds:g} s", "check for overload or packet loss, and try again")]
    except KafkaUnavailableError as error:
        found, _, advice = str(error).partition(": ")
        return [problem(check, found, advice or "try again")]
    except Exception as error:  # noqa: BLE001 - whatever a check meets is a finding
        text = f"the check was interrupted: {str(error) or type(error).__name__}"
        return [problem(check, text, advice_about(error) or "try again")]


def ops(settings: Settings) -> list[Finding]:
    """Checks whether ops.listen is free."""
    try:
        listen(settings.ops.host, settings.ops.port).close()
    except socket.gaierror:
        text = f"{settings.ops.listen}: this machine has no such address"
        return [problem("ops.listen", text, "set ops.listen to an address of this machine, or 0.0.0.0:8080")]
    except OSError as error:
        text, advice = os.strerror(error.errno or 0), "stop the program that listens there, or set ops.listen"
        if _is_bridge(settings):
            text = f"a bridge is already running here, on {settings.ops.listen}"
            return [warning("ops.listen", text, f"for a second one, {advice}")]
        text = f"{settings.ops.listen} cannot be listened on: {text}"
        return [problem("ops.listen", text, f"{advice} to another address")]
    return [ok("ops.listen", f"{settings.ops.listen} is free")]


def _is_bridge(settings: Settings) -> bool:
    """Whether a bridge uses the address."""
    try:
        answer = httpx.get(
            f"{settings.ops.local_url}/metrics", headers=settings.ops.authorization(), timeout=1.0, trust_env=False
        )
    except httpx.HTTPError:
        return False
    return "asm_bridge_build_info" in answer.text


def _masked(settings: Settings, findings: list[Finding]) -> list[Finding]:
    masked = Masking(secret_values(settings)).masked
    return [replace(one, found=masked(one.found), advice=masked(one.advice)) for one in findings]
