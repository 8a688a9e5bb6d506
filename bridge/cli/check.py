"""``asm-bridge check``."""

import logging
from dataclasses import asdict, astuple
from typing import Annotated

import typer

from bridge.check import examine, failed
from bridge.cli.kafka import run_async
from bridge.cli.options import Json, SettingsCommand, new_app, settings_of
from bridge.cli.output import print_json, print_table, progress
from bridge.telemetry.logs import setup_logging

app = new_app()


@app.command(cls=SettingsCommand)
def check(
    ctx: typer.Context,
    offline: Annotated[
        bool, typer.Option("--offline", help="Only the checks that need neither Kafka nor the service.")
    ] = False,
    all_agents: Annotated[
        bool, typer.Option("--all-agents", help="Try every agent's token, 10 per second, instead of only 20 of them.")
    ] = False,
    json: Json = False,
) -> None:
    """Try everything that run needs, and say what is wrong and how to fix it; takes up to half a minute.

    Changes nothing. Exit codes: 0: no problem, though there may be warnings; 1: a problem; 2: usage or configuration
    error.
    """
    # What the bridge's parts and its libraries would log is reported once, by the findings.
    setup_logging("console")
    logging.disable(logging.CRITICAL)
    with progress("trying tokens") as report:
        work = examine(settings_of(ctx), offline=offline, all_agents=all_agents, on_progress=report)
        findings = run_async(work)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(("Check", "Result", "Found", "What to do"), map(astuple, findings))
    if failed(findings):
        raise typer.Exit(1)
