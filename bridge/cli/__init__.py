"""``asm-bridge``: one module per command, imported when the command is called."""

import contextlib
import errno
import re
import sys
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

import bridge
from bridge.cli.errors import CliError
from bridge.cli.stdout import discard_output, prepare_output

COMMANDS = {
    "run": "Run the bridge until a signal stops it.",
    "demo": "Run a broker, simulated agents and the bridge, and show the flow between them.",
    "simulate": "Stand in for the vendor's service: an HTTP server with simulated agents.",
    "check": "Try everything that run needs, and say what is wrong and how to fix it.",
    "topics": "Create the bridge's topics.",
    "sessions": "Manage the registry of watched agents.",
    "inject": "Send one event to an agent's session and wait for its outcome.",
    "tail": "Print records as they arrive, decoded, one line each.",
    "dead-letters": "List the events that could not be handled, and send them again.",
    "status": "Show the state of a running bridge.",
    "config": "Show the settings in force and where each came from.",
    "schemas": "Export the records' schemas.",
    "bench": "Measure what the bridge costs: CPU per poll, rates, memory, latencies.",
}
"""Name and short help; ``bridge.cli.NAME`` has the command, as a Typer application named ``app``."""


_WORDS = {"Value error, ": "", "Input should be": "must be", ", unable to parse .*": ""}
"""Pydantic's words about an option's value, and ours."""
_INTERRUPTED = 130
_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _LazyCommand(TyperCommand):
    """Stands for a command in help, suggestions and completions; imports it when it is called."""

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> Any:
        module = import_module(f"bridge.cli.{str(self.name).replace('-', '_')}")
        return typer.main.get_command(module.app).make_context(info_name, args, parent=parent, **extra)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"asm-bridge {bridge.__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Publish what TCN's Agent State Manager reports about agents to Kafka, and deliver events the other way."""


def _group() -> TyperGroup:
    # Help is plain text everywhere: importing rich would take as long as everything else together.
    app = typer.Typer(rich_markup_mode=None, context_settings={"max_content_width": 120})
    app.callback()(_options)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, short_help in COMMANDS.items():
        group.add_command(_LazyCommand(name, short_help=short_help))
    return group


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit. 0: done; 1: failure; 2: usage or configuration error (all of them are listed); 130: ended
    by Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_output()
    try:
        code = _run(arguments or ["--help"])
    except KeyboardInterrupt:  # before Typer, which returns the same code
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _report("interrupted", code)
    sys.exit(code if arguments or code else 2)


def _run(arguments: list[str]) -> int:
    try:
        result = _group()(arguments, prog_name="asm-bridge", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed it, as `head` does
        discard_output()
        return 1
    except OSError as error:  # for example a full disk behind `>`
        discard_output()
        what = "the output cannot be written" if error.errno in _OUTPUT else error.filename
        return _report(": ".join(map(str, filter(None, (what, error.strerror or error)))), 1)
    except CliError as error:
        return _report(error.message, error.exit_code)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f" See `{context.command_path} --help`." if context else ""
        text = error.format_message()
        for pydantics, ours in _WORDS.items():
            text = re.sub(pydantics, ours, text)
        return _report((text if text.endswith(("?", ".")) else f"{text}.") + hint, error.exit_code)
    return result if isinstance(result, int) else 0


def _report(text: str, code: int) -> int:
    with contextlib.suppress(OSError):  # standard error cannot be written either
        typer.echo(f"asm-bridge: {text}", err=True)
    return code
