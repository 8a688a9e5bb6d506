"""``asm-bridge tail``: reads topics as they grow, until there is enough, the time is over or a signal comes."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing
from math import inf
from typing import Annotated, Any

import typer

from bridge.agents.injection import KafkaRecord
from bridge.cli.errors import CliError
from bridge.cli.kafka import run_async
from bridge.cli.options import SettingsCommand, new_app, seconds, settings_of
from bridge.cli.output import reader_gone
from bridge.cli.stdout import discard_output
from bridge.kafka.reading import open_reader
from bridge.kafka.show import as_json, as_line
from bridge.kafka.topics import TOPICS, partition_counts
from bridge.settings import Settings, TopicsSettings
from bridge.signals import stop_on_signals, unless

app = new_app()


@app.command(cls=SettingsCommand)
def tail(
    ctx: typer.Context,
    topics: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TOPIC", help="With or without the prefix (default: all output topics except agent-state)."
        ),
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Also print the existing records.")] = False,
    until_end: Annotated[
        bool,
        typer.Option(
            "--until-end",
            help="Print the records that exist when the command starts, and stop.",
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N records.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="Only the records of this agent.")] = None,
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="Stop after this time.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line: topic, partition, offset, key, headers, value.")
    ] = False,
) -> None:
    """Print records as they arrive, decoded, one line each; committed records only. Ctrl-C stops it."""
    settings = settings_of(ctx)
    duration = inf if for_ is None else seconds("--for", for_)
    records = _records(settings, topics or [], duration, from_beginning=from_beginning, until_end=until_end)
    try:
        run_async(_until_signal(_print(records, settings.topics.prefix, limit, agent, json)))
    except BrokenPipeError:
        discard_output()


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    await unless(stop_on_signals(), work)


async def _print(
    records: AsyncGenerator[KafkaRecord, None], prefix: str, limit: int | None, agent: str | None, json: bool
) -> None:
    """Prints records, at most ``limit``. Raises ``BrokenPipeError`` if the reader of the output has closed it."""
    printed = 0
    async with aclosing(records):
        async for message in records:
            if agent is not None and message.key != agent.encode():
                continue
            print(as_json(message) if json else as_line(message, prefix), flush=True)
            printed += 1
            if printed == limit:
                return


async def _records(
    settings: Settings, chosen: Sequence[str], duration: float, *, from_beginning: bool, until_end: bool
) -> AsyncGenerator[KafkaRecord, None]:
    """Records in the order of time within each fetch, until ``duration`` seconds are over, the end has been reached, or
    the reader of our output has closed it. Raises ``CliError`` if a topic does not exist.
    """
    connection, loop = settings.kafka.client_arguments(), asyncio.get_running_loop()
    counts = await partition_counts(connection)
    names = dict.fromkeys(_names(settings.topics, chosen, counts))
    partitions = [(name, partition) for name in names for partition in range(counts[name])]
    async with open_reader(connection, partitions, from_end=not (from_beginning or until_end)) as reader:
        end = loop.time() + duration
        while not (loop.time() >= end or reader_gone() or (until_end and reader.at_end)):
            for message in sorted(await reader.fetch(0.2), key=lambda message: message.timestamp):
                yield message


def _names(topics: TopicsSettings, chosen: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    if not chosen:
        output = [topics.name(topic.name) for topic in TOPICS if topic.output and topic.name != "agent-state"]
        found = [name for name in output if name in counts]
        if not found:
            raise CliError(
                f"there are no topics {topics.prefix}...: check topics.prefix, or run `asm-bridge topics create`"
            )
        return found
    return [_name(topics, topic, counts) for topic in chosen]


def _name(topics: TopicsSettings, topic: str, counts: Mapping[str, int]) -> str:
    for name in (topic, topics.name(topic)):
        if name in counts:
            return name
    known = ", ".join(one.name for one in TOPICS)
    raise CliError(f"there is no topic {topic} or {topics.name(topic)}; the bridge's topics are {known}")
