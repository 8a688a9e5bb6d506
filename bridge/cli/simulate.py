"""`asm-bridge simulate`: a stand-in for the vendor's service, to try the bridge against."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    # The other commands do not pay for the server.
    from bridge.testing.simulator import Fault, Faults, Simulator
    from bridge.testing.simulator.faults import FaultName

Ended = Literal["not_found", "failed_precondition"]


def _chance(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        min=0, max=1, help=f"Share of requests, 0 to 1: {what}", rich_help_panel="Faults"
    )
    return option


def _measure(what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(min=0, help=what, rich_help_panel="Faults")
    return option


def simulate(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0: any free one.")] = (
        "127.0.0.1:8090"
    ),
    sessions: Annotated[int, typer.Option(min=1, help="How many agents there are: agent-0, agent-1, ...")] = 10,
    change_rate: Annotated[
        float, typer.Option(min=0, help="Mean status changes per second and agent; 0: nothing changes by itself.")
    ] = 0.2,
    latency: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds that every answer takes.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same agents the same days.")] = 1,
    emit_defaults: Annotated[
        bool, typer.Option("--emit-defaults", help="Print fields at their default, as some gateways do.")
    ] = False,
    logouts: Annotated[bool, typer.Option(help="Whether agents log out, and in again, now and then.")] = True,
    ended: Annotated[
        Ended, typer.Option(help="What a session that has ended is answered: 404, or 400 with code 9.")
    ] = "not_found",
    log_limit: Annotated[
        int, typer.Option(min=0, help="Entries kept in each list under /sim/ of what was shown and taken; 0: all.")
    ] = 1000,
    write_tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", file_okay=False, help="Write DIR/sim-tokens.json: the agents' tokens, for the bridge."
        ),
    ] = None,
    write_sessions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Write a TOML file of sessions, for the bridge's sessions_file."
        ),
    ] = None,
    fault_429: Annotated[float, _chance("answer 429, with --retry-after.")] = 0,
    fault_500: Annotated[float, _chance("answer 500.")] = 0,
    fault_503: Annotated[float, _chance("answer 503, with --retry-after.")] = 0,
    fault_401: Annotated[float, _chance("answer 401.")] = 0,
    fault_ended: Annotated[float, _chance("answer as if the session had ended.")] = 0,
    fault_slow: Annotated[float, _chance("answer only after --slow-ms.")] = 0,
    fault_hang: Annotated[float, _chance("give no answer for --hang-seconds.")] = 0,
    fault_cut: Annotated[float, _chance("close the connection instead of handling the request.")] = 0,
    fault_cut_after: Annotated[float, _chance("handle the request, then close the connection on the answer.")] = 0,
    fault_malformed: Annotated[float, _chance("answer 200 with something that cannot be read.")] = 0,
    retry_after: Annotated[int, _measure("Seconds in the Retry-After of a 429 or 503.")] = 1,
    slow_ms: Annotated[float, _measure("Milliseconds that a slow answer takes.")] = 1000,
    hang_seconds: Annotated[float, _measure("Seconds that a hanging answer takes.")] = 60,
) -> None:
    """Stand in for the vendor's service: agents living plausible days, on an HTTP server, until a signal.

    Look at what it showed and took, and make things happen, under /sim/ (agents, events, stats, faults, ...).
    """
    import uvloop

    from bridge.testing.simulator import Fault, Options, Simulator

    host, port = _address(listen)
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
    }
    measures = Fault(retry_after=retry_after, ms=slow_ms, seconds=hang_seconds)
    simulator = Simulator(
        Options(
            agents=sessions,
            change_rate=change_rate,
            seed=seed,
            emit_defaults=emit_defaults,
            ended=ended,
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
        typer.echo(
            f"Cannot listen on {listen}: {error.strerror or error}. Give a free address with --listen.", err=True
        )
        raise typer.Exit(1) from None


def _faults(chances: "dict[FaultName, float]", measures: "Fault") -> "Faults":
    import msgspec

    return {
        name: msgspec.structs.replace(measures, probability=chance) for name, chance in chances.items() if chance > 0
    }


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise typer.BadParameter(f"{listen!r} is no HOST:PORT; give e.g. 127.0.0.1:8090", param_hint="--listen")
    return host.strip("[]") or "127.0.0.1", int(port)


def _write_files(simulator: "Simulator", tokens: Path | None, sessions: Path | None) -> None:
    from bridge.testing.simulator.files import sessions_toml, write_tokens

    try:
        if tokens is not None:
            write_tokens(simulator, tokens)
        if sessions is not None:
            sessions.write_text(sessions_toml(simulator), encoding="utf-8")
    except OSError as error:
        typer.echo(f"Cannot write {error.filename}: {error.strerror}.", err=True)
        raise typer.Exit(1) from None


async def _until_signal(simulator: "Simulator", host: str, port: int) -> None:
    from bridge.signals import stop_on_signals
    from bridge.testing.simulator import serve

    stop = stop_on_signals()
    async with serve(simulator, host, port) as base_url:
        typer.echo(
            f"Simulated ASM service on {base_url} (set asm.base_url to it): {len(simulator.world.callers)} agents, "
            f"tokens sim-token-agent-0 and on; look at {base_url}/sim/agents; Ctrl-C stops it."
        )
        await stop.wait()
