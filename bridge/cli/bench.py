"""``asm-bridge bench``."""

from typing import Annotated

import typer

from bridge.cli.errors import CliError, UsageError
from bridge.cli.options import Command, Json, new_app
from bridge.cli.output import print_json, print_table
from bridge.kafka.errors import KafkaUnavailableError
from bridge.testing.bench import runner
from bridge.testing.bench.report import as_json, tables
from bridge.testing.bench.runner import Report
from bridge.testing.bench.scenarios import KINDS, ON_REQUEST, SIZES, scenarios
from bridge.testing.brokers import BrokerUnavailableError

app = new_app()


@app.command(cls=Command)
def bench(
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka to use (default: starts the best that this machine can run)."),
    ] = None,
    sessions: Annotated[
        str | None, typer.Option(metavar="N,...", help="Numbers of sessions (default: 500,1000,2000,5000).")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=1, metavar="SECONDS", help="Duration of each measurement (default: 15; with --quick: 3)."),
    ] = None,
    interval: Annotated[
        float,
        typer.Option(
            min=0.05, metavar="SECONDS", help="Time between two polls of a session, in load, scale and recovery."
        ),
    ] = 1.0,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="What to measure: load, flat, latency, memory, scale, workers, recovery, queue; growth takes minutes "
            "and is measured only if it is named here.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="200 sessions, 3 s each: about two and a half minutes.")
    ] = False,
    json: Json = False,
) -> None:
    """Measure what the bridge costs: CPU per poll, rates, memory, latencies, compared with the pollers of bench/peers.

    Runs against Kafka and a simulated service, both on this machine; the client has one core for itself.
    """
    sizes = numbers(sessions) if sessions else ([200] if quick else list(SIZES))
    plan = scenarios(_kinds(only), sizes, seconds or (3.0 if quick else 15.0), quick, interval)
    try:
        report = runner.run(broker, plan, lambda line: typer.echo(line, err=True))
    except (BrokerUnavailableError, KafkaUnavailableError) as error:
        raise CliError(str(error)) from None
    _print(report, json)
    if not any(measurement.figures for measurement in report.measurements):
        raise CliError("nothing could be measured: see the notes")


def numbers(text: str) -> list[int]:
    """``500,1000`` as numbers. Raises ``UsageError``."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise UsageError(f"--sessions: {text!r} is not a list of numbers separated by commas, e.g. 500,1000")
    return sizes


def _kinds(text: str | None) -> list[str]:
    known = KINDS + ON_REQUEST
    kinds = text.split(",") if text else list(KINDS)
    if unknown := [kind for kind in kinds if kind not in known]:
        raise UsageError(f"--only: unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
    return kinds


def _print(report: Report, json: bool) -> None:
    if json:
        print_json(as_json(report.machine, report.measurements, report.notes))
        return
    typer.echo(", ".join(f"{name}: {value}" for name, value in report.machine.items()))
    for title, headers, rows in tables(report.measurements):
        typer.echo(f"\n{title}\n")
        print_table(headers, rows)
    for note in report.notes:
        typer.echo(f"\nnote: {note}")
