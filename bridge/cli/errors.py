"""How a command fails: one short text on standard error, and an exit code."""

import typer


class CliError(typer.TyperException):
    """The command failed; the text says what is wrong and what to do."""

    exit_code = 1


class UsageError(CliError):
    """The usage or the configuration is wrong."""

    exit_code = 2
