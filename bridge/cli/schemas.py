"""``asm-bridge schemas``."""

from pathlib import Path
from typing import Annotated

import typer

from bridge.cli.output import CommandError

app = typer.Typer(help="The records' JSON Schemas.", add_completion=False)


@app.callback()
def _schemas() -> None:
    pass


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Made if missing.", file_okay=False)],
) -> None:
    """Write a JSON Schema (2020-12) for each record and input into a directory."""
    from asm_bridge_schemas.export import export as write

    try:
        files = write(directory)
    except OSError as error:
        raise CommandError(f"{error.filename or directory} cannot be written: {error.strerror}") from None
    typer.echo(f"{len(files)} schemas written to {directory}")
