"""``asm-bridge inject``."""

import asyncio
import sys
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from asm_bridge_schemas.commands import CommandError, read_event
from bridge import clock
from bridge.agents.injection import MAX_AHEAD
from bridge.cli.errors import CliError, UsageError
from bridge.cli.kafka import kafka_now, run_async
from bridge.cli.options import SettingsCommand, new_app, seconds, settings_of
from bridge.cli.output import print_json
from bridge.kafka.partitioner import partition_for
from bridge.kafka.reading import Reader, open_reader
from bridge.kafka.show import decoded
from bridge.kafka.topics import partitions_of
from bridge.kafka.writing import Writer, open_writer
from bridge.printable import printable
from bridge.registry.file import check_agent_id
from bridge.settings import Settings

app = new_app()


@app.command(cls=SettingsCommand)
def inject(
    ctx: typer.Context,
    agent_id: Annotated[str, typer.Argument(metavar="AGENT_ID", help="The agent's key in the registry.")],
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="One event as JSON (an entry of the vendor's events); - reads standard input."
        ),
    ] = "-",
    id_: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="ID", help="The injection's id, by which duplicates are recognized (default: a new one)."
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="The sender; a duplicate has the same id and the same source.")
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="RFC 3339, e.g. 2026-01-31T12:00:00Z; at most an hour from now."),
    ] = None,
    expires_in: Annotated[
        str | None, typer.Option(metavar="DURATION", help="The same as a time from now, e.g. 90s.")
    ] = None,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="How long to wait for the outcome.")] = "30s",
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome's record as JSON.")] = False,
) -> None:
    """Send one event to an agent's session and wait for its outcome. Exits with 0 only if it was delivered."""
    if expires_at and expires_in:
        raise UsageError("give --expires-at or --expires-in, not both")
    headers = {"content-type": "application/json", "ce_id": id_ or str(uuid.uuid4())}
    if source:
        headers["ce_source"] = source
    expiry = _time(expires_at), None if expires_in is None else seconds("--expires-in", expires_in)
    wait_time = seconds("--timeout", timeout) if wait else None
    value = _read(agent_id, file)
    entry, outcome = run_async(_send(settings_of(ctx), agent_id, value, headers, expiry, wait_time))
    if json:
        print_json(outcome or {"injection_id": headers["ce_id"], "entry": entry, "outcome": None})
    elif outcome is None:
        typer.echo(f"sent to {agent_id}: id {headers['ce_id']}, entry {entry}")
    else:
        typer.echo(printable(f"{outcome['outcome']}: {details(outcome)}"))
    if outcome is not None and outcome["outcome"] != "delivered":
        raise typer.Exit(1)


def details(outcome: dict[str, Any]) -> str:
    """The details of an outcome, for people."""
    facts = {
        "reason": outcome.get("reason"),
        "HTTP": outcome.get("http_status"),
        "attempts": outcome.get("attempts"),
        "id": outcome.get("injection_id"),
        "entry": outcome.get("entry"),
    }
    repeated = ["possibly repeated"] if outcome.get("possibly_repeated") else []
    return ", ".join([*repeated, *(f"{name} {fact}" for name, fact in facts.items() if fact is not None)])


def _read(agent_id: str, file: str) -> bytes:
    if file == "-" and sys.stdin.isatty():
        typer.echo("asm-bridge: reading the event from standard input; end it with Ctrl-D", err=True)
    try:
        value = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        check_agent_id(agent_id)
        read_event(value, "application/json")
    except OSError as error:
        raise CliError(f"{file} cannot be read: {error.strerror}") from None
    except CommandError as error:
        raise CliError(f"not sent: {error}") from None
    return value


def _time(expires_at: str | None) -> float | None:
    try:
        return None if expires_at is None else clock.seconds(expires_at)
    except ValueError as error:
        raise UsageError(f"--expires-at: must be an RFC 3339 time such as 2026-01-31T12:00:00Z ({error})") from None


async def _expires_at(settings: Settings, at: float | None, within: float | None) -> str | None:
    """The event's expires_at, by Kafka's clock. Raises ``UsageError`` if it has passed."""
    if at is None and within is None:
        return None
    now = await kafka_now(settings)
    at = now + (within or 0.0) if at is None else at
    if at <= now:
        raise UsageError("--expires-at: is in the past")
    if at > now + MAX_AHEAD:
        typer.echo("asm-bridge: the event expires in an hour: the bridge limits the time to that", err=True)
    return clock.rfc3339(at)


class Inbox:
    """Sends entries, and yields their outcomes if it was opened for them."""

    def __init__(self, topic: str, partitions: int, writer: Writer, reader: Reader | None) -> None:
        self._topic = topic
        self._partitions = partitions
        self._writer = writer
        self._reader = reader

    async def put(self, agent_id: str, value: bytes, headers: Iterable[tuple[str, bytes]]) -> str:
        """Produces to the agent's partition. Returns the entry, ``partition/offset``, once all replicas have it."""
        partition = partition_for(agent_id, self._partitions)
        return (await self._writer.put(self._topic, partition, agent_id.encode(), value, headers)).entry

    async def outcomes(self, entries: Collection[str], timeout: float) -> AsyncIterator[dict[str, Any]]:
        """The outcomes of these entries as they come, until all have or ``timeout`` seconds are over."""
        assert self._reader is not None
        missing = set(entries)
        end = asyncio.get_running_loop().time() + timeout
        while missing and (left := end - asyncio.get_running_loop().time()) > 0:
            for value in map(decoded, await self._reader.fetch(min(left, 1.0))):
                if _is_outcome(value) and value["entry"] in missing:
                    missing.discard(value["entry"])
                    yield value


def _is_outcome(value: Any) -> bool:
    """Whether a record is an outcome, and not another program's record."""
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("entry", "outcome"))


@asynccontextmanager
async def open_inbox(settings: Settings, agents: Iterable[str], *, wait: bool) -> AsyncIterator[Inbox]:
    """The inbox for these agents; with ``wait`` it reads the outcomes of entries sent from now on.

    Raises ``KafkaUnavailableError``.
    """
    connection, topic = settings.kafka.client_arguments(), settings.topics.name("inject")
    count = await partitions_of(connection, topic)
    async with AsyncExitStack() as stack:
        reader = None
        if wait:
            outcomes = settings.topics.name("inject-outcomes")
            await partitions_of(connection, outcomes)
            partitions = {(outcomes, partition_for(agent, count)) for agent in agents}
            reader = await stack.enter_async_context(open_reader(connection, partitions, from_end=True))
        yield Inbox(topic, count, await stack.enter_async_context(open_writer(connection)), reader)


async def _send(
    settings: Settings,
    agent_id: str,
    value: bytes,
    headers: Mapping[str, str],
    expiry: tuple[float | None, float | None],
    timeout: float | None,
) -> tuple[str, dict[str, Any] | None]:
    """Sends to the agent's partition, and waits ``timeout`` seconds for the outcome. ``expiry``: its time, or the
    seconds until then. Returns the entry, ``partition/offset``, and the outcome, if it was waited for. Raises
    ``CliError``."""
    if expires_at := await _expires_at(settings, *expiry):
        headers = {**headers, "expires_at": expires_at}
    async with open_inbox(settings, [agent_id], wait=timeout is not None) as inbox:
        entry = await inbox.put(agent_id, value, [(name, text.encode()) for name, text in headers.items()])
        if timeout is None:
            return entry, None
        async for outcome in inbox.outcomes([entry], timeout):
            return entry, outcome
    raise CliError(
        f"no outcome within {timeout:g} s. The entry {entry} stays in the inbox until it is delivered or expires: "
        "check that a bridge is running with these settings and that the agent is logged in"
    )
