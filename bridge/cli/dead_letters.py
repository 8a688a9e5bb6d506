"""``asm-bridge dead-letters``: lists records that could not be handled, and sends them again."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from bridge.agents.step import DeadLetter
from bridge.cli.errors import CliError, UsageError
from bridge.cli.inject import details, open_inbox
from bridge.cli.kafka import kafka_now, run_async
from bridge.cli.options import Json, SettingsCommand, new_app, seconds, settings_of
from bridge.cli.output import print_json, print_table
from bridge.clock import rfc3339
from bridge.kafka.resend import NotResendable, Resend, read
from bridge.kafka.resend import resend as prepare
from bridge.printable import printable
from bridge.settings import Settings

app = new_app("List the events that could not be handled, and send them again.")

Agent = Annotated[str | None, typer.Option(metavar="ID", help="Only those of this agent.")]
Code = Annotated[str | None, typer.Option(metavar="CODE", help="Only those with this error code, e.g. unknown_agent.")]
Since = Annotated[str | None, typer.Option(metavar="DURATION", help="Only those newer than this, e.g. 2h.")]
_SUCCESS = ("delivered", "duplicate")


@app.command("list", cls=SettingsCommand)
def list_(
    ctx: typer.Context,
    agent: Agent = None,
    code: Code = None,
    since: Since = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the newest N.")] = None,
    json: Json = False,
) -> None:
    """List the dead letters, the oldest first."""
    found, _ = run_async(_read(settings_of(ctx), agent, code, since))
    found = list(deque(found, maxlen=limit))
    if json:
        print_json([_object(letter) for letter in found])
    else:
        print_table(("Time", "Origin", "Key", "Code", "Error", "Bytes"), map(_row, found))
        typer.echo(f"{len(found)} dead letters", err=True)


@app.command(cls=SettingsCommand)
def resend(
    ctx: typer.Context,
    origins: Annotated[
        list[str] | None,
        typer.Argument(metavar="ORIGIN", help="topic/partition/offset as shown by list, or partition/offset."),
    ] = None,
    agent: Agent = None,
    code: Code = None,
    since: Since = None,
    all_: Annotated[bool, typer.Option("--all", help="Send all that can be sent again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the outcomes.")] = False,
    timeout: Annotated[
        str, typer.Option(metavar="DURATION", help="How long to wait for all of them together.")
    ] = "30s",
    json: Json = False,
) -> None:
    """Send the events of dead letters to their agents again. They keep their original order.

    An event that has been delivered in the meantime is reported as a duplicate. Exits with 1 if a dead letter that you
    named could not be sent or, with --wait, if the outcome of one is neither delivered nor duplicate.
    """
    if all_ == bool(origins or agent or code or since):
        raise UsageError("name the origins, or give --agent, --code or --since, or only --all")
    settings, wait_time = settings_of(ctx), seconds("--timeout", timeout) if wait else None
    letters, now = run_async(_read(settings, agent, code, since, timed=True))
    found = _prepared(letters, origins or [], settings.topics.name("inject"), now)
    report: Callable[[_Resent], None] = (lambda _: None) if json else _line
    for one in found:
        if one.resend is None or dry_run:
            report(one)
    if not dry_run and any(one.resend for one in found):
        run_async(_send(settings, [one for one in found if one.resend], wait_time, report))
    if json:
        print_json([one.as_object() for one in found])
    elif not found:
        typer.echo("nothing to send")
    _judge(found, bool(origins), wait_time if not dry_run else None)


def _judge(found: "list[_Resent]", named: bool, timeout: float | None) -> None:
    """Exits with 1 unless everything requested was done."""
    sent = [one for one in found if one.entry is not None]
    silent = [one.origin for one in sent if timeout is not None and one.outcome is None]
    if silent:
        raise CliError(
            f"no outcome within {timeout:g} s of {', '.join(silent)}: they stay in the inbox until they are delivered "
            "or expire; check that a bridge is running with these settings and that the agents are logged in"
        )
    if (named and any(one.problem for one in found)) or any(one.failed for one in sent):
        raise typer.Exit(1)


@dataclass(slots=True)
class _Resent:
    """A dead letter and its result."""

    origin: str
    key: str | None
    resend: Resend | None = None
    problem: str | None = None
    entry: str | None = None
    outcome: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        return self.outcome is not None and self.outcome["outcome"] not in _SUCCESS

    def as_object(self) -> dict[str, Any]:
        return {
            "origin": self.origin,
            "key": self.key,
            "cannot_be_sent": self.problem,
            "injection_id": self.resend and self.resend.injection_id,
            "note": self.resend and self.resend.note,
            "entry": self.entry,
            "outcome": self.outcome,
        }


def _prepared(letters: Iterable[DeadLetter], origins: list[str], inbox: str, now: float) -> list[_Resent]:
    """The chosen dead letters in their original order, one for each origin; those of the ``inbox`` may be named without
    the topic. Raises ``CliError`` if a named one is missing."""
    newest = {str(letter.origin): letter for letter in letters}
    names = {letter.origin.entry: origin for origin, letter in newest.items() if letter.origin.topic == inbox}
    names |= {origin: origin for origin in newest}
    if unknown := [origin for origin in origins if origin not in names]:
        raise CliError(f"nothing was sent: no such dead letter: {', '.join(unknown)}")
    chosen = [newest[names[origin]] for origin in origins] if origins else list(newest.values())
    return [_attempt(letter, now) for letter in sorted(chosen, key=lambda letter: letter.origin)]


def _attempt(letter: DeadLetter, now: float) -> _Resent:
    resent = _Resent(str(letter.origin), letter.agent_id)
    try:
        resent.resend = prepare(letter, now)
    except NotResendable as error:
        resent.problem = str(error)
    return resent


async def _send(
    settings: Settings, resent: list[_Resent], timeout: float | None, report: Callable[[_Resent], None]
) -> None:
    agents = [one.resend.agent_id for one in resent if one.resend]
    async with open_inbox(settings, agents, wait=timeout is not None) as inbox:
        for one in resent:
            assert one.resend is not None
            one.entry = await inbox.put(one.resend.agent_id, one.resend.value, one.resend.headers)
            if timeout is None:
                report(one)
        if timeout is None:
            return
        waiting = {one.entry: one for one in resent if one.entry}
        async for outcome in inbox.outcomes(waiting.keys(), timeout):
            one = waiting.pop(outcome["entry"])
            one.outcome = outcome
            report(one)
        for one in waiting.values():
            report(one)


def _line(one: _Resent) -> None:
    """Prints one line, to standard error if it cannot be sent."""
    whose = f"{one.origin} of {one.key or 'no agent'}"
    if one.resend is None:
        text = f"{whose}: cannot be sent again: {one.problem}"
    elif one.entry is None:
        text = f"{whose}: would be sent"
    elif one.outcome is None:
        text = f"{whose}: sent, id {one.resend.injection_id}, entry {one.entry}"
    else:
        text = f"{whose}: {one.outcome['outcome']}, {details(one.outcome)}"
    note = f"; {one.resend.note}" if one.resend and one.resend.note else ""
    typer.echo(printable(text + note), err=one.resend is None)


async def _read(
    settings: Settings, agent: str | None, code: str | None, since: str | None, *, timed: bool = False
) -> tuple[list[DeadLetter], float]:
    """The dead letters that match, in the order of time; and the time by Kafka's clock, if ``since`` or ``timed``
    require it."""
    age = None if since is None else seconds("--since", since)
    now = await kafka_now(settings) if timed or age is not None else 0.0
    after = 0.0 if age is None else now - age

    def matches(letter: DeadLetter) -> bool:
        return letter.time >= after and agent in (None, letter.agent_id) and code in (None, letter.code)

    topic = settings.topics.name("dead-letters")
    found = [letter async for letter in read(settings.kafka, topic) if matches(letter)]
    return sorted(found, key=lambda letter: letter.time), now


def _object(letter: DeadLetter) -> dict[str, Any]:
    return {
        "time": rfc3339(letter.time),
        "origin": str(letter.origin),
        "key": letter.agent_id,
        "code": letter.code,
        "error": letter.text,
        "bytes": None if letter.value is None else len(letter.value),
    }


def _row(letter: DeadLetter) -> tuple[str, ...]:
    return tuple("-" if field is None else str(field) for field in _object(letter).values())
