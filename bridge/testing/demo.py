"""The demo: a broker, the simulator and the bridge in one process tree, and a view of the records between them."""

import asyncio
import io
import itertools
import logging
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Literal, Self

import msgspec
import typer
from aiokafka.structs import ConsumerRecord
from rich.console import Console
from rich.live import Live
from rich.text import Text

from bridge.app import Bridge, StartError
from bridge.kafka.clients import new_producer, new_reader
from bridge.kafka.lifecycle import connected
from bridge.kafka.partitioner import partition_for
from bridge.kafka.show import as_line, decoded
from bridge.ops.http import free_port
from bridge.ops.rates import sample
from bridge.printable import printable
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings
from bridge.signals import stop_on_signals
from bridge.telemetry import logs
from bridge.telemetry.metrics import METRICS
from bridge.testing.brokers.embedded import embedded_broker
from bridge.testing.demo_view import SHOWN, DemoStats, Endpoints, journey, next_steps, picture
from bridge.testing.simulator import Options, Simulator, serve
from bridge.testing.simulator.files import sessions_toml, write_tokens

_READY_WITHIN = 60.0
_INJECT_EVERY = 3.0
_LOOK_EVERY = 0.25
_LINES_PER_SECOND = 12
_DATE = len("2026-01-31T")


class Demo:
    """Watches ``agents`` simulated agents over the embedded broker, or over the one at ``broker``.

    On a terminal it shows a live view; elsewhere it prints a line for each event. With ``keep`` it only prints the
    addresses of broker and service, for other programs.
    """

    def __init__(self, agents: int, broker: str | None, *, keep: bool = False) -> None:
        self._simulator = Simulator(Options(agents=agents, change_rate=0.3, seed=secrets.randbelow(1000)))
        self._broker = broker
        self._keep = keep
        self._stats = DemoStats(time.time())
        self._console = Console()
        self._live = not keep and sys.stdout.isatty() and not self._console.is_dumb_terminal
        self._lines = 0
        self._left_out = 0

    async def run(self, duration: float | None) -> list[str]:
        """Runs until a signal, or for ``duration`` seconds of records. Returns what should have been seen but
        was not.
        """
        stop = stop_on_signals()
        logs.setup_logging("console", "warning")
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the embedded broker lacks what aiokafka tries first
        async with AsyncExitStack() as stack:
            settings, endpoints = await self._start(stack)
            self._begin(endpoints)
            stopping = asyncio.Event()
            bridge = Bridge(settings)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(bridge.run(stopping))
                shows = [tasks.create_task(self._look(endpoints))] if self._live else []
                try:
                    await self._ready(bridge, stop)
                    if not self._keep:
                        shows += [tasks.create_task(self._show(settings)), tasks.create_task(self._inject(settings))]
                    await _first(stop, duration)
                finally:
                    for task in shows:
                        task.cancel()
                    stopping.set()
        return [] if self._keep else self._summary()

    async def _start(self, stack: AsyncExitStack) -> tuple[Settings, Endpoints]:
        """Starts the broker and the simulator. Returns the settings of a bridge between them."""
        address = await stack.enter_async_context(nullcontext(self._broker) if self._broker else embedded_broker())
        base_url = await stack.enter_async_context(serve(self._simulator))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asm-bridge-demo-")))
        write_tokens(self._simulator, directory)
        sessions = directory / "sessions.toml"
        sessions.write_text(sessions_toml(self._simulator), encoding="utf-8")
        prefix = f"demo-{secrets.token_hex(2)}." if self._broker else "asm."
        delivery: Literal["exactly_once", "at_least_once"] = "exactly_once" if self._broker else "at_least_once"
        settings = Settings(
            asm=AsmSettings(base_url=base_url),
            kafka=KafkaSettings(bootstrap_servers=address, delivery=delivery, group_id=f"{prefix}bridge"),
            topics=TopicsSettings(prefix=prefix),
            ops=OpsSettings(listen=f"127.0.0.1:{free_port()}"),
            secrets_dir=directory,
            sessions_file=sessions,
        )
        environment = [f"ASM_BRIDGE_KAFKA__BOOTSTRAP_SERVERS={address}"]
        environment += [f"ASM_BRIDGE_TOPICS__PREFIX={prefix}"] if self._broker else []
        agents = len(self._simulator.world.callers)
        return settings, Endpoints(address, prefix, settings.ops.listen, base_url, agents, tuple(environment))

    async def _ready(self, bridge: Bridge, stop: asyncio.Event) -> None:
        self._stats.state = "joining the consumer group (takes 5-10 s)"
        self._say(self._stats.state)
        deadline = time.monotonic() + _READY_WITHIN
        while (reason := bridge.readiness.reason()) is not None and not stop.is_set():  # the same question as /readyz
            if time.monotonic() > deadline:
                raise StartError(f"the bridge was not ready within {_READY_WITHIN:.0f} s: {reason}")
            await asyncio.sleep(0.1)
        self._stats.state = "ready"
        follow = "Ctrl-C stops it" if self._keep else "the records that arrive on Kafka from now on:\n"
        self._say(f"ready; {follow}")

    # -- what is shown

    def _begin(self, endpoints: Endpoints) -> None:
        kind = "with transactions" if self._broker else "embedded, in memory, without transactions: at_least_once"
        lines = [f"Kafka      {endpoints.kafka}  ({kind})", f"topics     {endpoints.prefix}*", *next_steps(endpoints)]
        self._say("\n".join(lines) + "\n")

    async def _look(self, endpoints: Endpoints) -> None:
        """Keeps the view up to date."""
        # It uses the terminal's alternate screen: the previous contents return when the demo ends.
        with Live(console=self._console, screen=True, auto_refresh=False) as live, _Log(self._stats.lines.append):
            while True:
                now = time.time()
                self._stats.update_rates(now, int(sample(now, [METRICS.polls]).total("polls_total")))
                live.update(picture(self._stats, endpoints, now, self._console.size), refresh=True)
                await asyncio.sleep(_LOOK_EVERY)

    def _say(self, text: str) -> None:
        if not self._live:
            typer.echo(text)

    async def _show(self, settings: Settings) -> None:
        reader = new_reader(settings.kafka.client_arguments())
        async with connected(reader) as consumer:
            consumer.subscribe([settings.topics.name(topic) for topic in SHOWN])
            while True:
                for messages in (await consumer.getmany(timeout_ms=200)).values():
                    for message in messages:
                        self._record(message, settings.topics.prefix)
                self._lines = max(0, self._lines - _LINES_PER_SECOND // 5)

    def _record(self, message: ConsumerRecord, prefix: str) -> None:
        """Shows a record: every one about an injection, and as many of the others as a person can read."""
        topic, value = message.topic.removeprefix(prefix), decoded(message)
        line = as_line(message, prefix)[_DATE:]
        injection = self._stats.record_read(topic, value, line, time.time(), self._taken(value))
        if injection or self._lines < _LINES_PER_SECOND:
            self._lines += not injection
            self._say(f"{line}\n   {journey(injection)}" if injection and injection.finished else line)
        else:
            self._left_out += 1

    def _taken(self, value: object) -> float | None:
        """The time at which the service received the event that a record is about."""
        if not isinstance(value, dict) or "event" not in value:
            return None
        same = (one.at for one in reversed(self._simulator.world.ledger.events) if one.event == value["event"])
        return next(same, None)

    async def _inject(self, settings: Settings) -> None:
        """Produces an event every few seconds, as a microservice would."""
        agents = itertools.cycle(self._simulator.world.callers)
        producer = new_producer(settings.kafka.client_arguments())
        async with connected(producer):
            for number in itertools.count(1):
                agent_id, injection_id = next(agents), f"demo-{number}"
                conversation = {"conversation_sid": str(9007199254740993 + number), "channel_type": "CHANNEL_TYPE_CHAT"}
                event = {"activated_conversation_event": {"conversation": conversation}}
                self._stats.injection_sent(injection_id, agent_id, time.time())
                topic = settings.topics.name("inject")
                await producer.send_and_wait(
                    topic,
                    msgspec.json.encode(event),
                    agent_id.encode(),
                    partition=partition_for(agent_id, settings.topics.partitions),
                    headers=[("ce_id", injection_id.encode())],
                )
                self._say(f"-> produced to {topic}: {agent_id} activated_conversation_event, ce_id {injection_id}")
                await asyncio.sleep(_INJECT_EVERY)

    def _summary(self) -> list[str]:
        stats, taken = self._stats, self._simulator.world.ledger.events_taken
        total = ", ".join(f"{topic} {stats.counts[topic]}" for topic in SHOWN if stats.counts[topic])
        left_out = f" ({self._left_out} of them are not shown above)" if self._left_out and not self._live else ""
        typer.echo(f"{'' if self._live else chr(10)}records seen: {total or 'none'}{left_out}")
        received = f"{taken} received by the service, {stats.outcomes['delivered']} with the outcome delivered"
        typer.echo(f"injections: {stats.produced} produced, {received}")
        if last := next((one for one in reversed(stats.injections.values()) if one.outcome), None):
            typer.echo(f"the last one: {journey(last)}")
        return stats.missing(taken)


class _Log(io.TextIOBase):
    """Within the block, passes log lines to ``say``: written to the terminal they would break the view."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __enter__(self) -> Self:
        self._streams = [(one, one.stream) for one in _log_handlers()]
        for handler, _ in self._streams:
            handler.setStream(self)
        return self

    def __exit__(self, *_: object) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self._say(printable(Text.from_ansi(line).plain)[_DATE:])
        return len(text)


def _log_handlers() -> list["logging.StreamHandler[io.TextIOBase]"]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]


async def _first(stop: asyncio.Event, duration: float | None) -> None:
    try:
        async with asyncio.timeout(duration):
            await stop.wait()
    except TimeoutError:
        pass
