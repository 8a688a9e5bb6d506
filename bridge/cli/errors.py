"""How a command fails: one short text on standard error, and an exit code."""

from collections.abc import Iterable

import typer


class CliError(typer.TyperException):
    """The command failed; the text says what is wrong and what to do."""

    exit_code = 1


def listed(title: str, problems: Iterable[str]) -> str:
    """The text about several problems, one a line."""
    return "\n  ".join([title, *problems])


class UsageError(CliError):
    """The usage or the configuration is wrong."""

    exit_code = 2
