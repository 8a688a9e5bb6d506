"""``asm-bridge status``."""

from typing import Annotated, Any

import httpx
import typer

from bridge.asm.http.connect_error import explain
from bridge.cli.errors import CliError, UsageError
from bridge.cli.options import SettingsCommand, new_app, settings_of
from bridge.cli.output import print_json, table
from bridge.printable import printable

app = new_app()

_EVENTS = 5
_TIMEOUT = 5.0


@app.command(cls=SettingsCommand)
def status(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The bridge's ops address (default: http:// and ops.listen, on this machine)."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, the same as /api/status.")] = False,
) -> None:
    """Show the state of a running bridge. Exits with 1 if it is not ready or cannot be reached."""
    ops = settings_of(ctx).ops
    address = (url or ops.local_url).rstrip("/")
    answer = _fetch(address, ops.authorization())
    try:
        found = answer.raise_for_status().json()
        ready = bool(found["ready"])
        text = "" if json else _text(address, found)
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CliError(
            f"what answers at {address}, with HTTP {answer.status_code}, is not a bridge of this release: give the "
            "address of the bridge's ops.listen with --url"
        ) from None
    if json:
        print_json(found)
    else:
        typer.echo(text)
    if not ready:
        raise typer.Exit(1)


def _fetch(address: str, authorization: dict[str, str]) -> httpx.Response:
    try:
        # Not through a proxy from the environment: bridges are on this machine or in its network.
        answer = httpx.get(f"{address}/api/status", headers=authorization, timeout=_TIMEOUT, trust_env=False)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise UsageError(f"--url: {address!r} is not an address such as http://127.0.0.1:8080") from None
    except httpx.HTTPError as error:
        raise CliError(
            f"no bridge answers at {address} ({explain(error)[1]}): check that `asm-bridge run` is "
            "running and that its ops.listen is this address, or give another one with --url"
        ) from None
    if answer.status_code in (401, 421):
        raise CliError(f"the bridge at {address} refuses to answer: {answer.text.strip()}")
    return answer


def _text(address: str, found: dict[str, Any]) -> str:
    state = "ready" if found["ready"] else f"NOT READY: {found['reason']}"
    notices = [f"! {notice['text']}: {notice['advice']}" for notice in found["notices"]]
    events = [f"{event['at'][11:19]}Z  {event['text']}" for event in found["events"][:_EVENTS]]
    lines = [*map(printable, [f"{state}  ({found['process']})", *notices]), "", table(("", ""), _rows(found))]
    lines += ["", "last events", *map(printable, events)] if events else []
    return "\n".join([*lines, "", f"more: {address}/ in a browser"])


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    agents, polls, inbox, commits = found["agents"], found["polls"], found["inbox"], found["commits"]
    partitions = [
        str(one["number"]) + ("" if one["state"] == "watching" else f" {one['state']}") for one in found["partitions"]
    ]
    records = [f"{topic} {rate['per_second']}/s" for topic, rate in found["records"].items()]
    return [
        ("agents", f"{agents['total']} of {found['registered']} registered: {_counts(agents['by_condition'])}"),
        ("sick", f"{agents['sick']}" + (f": {_counts(agents['sick_by_reason'])}" if agents["sick"] else "")),
        ("partitions", f"{len(partitions)} of {found['partitions_total']}: {', '.join(partitions) or 'none'}"),
        ("polls", f"{polls['per_second']}/s, answered within {_ms(polls['seconds']['p99'])} (p99)"),
        ("lateness", f"p50 {_ms(polls['lateness']['p50'])}, p99 {_ms(polls['lateness']['p99'])}"),
        ("skipped ticks", _counts({reason: rate["total"] for reason, rate in polls["skipped"].items()})),
        ("records", ", ".join(records)),
        ("commits", f"{commits['per_second']}/s, p99 {_ms(commits['seconds']['p99'])}, {commits['failed']} failed"),
        ("inbox", f"{inbox['pending']} waiting, the oldest for {inbox['oldest_seconds']:.0f} s"),
        ("outcomes", _counts(inbox["outcomes"])),
        ("dead letters", _counts(found["dead_letters"]) or "none"),
        ("version", f"{found['version']}, up {found['uptime_seconds']:.0f} s"),
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
