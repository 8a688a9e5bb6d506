"""``asm-bridge demo``."""

from typing import Annotated

import typer

from bridge.app import StartError
from bridge.cli.errors import CliError
from bridge.cli.kafka import run_async
from bridge.cli.options import Command, new_app, parsed, seconds
from bridge.settings.types import servers
from bridge.testing.brokers import BrokerUnavailableError
from bridge.testing.demo import Demo

app = new_app()


@app.command(cls=Command)
def demo(
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="Stop after this time.")] = None,
    sessions: Annotated[int, typer.Option(min=1, max=2000, metavar="N", help="Number of simulated agents.")] = 10,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Use this Kafka instead of the embedded broker; the demo's topics get a prefix of their own.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Print only the addresses of broker and service; keep them running for your own programs."
        ),
    ] = False,
) -> None:
    """Run a broker, simulated agents and the bridge, and show the flow between them. Ctrl-C stops it.

    Exits with 0 only if records flowed both ways: from the agents to Kafka, and from Kafka to an agent. With --keep,
    nothing is shown and nothing is injected, and it exits with 0.
    """
    duration = None if for_ is None else seconds("--for", for_)
    broker = None if broker is None else parsed("--broker", servers, broker)
    try:
        missing = run_async(Demo(sessions, broker, keep=keep).run(duration))
    except BrokerUnavailableError as error:
        raise CliError(str(error)) from None
    except ExceptionGroup as errors:
        if (failed := errors.subgroup(StartError)) is None:
            raise
        raise CliError("; ".join(str(error) for error in failed.exceptions)) from None
    if missing:
        raise CliError(f"the demo did not show everything it should; missing: {', '.join(missing)}")
