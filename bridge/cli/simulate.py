"""``asm-bridge simulate``: a simulator of the vendor's service, to try the bridge with."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
import uvloop

from bridge.cli.errors import CliError, UsageError
from bridge.cli.options import Command, new_app, parsed
from bridge.settings.types import host_port
from bridge.signals import stop_on_signals
from bridge.testing.simulator import Fault, Faults, Options, Simulator, serve
from bridge.testing.simulator.faults import NAMES, FaultName
from bridge.testing.simulator.files import sessions_toml
from bridge.testing.simulator.files import write_tokens as write_token_file

app = new_app()

Ended = Literal["not_found", "failed_precondition"]


_NAMES = f"Names: {', '.join(NAMES)}"


def _measure(metavar: str, what: str, most: float | None = None) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        min=0, max=most, metavar=metavar, help=what, rich_help_panel="Faults"
    )
    return option


def _chance(what: str) -> typer.models.OptionInfo:
    return _measure("SHARE", f"Share of requests that {what}", 1)


@app.command(cls=Command)
def simulate(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0 means any free port.")
    ] = "127.0.0.1:8090",
    sessions: Annotated[int, typer.Option(min=1, metavar="N", help="Number of agents: agent-0, agent-1, ...")] = 10,
    change_rate: Annotated[
        float,
        typer.Option(
            min=0, metavar="R", help="Mean status changes per agent and second; 0: nothing changes by itself."
        ),
    ] = 0.2,
    latency: Annotated[
        float, typer.Option(min=0, metavar="MS", help="How long every response takes, in milliseconds.")
    ] = 0,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed makes the same agents do the same things.")] = 1,
    emit_defaults: Annotated[
        bool, typer.Option("--emit-defaults", help="Include fields that have their default value, as some gateways do.")
    ] = False,
    logouts: Annotated[bool, typer.Option(help="Whether agents log out and in again from time to time.")] = True,
    ended: Annotated[
        Ended, typer.Option(help="The response for a session that has ended: 404, or 400 with code 9.")
    ] = "not_found",
    log_limit: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Entries kept in each list under /sim/ of what was sent and received; 0: all."
        ),
    ] = 1000,
    write_tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write the agents' tokens to DIR/sim-tokens.json, for the bridge."
        ),
    ] = None,
    write_sessions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Write the agents' sessions to a TOML file, for the bridge's sessions_file.",
        ),
    ] = None,
    fault_429: Annotated[float, _chance("are answered with 429 and --retry-after.")] = 0,
    fault_500: Annotated[float, _chance("are answered with 500.")] = 0,
    fault_503: Annotated[float, _chance("are answered with 503 and --retry-after.")] = 0,
    fault_401: Annotated[float, _chance("are answered with 401.")] = 0,
    fault_ended: Annotated[float, _chance("are answered as if the session had ended.")] = 0,
    fault_slow: Annotated[float, _chance("are answered only after --slow-ms.")] = 0,
    fault_hang: Annotated[float, _chance("get no response for --hang-seconds.")] = 0,
    fault_cut: Annotated[float, _chance("are not handled: the connection is closed instead.")] = 0,
    fault_cut_after: Annotated[
        float, _chance("are handled, but the connection is closed before the response is complete.")
    ] = 0,
    fault_malformed: Annotated[float, _chance("are answered with 200 and a body that cannot be decoded.")] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=SHARE]",
            help=f"Any fault by its name, for that share of requests (0 to 1; all unless given). {_NAMES}.",
            rich_help_panel="Faults",
        ),
    ] = None,
    fault_agent: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT_ID", help="Only these agents have faults.", rich_help_panel="Faults"),
    ] = None,
    fault_duration: Annotated[float | None, _measure("SECONDS", "The faults are over after this many seconds.")] = None,
    older_errors: Annotated[
        bool, typer.Option("--older-errors", help='Add "error" to refusals, as older gateways do.')
    ] = False,
    retry_after: Annotated[int, _measure("SECONDS", "Retry-After of a 429 or 503, in seconds.")] = 1,
    slow_ms: Annotated[float, _measure("MS", "How long a slow response takes, in milliseconds.")] = 1000,
    hang_seconds: Annotated[float, _measure("SECONDS", "How long a hanging response takes, in seconds.")] = 60,
) -> None:
    """Stand in for the vendor's service: an HTTP server with simulated agents. A signal stops it.

    Under /sim/ (agents, events, stats, faults, ...) you can see what it sent and received, and control it.
    """
    host, port = parsed("--listen", host_port, f"127.0.0.1{listen}" if listen.startswith(":") else listen)
    chances: dict[FaultName, float] = {
        "status_429": fault_429,
        "status_500": fault_500,
        "status_503": fault_503,
        "status_401": fault_401,
        "ended": fault_ended,
        "slow": fault_slow,
        "hang": fault_hang,
        "cut": fault_cut,
        "cut_after": fault_cut_after,
        "malformed": fault_malformed,
        **_by_name(fault or ()),
    }
    measures = Fault(
        retry_after=retry_after, ms=slow_ms, seconds=hang_seconds, agents=fault_agent or None, duration=fault_duration
    )
    simulator = Simulator(
        Options(
            agents=sessions,
            change_rate=change_rate,
            seed=seed,
            emit_defaults=emit_defaults,
            ended=ended,
            older_errors=older_errors,
            logouts=logouts,
            latency=latency / 1000,
            log_limit=log_limit or None,
            faults=_faults(chances, measures),
        )
    )
    _write_files(simulator, write_tokens, write_sessions)
    try:
        uvloop.run(_until_signal(simulator, host, port))
    except OSError as error:
        raise CliError(
            f"cannot listen on {listen}: {error.strerror or error}; give a free address with --listen"
        ) from None


def _by_name(given: Iterable[str]) -> dict[FaultName, float]:
    chances: dict[FaultName, float] = {}
    for text in given:
        name, _, share = text.partition("=")
        try:
            chance = float(share or 1)
        except ValueError:
            chance = -1
        if name not in NAMES or not 0 <= chance <= 1:
            raise UsageError(f"--fault: {text!r} is not NAME or NAME=SHARE, e.g. foreign_404=0.1. {_NAMES}")
        chances[name] = chance
    return chances


def _faults(chances: dict[FaultName, float], measures: Fault) -> Faults:
    return {
        name: msgspec.structs.replace(measures, probability=chance) for name, chance in chances.items() if chance > 0
    }


def _write_files(simulator: Simulator, tokens: Path | None, sessions: Path | None) -> None:
    try:
        if tokens is not None:
            write_token_file(simulator, tokens)
        if sessions is not None:
            sessions.write_text(sessions_toml(simulator), encoding="utf-8")
    except OSError as error:
        raise CliError(f"{error.filename} cannot be written: {error.strerror}") from None


async def _until_signal(simulator: Simulator, host: str, port: int) -> None:
    stop = stop_on_signals()
    async with serve(simulator, host, port) as base_url:
        typer.echo(
            f"Simulated ASM service on {base_url} (set asm.base_url to it): {len(simulator.world.callers)} agents, "
            f"tokens sim-token-agent-0 and so on; see {base_url}/sim/agents; Ctrl-C stops it."
        )
        await stop.wait()
