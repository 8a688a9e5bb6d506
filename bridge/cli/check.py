"""``asm-bridge check``."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.options import settings_of
from bridge.cli.output import print_json, print_table, progress, run_async

if TYPE_CHECKING:
    from bridge.check import Finding
    from bridge.settings import Settings


def check(
    ctx: typer.Context,
    offline: Annotated[bool, typer.Option("--offline", help="Only what needs neither Kafka nor the service.")] = False,
    all_agents: Annotated[
        bool, typer.Option("--all-agents", help="Try every agent's token, 10 a second, not only 20 of them.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Try everything that run needs, and say what is wrong and what to do, in half a minute. Changes nothing.

    Exits with 0 if all is well, but for warnings; 1 if there is a problem; 2 if settings are wrong.
    """
    from bridge.check import failed

    findings = _examined(settings_of(ctx), offline, all_agents)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(("Check", "Result", "Found", "What to do"), map(_row, findings))
    if failed(findings):
        raise typer.Exit(1)


def _examined(settings: "Settings", offline: bool, all_agents: bool) -> "list[Finding]":
    from bridge.check import examine
    from bridge.telemetry.logs import setup_logging

    # What the bridge's parts and its libraries log of what they meet is told once, by the findings.
    setup_logging("console")
    logging.disable(logging.CRITICAL)
    with progress("trying tokens") as asked:
        return run_async(examine(settings, offline=offline, all_agents=all_agents, asked=asked))


def _row(finding: "Finding") -> tuple[str, ...]:
    return finding.check, finding.result, finding.found, finding.advice
