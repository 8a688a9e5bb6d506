"""``asm-bridge``: one module a command. They parse, call and print; what they need is imported when they run."""

import sys
from typing import Annotated, NoReturn

import typer

from bridge import __version__
from bridge.cli import check, config, dead_letters, inject, run, schemas, sessions, status, tail, topics
from bridge.cli.bench import bench
from bridge.cli.demo import demo
from bridge.cli.options import SettingsCommand
from bridge.cli.output import CommandError
from bridge.cli.simulate import simulate

app = typer.Typer(
    help="Publishes to Kafka what TCN's Agent State Manager tells about agents, and delivers events the other way.",
    pretty_exceptions_enable=False,
)
app.command(cls=SettingsCommand)(run.run)
app.command()(demo)
app.command()(simulate)
app.command(cls=SettingsCommand)(check.check)
app.add_typer(topics.app, name="topics")
app.add_typer(sessions.app, name="sessions")
app.command(cls=SettingsCommand)(inject.inject)
app.command(cls=SettingsCommand)(tail.tail)
app.add_typer(dead_letters.app, name="dead-letters")
app.command(cls=SettingsCommand)(status.status)
app.command(cls=SettingsCommand)(config.config)
app.add_typer(schemas.app, name="schemas")
app.command()(bench)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asm-bridge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done; 1 it ran and failed; 2 wrong usage or settings."""
    arguments = sys.argv[1:] if arguments is None else arguments
    code = _run(arguments or ["--help"])
    sys.exit(code if arguments else 2)


def _run(arguments: list[str]) -> int:
    try:
        result = app(arguments, prog_name="asm-bridge", standalone_mode=False)
    except CommandError as error:
        return _complain(error.message, error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f". See `{context.command_path} --help`." if context else "."
        return _complain(error.format_message().rstrip(".") + hint, error.exit_code)
    except typer.Abort:
        return _complain("interrupted", 1)
    return result if isinstance(result, int) else 0


def _complain(text: str, code: int) -> int:
    typer.echo(f"asm-bridge: {text}", err=True)
    return code
