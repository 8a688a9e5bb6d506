"""``asm-bridge schemas``."""

from pathlib import Path
from typing import Annotated

import typer

from asm_bridge_schemas.export import export as write
from bridge.cli.errors import CliError
from bridge.cli.options import Command, new_app

app = new_app("Export the records' schemas.")


@app.command(cls=Command)
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Created if missing.", file_okay=False)],
) -> None:
    """Write a JSON Schema (2020-12) for each record and input to a directory."""
    try:
        files = write(directory)
    except OSError as error:
        raise CliError(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(files)} schemas written to {directory}")
