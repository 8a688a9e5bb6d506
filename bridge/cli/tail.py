"""``asm-bridge tail``: reads topics as they grow, until there is enough, the time is over or a signal comes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated

import typer

from bridge.agents.injection import KafkaRecord
from bridge.cli.errors import CliError
from bridge.cli.event_loop import run_async
from bridge.cli.options import SettingsCommand, new_app, seconds, settings_of
from bridge.cli.output import reader_gone
from bridge.cli.stdout import discard_output
from bridge.kafka.reading import Reader, open_reader
from bridge.kafka.show import as_json, as_line
from bridge.kafka.topics import TOPICS, partition_counts
from bridge.settings import Settings, TopicsSettings
from bridge.signals import stop_on_signals, unless

app = new_app()


@dataclass(frozen=True, slots=True)
class TailOptions:
    """The options of a tail; ``duration`` in seconds."""

    topics: tuple[str, ...] = ()
    from_beginning: bool = False
    until_end: bool = False
    limit: int | None = None
    agent: str | None = None
    duration: float | None = None
    json: bool = False


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
    options = TailOptions(
        topics=tuple(topics or ()),
        from_beginning=from_beginning or until_end,
        until_end=until_end,
        limit=limit,
        agent=agent,
        duration=None if for_ is None else seconds("--for", for_),
        json=json,
    )
    try:
        run_async(_until_signal(settings_of(ctx), options))
    except BrokenPipeError:
        discard_output()


async def _until_signal(settings: Settings, options: TailOptions) -> None:
    await unless(stop_on_signals(), _tail(settings, options))


async def _tail(settings: Settings, options: TailOptions) -> None:
    """Prints records. Raises ``CliError`` if a topic does not exist, ``BrokenPipeError`` if the reader of the output
    has closed it.
    """
    counts = await partition_counts(settings.kafka.client_arguments())
    names = dict.fromkeys(_names(settings.topics, options, counts))
    partitions = [(name, partition) for name in names for partition in range(counts[name])]
    printed = 0
    connection = settings.kafka.client_arguments()
    async with open_reader(connection, partitions, from_end=not options.from_beginning) as reader:
        async for message in _records(reader, options):
            if options.agent is not None and message.key != options.agent.encode():
                continue
            print(as_json(message) if options.json else as_line(message, settings.topics.prefix), flush=True)
            printed += 1
            if printed == options.limit:
                return


async def _records(reader: Reader, options: TailOptions) -> AsyncIterator[KafkaRecord]:
    """Records in the order of time within each fetch, until the duration is over, the end has been reached, or the
    reader of our output has closed it.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + (float("inf") if options.duration is None else options.duration)
    while not (loop.time() >= end or reader_gone() or (options.until_end and reader.at_end)):
        for message in sorted(await reader.fetch(0.2), key=lambda message: message.timestamp):
            yield message


def _names(topics: TopicsSettings, options: TailOptions, counts: Mapping[str, int]) -> list[str]:
    if not options.topics:
        output = [topics.name(topic.name) for topic in TOPICS if topic.output and topic.name != "agent-state"]
        found = [name for name in output if name in counts]
        if not found:
            raise CliError(
                f"there are no topics {topics.prefix}...: check topics.prefix, or run `asm-bridge topics create`"
            )
        return found
    return [_name(topics, topic, counts) for topic in options.topics]


def _name(topics: TopicsSettings, topic: str, counts: Mapping[str, int]) -> str:
    for name in (topic, topics.name(topic)):
        if name in counts:
            return name
    known = ", ".join(one.name for one in TOPICS)
    raise CliError(f"there is no topic {topic} or {topics.name(topic)}; the bridge's topics are {known}")
