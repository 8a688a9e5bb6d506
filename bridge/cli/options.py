"""Every setting as an option of every command that uses settings, by one mechanism."""

from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from bridge.cli.output import UsageError

if TYPE_CHECKING:
    from bridge.settings import Settings

_PANEL = "Settings"
_MARK = "setting__"
"""What the names of these options' parameters begin with; a dot in the key is ``__``."""


class SettingsCommand(TyperCommand):
    """A command with ``--config`` and an option for each key; its function finds the settings by ``settings_of``.

    The options are made only when the command is used, so that no other one pays for the import.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        own = super().get_params(ctx)
        return [*own[:-1], *_options(), own[-1]]  # the last one is --help

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, [_with_underscores(arg) for arg in args])
        return rest

    def invoke(self, ctx: Any) -> Any:
        given = {name: ctx.params.pop(name) for name in list(ctx.params) if name.startswith(_MARK)}
        config = given.pop(f"{_MARK}config")
        keys = {
            name.removeprefix(_MARK).replace("__", "."): value for name, value in given.items() if value is not None
        }
        ctx.obj = _load(Path(config) if config else None, keys)
        return super().invoke(ctx)


def settings_of(ctx: typer.Context) -> "Settings":
    settings: Settings = ctx.obj
    return settings


def _with_underscores(argument: str) -> str:
    """``--kafka.group-id=x`` as ``--kafka.group_id=x``: both are taken, one is shown."""
    from bridge.settings import KEYS

    name, equals, value = argument.partition("=")
    key = name.removeprefix("--").replace("-", "_")
    return f"--{key}{equals}{value}" if name.startswith("--") and key in KEYS else argument


def _load(config: Path | None, keys: dict[str, str]) -> "Settings":
    from bridge.settings import SettingsError, load_settings

    try:
        return load_settings(config, keys)
    except SettingsError as error:
        raise UsageError("wrong settings:" + "".join(f"\n  {problem}" for problem in error.problems)) from None


def _options() -> list[Any]:
    """The options, as Typer makes them of a function that has them all as parameters."""

    def settings() -> None:
        pass

    settings.__signature__ = Signature(list(_parameters()))  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(settings)
    return typer.main.get_command(app).params


def _parameters() -> Iterator[Parameter]:
    from bridge.settings import KEYS, shown_default

    yield _parameter("config", "--config", "FILE", "TOML file of settings (else asm-bridge.toml, if there is one).")
    for key, field in KEYS.items():
        default = shown_default(key)
        meaning = f"{field.description} (default: {default})" if default else str(field.description)
        yield _parameter(key.replace(".", "__"), f"--{key}", "VALUE", meaning)


def _parameter(name: str, option: str, metavar: str, meaning: str) -> Parameter:
    info = typer.Option(option, metavar=metavar, help=meaning, rich_help_panel=_PANEL, show_default=False)
    kind = Annotated[str | None, info]
    return Parameter(_MARK + name, Parameter.KEYWORD_ONLY, default=None, annotation=kind)
