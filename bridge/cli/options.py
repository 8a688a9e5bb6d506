"""Common options of the commands, and every setting as an option of every command that uses settings."""

from collections.abc import Callable, Iterator
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from bridge.cli.errors import UsageError, listed
from bridge.settings import KEYS, Settings, SettingsError, load_settings, shown_default
from bridge.settings.types import duration

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_PANEL = "Settings"
_MARK = "setting__"
"""The prefix of these options' parameter names; a dot in the key is ``__``."""


def new_app(description: str | None = None) -> typer.Typer:
    """The ``app`` of a command's module; with a ``description`` it is a group, even with a single command."""
    app = typer.Typer(help=description, add_completion=False, rich_markup_mode=None)
    if description is not None:
        app.callback()(lambda: None)
    return app


class Command(TyperCommand):
    """A command whose help has a section for each panel of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        parameter: Any
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                if parameter.param_type_name == "argument":
                    sections["Arguments"].append((parameter.metavar, record[1]))
                else:
                    sections.setdefault(parameter.rich_help_panel or "Options", []).append(record)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=36)


class SettingsCommand(Command):
    """A command with ``--config`` and an option for each key; its function finds the settings by ``settings_of``."""

    def get_params(self, ctx: Any) -> list[Any]:
        own = super().get_params(ctx)
        return [*own, *_options()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, [_with_underscores(arg) for arg in args])
        return rest

    def invoke(self, ctx: Any) -> Any:
        given = {name: ctx.params.pop(name) for name in list(ctx.params) if name.startswith(_MARK)}
        config = given.pop(f"{_MARK}config")
        keys = {
            name.removeprefix(_MARK).replace("__", "."): value for name, value in given.items() if value is not None
        }
        try:
            ctx.obj = load_settings(Path(config) if config else None, keys)
        except SettingsError as error:
            raise UsageError(listed("wrong settings:", error.problems)) from None
        return super().invoke(ctx)


def settings_of(ctx: typer.Context) -> Settings:
    settings: Settings = ctx.obj
    return settings


def parsed(option: str, parse: Callable[[str], T], text: str) -> T:
    """The value that was given to an option, in the form of a setting. Raises ``UsageError``."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def seconds(option: str, text: str) -> float:
    """The duration that was given to an option. Raises ``UsageError``."""
    value = parsed(option, duration, text)
    if value <= 0:
        raise UsageError(f"{option}: must be longer than 0")
    return value


def _with_underscores(argument: str) -> str:
    """``--kafka.group-id=x`` as ``--kafka.group_id=x``: both are accepted, one is shown."""
    name, equals, value = argument.partition("=")
    key = name.removeprefix("--").replace("-", "_")
    return f"--{key}{equals}{value}" if name.startswith("--") and key in KEYS else argument


@cache
def _options() -> tuple[Any, ...]:
    """The options, as Typer derives them from a function with all of them as parameters."""

    def settings() -> None:
        pass

    settings.__signature__ = Signature(list(_parameters()))  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return tuple(typer.main.get_command(app).params)


def _parameters() -> Iterator[Parameter]:
    yield _parameter("config", "--config", "FILE", "TOML file of settings (default: asm-bridge.toml, if it exists).")
    for key, field in KEYS.items():
        default = shown_default(key)
        meaning = f"{field.description}  [default: {default}]" if default else str(field.description)
        yield _parameter(key.replace(".", "__"), f"--{key}", "VALUE", meaning)


def _parameter(name: str, option: str, metavar: str, meaning: str) -> Parameter:
    info = typer.Option(option, metavar=metavar, help=meaning, rich_help_panel=_PANEL, show_default=False)
    kind = Annotated[str | None, info]
    return Parameter(_MARK + name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
