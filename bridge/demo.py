"""The demo: a broker, the simulator and the bridge in one process tree, and what flows between them."""

import asyncio
import itertools
import secrets
import signal
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Literal

import msgspec
import typer
from aiokafka import AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from bridge import logs
from bridge.app import Bridge
from bridge.cli.records import as_line, decoded
from bridge.embedded import embedded_broker, free_port
from bridge.kafka import connected
from bridge.kafka.keys import partition_for
from bridge.kafka.plain import reader
from bridge.settings import AsmSettings, KafkaSettings, OpsSettings, Settings, TopicsSettings
from bridge.simulator import Options, Simulator, serve
from bridge.simulator.files import sessions_toml, write_tokens

SHOWN = ("agent-status", "queued-calls", "agent-messages", "conversations", "inject-outcomes", "dead-letters")
_READY_WITHIN = 60.0
_INJECT_EVERY = 3.0
_LINES_PER_SECOND = 12


class Demo:
    """Watches ``agents`` simulated agents over the embedded broker, or over the one at ``broker``."""

    def __init__(self, agents: int, broker: str | None) -> None:
        self._simulator = Simulator(Options(agents=agents, change_rate=0.3, seed=secrets.randbelow(1000)))
        self._broker = broker
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._produced: dict[str, float] = {}
        self._lines = 0
        self._left_out = 0

    async def run(self, duration: float | None) -> list[str]:
        """Until a signal, or for ``duration`` seconds of records. Returns what should have been seen and was not."""
        stop = _stop_on_signal()
        logs.setup_logging("console", "warning")
        async with AsyncExitStack() as stack:
            settings = await self._start(stack)
            stopping = asyncio.Event()
            bridge = Bridge(settings)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(bridge.run(stopping))
                try:
                    await self._ready(bridge, stop)
                    shows = [tasks.create_task(self._show(settings)), tasks.create_task(self._inject(settings))]
                    await _first(stop, duration)
                    for task in shows:
                        task.cancel()
                finally:
                    stopping.set()
        return self._summary()

    async def _start(self, stack: AsyncExitStack) -> Settings:
        """Broker and simulator, and the settings of a bridge between them."""
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
        kind = "with transactions" if self._broker else "embedded, in memory, without transactions: at_least_once"
        where = f"--kafka.bootstrap_servers {address}" + (f" --topics.prefix {prefix}" if self._broker else "")
        typer.echo(f"Kafka      {address}  ({kind})")
        typer.echo(f"simulator  {base_url}/sim/agents  ({len(self._simulator.world.callers)} agents)")
        typer.echo(f"bridge     http://{settings.ops.listen}/readyz, /metrics")
        typer.echo(f"look also  asm-bridge tail {where}")
        typer.echo(f"           echo '{{\"pause_event\": {{}}}}' | asm-bridge inject agent-1 - {where}")
        return settings

    async def _ready(self, bridge: Bridge, stop: asyncio.Event) -> None:
        typer.echo("\njoining the consumer group (the embedded broker takes 5-10 s for it) ...", nl=True)
        async with asyncio.timeout(_READY_WITHIN):
            while bridge.not_ready() is not None and not stop.is_set():  # noqa: ASYNC110 - asks as readyz is asked
                await asyncio.sleep(0.1)
        typer.echo("ready; from here on, what arrives on Kafka:\n")

    async def _show(self, settings: Settings) -> None:
        async with connected(reader(settings.kafka), settings.kafka.bootstrap_servers) as consumer:
            consumer.subscribe([settings.topics.name(topic) for topic in SHOWN])
            while True:
                for messages in (await consumer.getmany(timeout_ms=200)).values():
                    for message in messages:
                        self._line(message, settings.topics.prefix)
                self._lines = max(0, self._lines - _LINES_PER_SECOND // 5)

    def _line(self, message: ConsumerRecord, prefix: str) -> None:
        """Show a record: all that has to do with injections, and of the others as many as can be read."""
        topic = message.topic.removeprefix(prefix)
        self._counts[topic] += 1
        value = decoded(message)
        if topic == "inject-outcomes":
            self._outcomes[value["outcome"]] += 1
            took = time.time() - self._produced.get(value["injection_id"], time.time())
            typer.echo(f"{as_line(message, prefix)}  <- the outcome, {took * 1000:.0f} ms after it was produced")
        elif topic == "conversations":
            self._sent(message, prefix)
        elif self._lines < _LINES_PER_SECOND:
            self._lines += 1
            typer.echo(as_line(message, prefix))
        else:
            self._left_out += 1

    def _sent(self, message: ConsumerRecord, prefix: str) -> None:
        taken = self._simulator.world.ledger.events_taken
        typer.echo(f"{as_line(message, prefix)}  <- went out in getstatus; the service took {taken} so far")

    async def _inject(self, settings: Settings) -> None:
        """Produce an event every few seconds, as a microservice would."""
        agents = itertools.cycle(self._simulator.world.callers)
        producer = AIOKafkaProducer(**settings.kafka.client_arguments(), acks="all")
        async with connected(producer, settings.kafka.bootstrap_servers):
            for number in itertools.count(1):
                agent_id, injection_id = next(agents), f"demo-{number}"
                conversation = {"conversation_sid": str(9007199254740993 + number), "channel_type": "CHANNEL_TYPE_CHAT"}
                event = {"activated_conversation_event": {"conversation": conversation}}
                self._produced[injection_id] = time.time()
                topic = settings.topics.name("inject")
                await producer.send_and_wait(
                    topic,
                    msgspec.json.encode(event),
                    agent_id.encode(),
                    partition=partition_for(agent_id, settings.topics.partitions),
                    headers=[("ce_id", injection_id.encode())],
                )
                typer.echo(f"-> produced to {topic}: {agent_id} activated_conversation_event, ce_id {injection_id}")
                await asyncio.sleep(_INJECT_EVERY)

    def _summary(self) -> list[str]:
        total = ", ".join(f"{topic} {self._counts[topic]}" for topic in SHOWN if self._counts[topic])
        typer.echo(f"\nrecords seen: {total or 'none'} ({self._left_out} of them not shown above)")
        delivered, taken = self._outcomes["delivered"], self._simulator.world.ledger.events_taken
        typer.echo(
            f"injections: {len(self._produced)} produced, {taken} taken by the service, {delivered} told as delivered"
        )
        wanted = {
            "statuses on Kafka": self._counts["agent-status"],
            "queued calls on Kafka": self._counts["queued-calls"],
            "conversation events on Kafka": self._counts["conversations"],
            "an injected event at the service": taken,
            "its outcome on Kafka": delivered,
        }
        return [what for what, count in wanted.items() if not count]


async def _first(stop: asyncio.Event, duration: float | None) -> None:
    try:
        async with asyncio.timeout(duration):
            await stop.wait()
    except TimeoutError:
        pass


def _stop_on_signal() -> asyncio.Event:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop
