"""``asm-bridge tail``."""

from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.options import settings_of
from bridge.cli.output import nobody_reads, run_async, seconds

if TYPE_CHECKING:
    from bridge.cli.tailing import Wanted
    from bridge.settings import Settings


def tail(
    ctx: typer.Context,
    topics: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC",
            help="With or without the prefix; all output topics but agent-state, if none is named.",
        ),
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Also what is there already.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after so many records.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="Only this agent's records.")] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="End after this time.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line: topic, partition, offset, key, headers, value.")
    ] = False,
) -> None:
    """Print records as they arrive, decoded, one line each; committed ones only. Ctrl-C ends it."""
    from bridge.cli.tailing import Wanted

    wanted = Wanted(
        topics=tuple(topics or ()),
        from_beginning=from_beginning,
        limit=limit,
        agent=agent,
        duration=None if for_ is None else seconds("--for", for_),
        json=json,
    )
    try:
        run_async(_tail(settings_of(ctx), wanted))
    except BrokenPipeError:
        nobody_reads()


async def _tail(settings: "Settings", wanted: "Wanted") -> None:
    from bridge.cli.tailing import tail as run

    await run(settings, wanted)
