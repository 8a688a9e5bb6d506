"""``asm-bridge inject``."""

import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bridge.cli.options import settings_of
from bridge.cli.output import CommandError, UsageError, print_json, printable, run_async, seconds

if TYPE_CHECKING:
    from bridge.cli.injection import Sent
    from bridge.settings import Settings

_HOUR = 3600.0


def inject(
    ctx: typer.Context,
    agent_id: Annotated[str, typer.Argument(metavar="AGENT_ID")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="One event as JSON (an entry of the vendor's events); - is standard input."
        ),
    ] = "-",
    id_: Annotated[
        str | None, typer.Option("--id", help="The injection's id, by which a repetition is known; else a new one.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Who sends it; together with the id it tells a repetition.")
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="RFC 3339, e.g. 2026-01-31T12:00:00Z; at most an hour ahead counts."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="The same, counted from now, e.g. 90s.")
    ] = None,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for the outcome.")] = "30s",
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome's record as JSON.")] = False,
) -> None:
    """Send one event to an agent's session and wait for its outcome; exits with 0 only if it was delivered."""
    if expires_at and expires_in:
        raise UsageError("give --expires-at or --expires-in, not both")
    headers = _headers(id_ or str(uuid.uuid4()), source, _expiry(expires_at, expires_in))
    value = _read(agent_id, file)
    outcome = run_async(
        _send(settings_of(ctx), agent_id, value, headers, seconds("--timeout", timeout) if wait else None)
    )
    _show(agent_id, outcome, json)


async def _send(
    settings: "Settings", agent_id: str, value: bytes, headers: dict[str, str], timeout: float | None
) -> "Sent":
    from bridge.cli.injection import send

    return await send(settings, agent_id, value, headers, timeout)


def _show(agent_id: str, sent: "Sent", json: bool) -> None:
    outcome = sent.outcome
    if outcome is None:
        if json:
            print_json({"injection_id": sent.injection_id, "entry": sent.entry, "outcome": None})
        else:
            typer.echo(f"sent to {agent_id}: id {sent.injection_id}, entry {sent.entry}")
        return
    if json:
        print_json(outcome)
    else:
        typer.echo(printable(f"{outcome['outcome']}: {details(outcome)}"))
    if outcome["outcome"] != "delivered":
        raise typer.Exit(1)


def details(outcome: dict[str, Any]) -> str:
    """What a person wants to know of an outcome besides what it is."""
    facts = {
        "reason": outcome.get("reason"),
        "HTTP": outcome.get("http_status"),
        "attempts": outcome.get("attempts"),
        "id": outcome.get("injection_id"),
        "entry": outcome.get("entry"),
    }
    repeated = ["possibly repeated"] if outcome.get("possibly_repeated") else []
    return ", ".join([*repeated, *(f"{name} {fact}" for name, fact in facts.items() if fact is not None)])


def _read(agent_id: str, file: str) -> bytes:
    from asm_bridge_schemas.commands import CommandError as WrongEventError
    from asm_bridge_schemas.commands import read_event
    from bridge.registry.file import check_agent_id

    try:
        value = _bytes(file)
        check_agent_id(agent_id)
        read_event(value, "application/json")
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from None
    except WrongEventError as error:
        raise CommandError(f"not sent: {error}") from None
    return value


def _bytes(file: str) -> bytes:
    if file != "-":
        return Path(file).read_bytes()
    if sys.stdin.isatty():
        typer.echo("asm-bridge: reading the event from standard input; end it with Ctrl-D", err=True)
    return sys.stdin.buffer.read()


def _expiry(at: str | None, within: str | None) -> str | None:
    from bridge import clock as times

    if within is not None:
        return times.rfc3339(time.time() + seconds("--expires-in", within))
    if at is None:
        return None
    try:
        left = times.seconds(at) - time.time()
    except ValueError as error:
        raise UsageError(f"--expires-at: must be an RFC 3339 time such as 2026-01-31T12:00:00Z ({error})") from None
    if left <= 0:
        raise UsageError("--expires-at: is in the past")
    if left > _HOUR:
        typer.echo("asm-bridge: --expires-at is more than an hour ahead; the bridge takes it for an hour", err=True)
    return at


def _headers(injection_id: str, source: str | None, expires_at: str | None) -> dict[str, str]:
    headers = {"content-type": "application/json", "ce_id": injection_id, "ce_source": source, "expires_at": expires_at}
    return {name: value for name, value in headers.items() if value}
