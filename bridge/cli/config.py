"""``asm-bridge config``."""

from typing import Annotated

import typer

from bridge.cli.options import SettingsCommand, new_app, settings_of
from bridge.cli.output import print_json, print_table
from bridge.settings import KEYS, masked, shown, sources

app = new_app()


@app.command(cls=SettingsCommand)
def config(
    ctx: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="As JSON: key, value (durations in seconds), source.")] = False,
) -> None:
    """Show the settings in force and where each came from; secrets are masked."""
    settings = settings_of(ctx)
    origins = sources(settings)
    if json:
        print_json({key: {"value": masked(settings, key), "source": origins[key]} for key in KEYS})
    else:
        print_table(("Setting", "Value", "Source"), ((key, shown(settings, key), origins[key]) for key in KEYS))
