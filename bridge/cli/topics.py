"""``asm-bridge topics``."""

from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.options import SettingsCommand, settings_of
from bridge.cli.output import print_json, print_table, run_async

if TYPE_CHECKING:
    from bridge.kafka.topics import TopicResult

app = typer.Typer(help="The bridge's topics.", add_completion=False)


@app.callback()
def _topics() -> None:
    pass


@app.command(cls=SettingsCommand)
def create(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Create missing topics with the right settings; existing ones are checked, never altered.

    Exits with 1 if a topic does not fit or could not be created.
    """
    from bridge.kafka.topics import ensure_topics

    settings = settings_of(ctx)
    results = run_async(ensure_topics(settings.kafka.client_arguments(), settings.topics))
    if json:
        print_json([_object(result) for result in results])
    else:
        print_table(("Topic", "Partitions", "Result", "Remarks"), map(_row, results))
    if not all(result.usable for result in results):
        raise typer.Exit(1)


def _object(result: "TopicResult") -> dict[str, object]:
    return {
        "topic": result.name,
        "result": result.outcome,
        "partitions": result.partitions,
        "problems": list(result.problems),
        "notes": list(result.notes),
    }


def _row(result: "TopicResult") -> tuple[str, ...]:
    return result.name, str(result.partitions), result.outcome, "; ".join((*result.problems, *result.notes))
