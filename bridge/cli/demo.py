"""``asm-bridge demo``."""

from typing import Annotated

import typer

from bridge.cli.output import CommandError, UsageError, run_async, seconds


def demo(
    for_: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="End after this time.")] = None,
    sessions: Annotated[int, typer.Option(min=1, max=2000, help="How many agents are simulated.")] = 10,
    broker: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Kafka to use instead of the embedded broker; its topics get a prefix."),
    ] = None,
) -> None:
    """See it all at work: a broker, simulated agents, the bridge, and what flows, live. Ctrl-C ends it.

    Exits with 0 only if records flowed both ways: from the agents to Kafka, and from Kafka to an agent.
    """
    from bridge.app import StartError
    from bridge.testing.brokers import BrokerUnavailableError
    from bridge.testing.demo import Demo

    duration = None if for_ is None else seconds("--for", for_)
    if broker is not None and ":" not in broker:
        raise UsageError(f"--broker: {broker!r} is not HOST:PORT")
    try:
        missing = run_async(Demo(sessions, broker).run(duration))
    except BrokerUnavailableError as error:
        raise CommandError(str(error)) from None
    except ExceptionGroup as errors:
        if (failed := errors.subgroup(StartError)) is None:
            raise
        raise CommandError("; ".join(str(error) for error in failed.exceptions)) from None
    if missing:
        raise CommandError(f"the demo did not show all that it should: {', '.join(missing)}")
