"""``asm-bridge schemas``."""

from pathlib import Path
from typing import Annotated

import typer

from asm_bridge_schemas.export import export as write
from asm_bridge_schemas.registry import export as write_registered
from bridge.cli.errors import CliError
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
) -> None:
    """Write the JSON Schemas (2020-12) of all records and inputs, and the AsyncAPI document, to a directory."""
    try:
        files = write_registered(directory) if registry else write(directory)
    except OSError as error:
        raise CliError(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(files)} files written to {directory}")
