"""``asm-bridge run``."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.options import settings_of
from bridge.cli.output import UsageError

if TYPE_CHECKING:
    from bridge.settings import Settings


def run(
    ctx: typer.Context,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Processes that share the work, with one ops endpoint; at most topics.partitions."),
    ] = 1,
    worker: Annotated[int | None, typer.Option(min=0, hidden=True, help="Set by the parent of workers.")] = None,
) -> None:
    """Run the bridge until a signal: SIGINT or SIGTERM drains and exits 0, a second one ends at once.

    With --workers, a process that dies is started again; asm.rate_limit holds for each.
    """
    settings = settings_of(ctx)
    _check(workers, settings)

    from bridge.registry.file import SessionsFileError
    from bridge.settings import secret_values
    from bridge.telemetry import logs

    logs.setup_logging(settings.log.format, settings.log.level, secret_values(settings))
    try:
        raise typer.Exit(_run_one(settings, worker) if workers == 1 else _run_many(settings, workers))
    except SessionsFileError as error:
        problems = "".join(f"\n  {problem}" for problem in error.problems)
        raise UsageError(f"wrong entries in sessions_file:{problems}") from None


def _check(workers: int, settings: "Settings") -> None:
    if workers > settings.topics.partitions:
        raise UsageError(
            f"--workers {workers}: topics.partitions is {settings.topics.partitions}, and a worker without a partition "
            "does nothing: start fewer"
        )
    if workers > 1 and settings.kafka.delivery == "at_least_once":
        raise UsageError(f"--workers {workers}: kafka.delivery at_least_once is for one process only")


def _run_one(settings: "Settings", worker: int | None) -> int:
    if worker is not None:
        from bridge.supervisor import become_worker

        become_worker(worker)
    from bridge import app

    return app.run(settings)


def _run_many(settings: "Settings", count: int) -> int:
    from bridge import supervisor as workers
    from bridge.registry.file import read_sessions_file

    if settings.sessions_file is not None:
        read_sessions_file(settings.sessions_file)  # so that a wrong one is told once
    return workers.run(
        count,
        sys.argv[1:],
        ops=(settings.ops.host, settings.ops.port),
        instance=settings.kafka.group_instance_id,
        drain=settings.drain_timeout,
    )
