"""``asm-bridge run``."""

import sys
from typing import Annotated

import typer

from bridge import app as bridge_app
from bridge import supervisor
from bridge.cli.errors import UsageError, listed
from bridge.cli.options import SettingsCommand, new_app, settings_of
from bridge.registry.file import SessionsFileError, read_sessions_file
from bridge.settings import Settings, secret_values
from bridge.telemetry import logs

app = new_app()


@app.command(cls=SettingsCommand)
def run(
    ctx: typer.Context,
    workers: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Number of processes that share the work, with one ops endpoint; at most topics.partitions.",
        ),
    ] = 1,
    worker: Annotated[int | None, typer.Option(min=0, hidden=True, help="Set by the supervisor.")] = None,
) -> None:
    """Run the bridge until a signal stops it. SIGINT or SIGTERM drains and exits with 0; a second one ends it at once.

    With --workers, a process that dies, hangs or fails its /healthz is restarted; asm.rate_limit applies to each.
    """
    settings = settings_of(ctx)
    _check(workers, settings)
    logs.setup_logging(settings.log.format, settings.log.level, secret_values(settings))
    if worker is not None:
        supervisor.become_worker(worker)
    try:
        raise typer.Exit(bridge_app.run(settings) if workers == 1 else _run_many(settings, workers))
    except SessionsFileError as error:
        raise UsageError(listed("wrong entries in sessions_file:", error.problems)) from None


def _check(workers: int, settings: Settings) -> None:
    if workers > settings.topics.partitions:
        raise UsageError(
            f"--workers {workers}: topics.partitions is {settings.topics.partitions}, and a worker without a partition "
            "does nothing: start fewer"
        )
    if workers > 1 and settings.kafka.delivery == "at_least_once":
        raise UsageError(f"--workers {workers}: kafka.delivery=at_least_once works with one process only")


def _run_many(settings: Settings, count: int) -> int:
    if settings.sessions_file is not None:
        read_sessions_file(settings.sessions_file)  # so that a wrong one is reported once
    return supervisor.run(
        count,
        sys.argv[1:],
        ops=settings.ops,
        instance=settings.kafka.group_instance_id,
        drain=settings.drain_timeout,
    )
