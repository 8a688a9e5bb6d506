"""``asm-bridge schemas``."""

from pathlib import Path
from typing import Annotated

import typer

from asm_bridge_schemas.connect import export as write_for_connect
from asm_bridge_schemas.export import export as write
from asm_bridge_schemas.registry import export as write_registered
from bridge.cli.errors import CliError, UsageError
from bridge.cli.options import Command, new_app

app = new_app("Export the records' schemas.")


@app.command(cls=Command)
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Created if missing.", file_okay=False)],
    registry: Annotated[
        bool,
        typer.Option(
            "--registry", help="The schemas of the output topics as a Schema Registry gets them: draft-07 and closed."
        ),
    ] = False,
    connect: Annotated[
        bool,
        typer.Option(
            "--connect", help="One table for each output topic: schema.content of Kafka Connect's JsonConverter."
        ),
    ] = False,
) -> None:
    """Write the schemas of all records and inputs to a directory. They are JSON Schemas (2020-12) and AsyncAPI."""
    if registry and connect:
        raise UsageError("--registry and --connect write different files: give one of them")
    try:
        files = (write_registered if registry else write_for_connect if connect else write)(directory)
    except OSError as error:
        raise CliError(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(files)} files written to {directory}")
