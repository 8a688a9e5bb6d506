"""``asm-bridge run``."""

from typing import Annotated

import typer

from bridge.cli.options import settings_of
from bridge.cli.output import UsageError


def run(
    ctx: typer.Context,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the work; more than 1: not yet.")] = 1,
) -> None:
    """Run the bridge until a signal: SIGINT or SIGTERM drains and exits 0, a second one ends at once."""
    if workers != 1:
        raise UsageError(
            "--workers is not in this release yet: start several `asm-bridge run` with one kafka.group_id instead"
        )
    settings = settings_of(ctx)

    from bridge import app, logs
    from bridge.sessions_file import SessionsFileError
    from bridge.settings import secret_values

    logs.setup_logging(settings.log.format, settings.log.level, secret_values(settings))
    try:
        raise typer.Exit(app.run(settings))
    except SessionsFileError as error:
        problems = "".join(f"\n  {problem}" for problem in error.problems)
        raise UsageError(f"wrong entries in sessions_file:{problems}") from None
