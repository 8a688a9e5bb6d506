"""``asm-bridge topics``."""

import typer

from bridge.cli.kafka import run_async
from bridge.cli.options import Json, SettingsCommand, new_app, settings_of
from bridge.cli.output import print_json, print_table
from bridge.kafka.topics import TopicResult, ensure_topics, not_reported

app = new_app("Create the bridge's topics.")


@app.command(cls=SettingsCommand)
def create(ctx: typer.Context, json: Json = False) -> None:
    """Create missing topics with the right settings. Existing ones are checked, never altered.

    Exits with 1 if a topic does not fit or could not be created.
    """
    settings = settings_of(ctx)
    results = run_async(ensure_topics(settings.kafka.client_arguments(), settings.topics))
    if json:
        print_json([_object(result) for result in results])
    else:
        print_table(("Topic", "Partitions", "Result", "Remarks"), map(_row, results))
    if not all(result.usable for result in results):
        raise typer.Exit(1)


def _object(result: TopicResult) -> dict[str, object]:
    return {
        "topic": result.name,
        "result": result.outcome,
        "partitions": result.partitions,
        "problems": list(result.problems),
        "notes": _notes(result),
    }


def _row(result: TopicResult) -> tuple[str, ...]:
    return result.name, str(result.partitions), result.outcome, "; ".join((*result.problems, *_notes(result)))


def _notes(result: TopicResult) -> list[str]:
    return [*result.notes, *([not_reported(result.unchecked)] if result.unchecked else [])]
