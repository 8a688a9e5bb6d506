"""What all commands do alike: tables, JSON, errors that are short texts, running what is asynchronous."""

import asyncio
import contextlib
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import typer

T = TypeVar("T")


class CommandError(typer.TyperException):
    """The command ran and failed; the text says what is wrong and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """Wrong usage or settings."""

    exit_code = 2


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as wide as the terminal; into a pipe or file, as wide as it needs to be."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def printable(text: str) -> str:
    """Without control characters: what is in Kafka was written by others, and a terminal obeys some of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@contextlib.contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Gives ``told(number, of)``, which moves a bar on standard error; where that is no terminal, nothing is shown."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True)
    bar.disable = not sys.stderr.isatty()
    with bar:
        task = bar.add_task(text, total=None)
        yield lambda number, of: bar.update(task, completed=number, total=of)


def seconds(option: str, text: str) -> float:
    """The duration that an option was given. Raises ``UsageError``."""
    from bridge.settings.types import duration

    try:
        value = duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
    if value <= 0:
        raise UsageError(f"{option}: must be longer than 0")
    return value


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result. Raises ``CommandError`` where Kafka fails."""
    from aiokafka.errors import KafkaError

    from bridge.kafka import KafkaUnavailableError

    # What aiokafka logs while it tries is told once, by the error.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(main)
    except KafkaUnavailableError as error:
        raise CommandError(str(error)) from None
    except (KafkaError, TimeoutError) as error:
        raise CommandError(f"Kafka failed in the middle of it ({error or 'no answer in time'}): try again") from None


def reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more; to be asked between two writes."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file, as in some tests
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def nobody_reads() -> None:
    """Standard output was closed by its reader (``| head``): make Python's own flush at exit find nothing to say."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
