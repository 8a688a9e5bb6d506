"""``asm-bridge sessions``: the registry of watched agents."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from asm_bridge_schemas.commands import CommandError, SessionEntry, session_entry
from bridge.cli.errors import CliError, UsageError, listed
from bridge.cli.kafka import kafka_now, run_async
from bridge.cli.options import Json, SettingsCommand, new_app, seconds, settings_of
from bridge.cli.output import print_json, print_table, progress
from bridge.kafka.errors import InvalidTimestampError
from bridge.registry.file import (
    SessionsFileError,
    as_object,
    as_toml,
    changes,
    check_agent_id,
    read_entries,
    read_sessions,
    read_sessions_file,
)
from bridge.registry.topic import read_registry, write_registry
from bridge.settings import Settings
from bridge.settings.types import show_duration

app = new_app("Manage the registry of watched agents.")


@app.command("list", cls=SettingsCommand)
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List the watched agents."""
    found = read_entries(_registry(settings_of(ctx))).items()
    if json:
        print_json([_object(agent_id, entry) for agent_id, entry in found])
    else:
        print_table(
            ("Agent", "Session", "Token", "Interval", "Skills", "Labels", "Remarks"), (_row(*one) for one in found)
        )
        typer.echo(f"{len(found)} agents", err=True)


@app.command(cls=SettingsCommand)
def add(
    ctx: typer.Context,
    agent_id: Annotated[
        str, typer.Argument(metavar="AGENT_ID", help="The agent's key: chosen by you, the same at every login.")
    ],
    token: Annotated[
        str | None,
        typer.Option(
            metavar="REFERENCE", help="Where the token is: file:NAME, file:NAME#KEY or env:NAME (default: asm.token)."
        ),
    ] = None,
    asm_session_sid: Annotated[
        str | None, typer.Option(metavar="SID", help="Poll this session only, instead of the agent's current one.")
    ] = None,
    interval: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Time between polls (default: poll.interval).")
    ] = None,
    skill: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A skill of the agent; may be repeated.")
    ] = None,
    agent_pbx_extension: Annotated[
        list[str] | None, typer.Option(metavar="NUMBER", help="A PBX extension of the agent; may be repeated.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label; may be repeated.")] = None,
    queued_calls: Annotated[bool, typer.Option(help="Ask for queued calls.")] = True,
    messages: Annotated[bool, typer.Option(help="Ask for messages.")] = True,
    keep_alive: Annotated[
        bool, typer.Option("--keep-alive", help="Keep the session alive by polling, even after the agent has left.")
    ] = False,
    conversations: Annotated[
        bool, typer.Option("--conversations", help="Ask for the agent's conversations, too (listconversations).")
    ] = False,
    conversations_interval: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Time between requests for conversations (default: 10s).")
    ] = None,
) -> None:
    """Watch an agent. An existing entry is replaced."""
    fields = {
        "asm_session_sid": asm_session_sid,
        "token": token,
        "interval": None if interval is None else _interval("--interval", interval),
        "skills": skill,
        "agent_pbx_extensions": agent_pbx_extension,
        "get_queued_calls": queued_calls,
        "get_messages": messages,
        "keep_alive": keep_alive,
        "get_conversations": conversations,
        "conversations_interval": (
            None if conversations_interval is None else _interval("--conversations-interval", conversations_interval)
        ),
        "labels": _labels(label or []),
    }
    try:
        check_agent_id(agent_id)
        entry = session_entry(fields)
    except CommandError as error:
        raise UsageError(str(error)) from None
    settings = settings_of(ctx)
    registry = _registry(settings)
    _write(settings, changes(read_entries(registry), {agent_id: entry}), registry)


@app.command(cls=SettingsCommand)
def remove(
    ctx: typer.Context, agent_ids: Annotated[list[str], typer.Argument(metavar="AGENT_ID", help="The agents' keys.")]
) -> None:
    """Stop watching agents."""
    settings = settings_of(ctx)
    registry = _registry(settings)
    _write(settings, dict.fromkeys(agent for agent in agent_ids if agent in registry), registry)
    if unknown := [agent for agent in agent_ids if agent not in registry]:
        raise CliError(f"not in the registry: {', '.join(unknown)}")


@app.command("import", cls=SettingsCommand)
def import_(
    ctx: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="TOML with [[sessions]] tables, or a JSON list, as printed by export; - reads standard input.",
        ),
    ],
    prune: Annotated[bool, typer.Option("--prune", help="Remove the agents that are not in the file.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    json: Json = False,
) -> None:
    """Add and update the entries of a file. Only changes are written, and nothing if an entry is wrong."""
    try:
        entries = read_sessions(sys.stdin.read(), "standard input") if file == "-" else read_sessions_file(Path(file))
    except SessionsFileError as error:
        raise CliError(listed("nothing was written:", error.problems)) from None
    if prune and not entries:
        raise CliError("nothing was written: the file has no entries, and --prune would remove every agent")
    settings = settings_of(ctx)
    registry = _registry(settings)
    _write(settings, changes(read_entries(registry), entries, prune), registry, dry_run, json)


@app.command(cls=SettingsCommand)
def export(ctx: typer.Context, json: Json = False) -> None:
    """Print the registry as a file for import. It is TOML, or a JSON list with --json."""
    found = read_entries(_registry(settings_of(ctx)))
    valid = {agent: entry for agent, entry in found.items() if not isinstance(entry, Exception)}
    if json:
        print_json([as_object(agent, entry) for agent, entry in valid.items()])
    else:
        typer.echo(as_toml(valid), nl=False)
    if invalid := [f"{agent}: {error}" for agent, error in found.items() if isinstance(error, Exception)]:
        raise CliError(listed("omitted, because the bridge cannot read them:", invalid))


def _registry(settings: Settings) -> dict[str, bytes]:
    return run_async(read_registry(settings.kafka, settings.topics.name("sessions")))


async def _write_by_kafkas_clock(
    settings: Settings, changed: Mapping[str, bytes | None], report: Callable[[int, int], None]
) -> None:
    """Kafka refuses a record from the future: if this machine's clock is wrong, it is written by Kafka's."""
    topic = settings.topics.name("sessions")
    try:
        await write_registry(settings.kafka, topic, changed, report)
    except InvalidTimestampError:
        await write_registry(settings.kafka, topic, changed, report, at=await kafka_now(settings))


def _write(
    settings: Settings,
    changed: Mapping[str, bytes | None],
    registry: Mapping[str, bytes],
    dry_run: bool = False,
    json: bool = False,
) -> None:
    if changed and not dry_run:
        with progress("writing to the registry") as report:
            run_async(_write_by_kafkas_clock(settings, changed, report))
    done = {
        agent: "removed" if value is None else "updated" if agent in registry else "added"
        for agent, value in changed.items()
    }
    if json:
        print_json([{"agent_id": agent, "change": change} for agent, change in done.items()])
        return
    for agent, change in done.items():
        typer.echo(f"{agent}: {'would be ' if dry_run else ''}{change}")
    if not done:
        typer.echo("nothing to change")


def _interval(option: str, text: str) -> float:
    interval = seconds(option, text)
    if not 0.05 <= interval <= 3600:
        raise UsageError(f"{option}: must be from 50ms to 1h, not {text!r}")
    return interval


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--label: {pair!r} is not NAME=VALUE")
        labels[name] = value
    return labels


def _object(agent_id: str, entry: SessionEntry | Exception) -> dict[str, Any]:
    if isinstance(entry, Exception):
        return {"agent_id": agent_id, "error": str(entry)}
    fields: dict[str, Any] = msgspec.to_builtins(entry)
    return {"agent_id": agent_id} | fields


def _row(agent_id: str, entry: SessionEntry | Exception) -> tuple[str, ...]:
    if isinstance(entry, Exception):
        return agent_id, "", "", "", "", "", f"cannot be read; the last valid one stays in force: {entry}"
    remarks = {
        "no queued calls": not entry.get_queued_calls,
        "no messages": not entry.get_messages,
        "keep-alive": entry.keep_alive,
        f"conversations every {show_duration(entry.conversations_interval)}": entry.get_conversations,
    }
    return (
        agent_id,
        entry.asm_session_sid or "current",
        entry.token or "asm.token",
        show_duration(entry.interval) if entry.interval else "",
        ", ".join(entry.skills),
        ", ".join(f"{name}={value}" for name, value in entry.labels.items()),
        ", ".join(remark for remark, holds in remarks.items() if holds),
    )
