"""The simulator and the bridge as processes of their own, to be killed and paused, and the facts to judge them by."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from aiokafka import AIOKafkaProducer
from aiokafka.errors import OutOfOrderSequenceNumber, UnknownError

from asm_bridge_schemas.frame import unframed
from bridge.kafka.partitioner import partition_for
from bridge.ops.http import free_port
from bridge.testing.brokers.process import ends_with_us
from tests.support import SOURCES
from tests.support.chaos.facts import OUTPUT, Facts, Message, Produced, Record, read_topics
from tests.support.patience import patient

DEADLINE = 30.0
PARTITIONS = 8
TOKENS = "sim-tokens.json"


async def until(condition: Callable[[], Awaitable[Any]], what: str, deadline: float = DEADLINE) -> Any:
    """Waits until ``condition`` returns a true value, and returns it. Raises ``TimeoutError`` with ``what``."""
    end = time.monotonic() + patient(deadline)
    while not (found := await condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline:.0f} s")
        await asyncio.sleep(0.1)
    return found


def event_of(marker: str, conversation: Mapping[str, Any] | None = None) -> bytes:
    """An event whose conversation has the sid ``marker``."""
    details = {"conversation_sid": marker, "channel_type": "CHANNEL_TYPE_SMS", **(conversation or {})}
    return json.dumps({"activated_conversation_event": {"conversation": details}}).encode()


def inherited() -> dict[str, str]:
    """This process's environment without settings of a bridge."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ASM_BRIDGE_")}


class Child:
    """``python -m PROGRAM ARGUMENTS`` with settings from the environment; its output is kept in ``log``."""

    def __init__(
        self,
        name: str,
        arguments: Iterable[str],
        settings: Mapping[str, str],
        directory: Path,
        program: Iterable[str] = ("bridge",),
    ) -> None:
        self.log = directory / f"{name}.log"
        self._command = [sys.executable, "-m", *program, *arguments]
        self._environment = {**inherited(), **settings, "PYTHONPATH": SOURCES, "PYTHONUNBUFFERED": "1"}
        self._directory = directory
        self._guard = ExitStack()
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0.0
        """When it was started last (monotonic)."""

    def start(self) -> None:
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._guard.enter_context(ends_with_us(self.process.pid))

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None, "it was not started"
        self.process.send_signal(number)

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Ends the process with ``kill -9``, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._guard.close()

    async def stop(self, deadline: float = DEADLINE) -> int:
        """Sends SIGTERM. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(deadline)

    async def ended(self, deadline: float = DEADLINE) -> int:
        """The exit code, as soon as the process has exited."""
        assert self.process is not None, "it was not started"
        code: int = await asyncio.to_thread(self.process.wait, deadline)
        self._guard.close()
        return code

    def said(self, lines: int = 40) -> str:
        """The end of the process's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Simulated:
    """A running ``asm-bridge simulate``, and its control endpoints."""

    def __init__(self, child: Child, base_url: str) -> None:
        self.child = child
        self.base_url = base_url
        self._http = httpx.AsyncClient(base_url=base_url, timeout=DEADLINE)

    async def get(self, path: str) -> Any:
        """Sends GET ``/sim/`` and ``path``. Raises ``httpx.HTTPStatusError`` for a refusal."""
        return (await self._http.get(f"/sim/{path}")).raise_for_status().json()

    async def post(self, path: str, **body: Any) -> Any:
        return (await self._http.post(f"/sim/{path}", json=body)).raise_for_status().json()

    async def agents(self) -> dict[str, Record]:
        """Everything that each agent was shown and requested."""
        names = [agent["agent_id"] for agent in await self.get("agents")]
        return {name: await self.get(f"agents/{name}") for name in names}

    async def settle(self, agent_ids: Iterable[str], rounds: int = 3, deadline: float = 60) -> None:
        """Freezes the lives, and waits until each agent was polled ``rounds`` times more, and its conversations were
        listed once more if they are, so that everything was shown.
        """
        await self.post("freeze")
        before = {name: await self.get(f"agents/{name}") for name in agent_ids}

        async def all_asked() -> bool:
            for name, old in list(before.items()):
                new = await self.get(f"agents/{name}")
                listed = not old["lists"] or new["asm_session_sid"] is None or new["lists"] > old["lists"]
                if new["requests"] - new["lists"] < old["requests"] - old["lists"] + rounds or not listed:
                    return False
                del before[name]
            return True

        await until(all_asked, f"{rounds} more requests of each agent", deadline)

    async def close(self) -> None:
        await self._http.aclose()
        self.child.kill()


class Lab:
    """Bridges that watch the service at ``base_url``, and a producer; ``facts()`` returns what there is to judge."""

    def __init__(
        self, bootstrap_servers: str, prefix: str, directory: Path, base_url: str, simulated: Simulated | None = None
    ) -> None:
        self.program: tuple[str, ...] = ("bridge",)
        self.login: dict[str, str] = {}
        """The settings of a bridge that reach Kafka in another way than the lab does."""
        self.bootstrap_servers = bootstrap_servers
        self.prefix = prefix
        self.directory = directory
        self.base_url = base_url
        self._simulated = simulated
        self.bridges: dict[str, Child] = {}
        self.ops: dict[str, int] = {}
        self.produced: list[Produced] = []
        self.killed = False
        self.foreign: set[bytes | None] = set()
        self.registry: dict[bytes, bytes | None] = {}
        """The last entry of each key."""
        self.salvaged: list[Message] = []
        """What topics held that were deleted."""
        self._held: dict[str, asyncio.Event] = {}
        self._under_way: Counter[str] = Counter()
        self._former: list[AIOKafkaProducer] = []
        self._http = httpx.AsyncClient(timeout=5)
        # What is sent again after an outage must not be there twice: nobody would know of the other one.
        self._producer = self._new_producer()

    @property
    def sim(self) -> Simulated:
        assert self._simulated is not None, "this lab's service is not the simulator"
        return self._simulated

    def settings(self, **more: str) -> dict[str, str]:
        """The settings of a bridge of this lab; ``more`` as ``KAFKA__SESSION_TIMEOUT="6s"``."""
        settings = {
            "KAFKA__BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "KAFKA__GROUP_ID": f"{self.prefix}bridge",
            "KAFKA__SESSION_TIMEOUT": "6s",
            "TOPICS__PREFIX": self.prefix,
            "TOPICS__PARTITIONS": str(PARTITIONS),
            "ASM__BASE_URL": self.base_url,
            "SECRETS_DIR": str(self.directory / "secrets"),
            **self.login,
            **more,
        }
        return {f"ASM_BRIDGE_{name}": value for name, value in settings.items()}

    async def bridge(self, name: str = "bridge", **settings: str) -> Child:
        """Starts ``asm-bridge run`` and waits until it is ready."""
        self.launch(name, **settings)
        await self.ready(name)
        return self.bridges[name]

    def launch(self, name: str = "bridge", **settings: str) -> Child:
        """Starts ``asm-bridge run``; under a name used before, with the same settings."""
        if name not in self.bridges:
            self.ops[name] = free_port()
            settings.setdefault("KAFKA__GROUP_INSTANCE_ID", f"{self.prefix}{name}")
            given = self.settings(OPS__LISTEN=f"127.0.0.1:{self.ops[name]}", **settings)
            self.bridges[name] = Child(name, ["run"], given, self.directory, self.program)
        self.bridges[name].start()
        return self.bridges[name]

    async def ready(self, name: str = "bridge", deadline: float = 60) -> None:
        async def is_ready() -> bool:
            process = self.bridges[name].process
            if process is not None and process.poll() is not None:
                raise AssertionError(f"{name} has ended with {process.returncode}")
            return (await self.ask(name, "readyz"))[0] == 200

        await until(is_ready, f"{name} is ready", deadline)

    async def ask(self, name: str, path: str) -> tuple[int, str]:
        """Status and text of an operations endpoint, or 0 if nothing answers."""
        try:
            answer = await self._http.get(f"http://127.0.0.1:{self.ops[name]}/{path}")
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    async def command(self, *arguments: str) -> tuple[int, str, str]:
        """Runs ``asm-bridge`` with the lab's settings. Returns exit code, standard output and error."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *self.program, *arguments),
            env={**inherited(), **self.settings()},
            cwd=self.directory,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    def kill(self, name: str = "bridge") -> None:
        """Ends a bridge with ``kill -9``, so that what was shown last may not be emitted."""
        self.killed = True
        self.bridges[name].kill()

    async def produce(self, topic: str, value: bytes | None, key: bytes | None, **options: Any) -> tuple[int, int]:
        """Writes a record to the partition that murmur2 gives its key. Returns partition and offset once it is
        acknowledged.
        """
        while topic in self._held:
            await self._held[topic].wait()
        if topic == "sessions" and key is not None:
            self.registry[key] = value
        elif key is not None:
            options.setdefault("partition", partition_for(key, PARTITIONS))
        self._under_way[topic] += 1
        try:
            while True:
                try:
                    written = await self._producer.send_and_wait(self.prefix + topic, value, key=key, **options)
                    return written.partition, written.offset
                except (UnknownError, OutOfOrderSequenceNumber):  # Kafka's answers on a full disk, and after it
                    await self.reconnect()
                    if (found := await self._written_after_all(topic, value, key)) is not None:
                        return found
        finally:
            self._under_way[topic] -= 1

    async def _written_after_all(self, topic: str, value: bytes | None, key: bytes | None) -> tuple[int, int] | None:
        """Where a record is that Kafka has written although it answered with an error; None if it has not."""
        known = {(one.partition, one.offset) for one in self.produced} if topic == "inject" else set()
        for message in await read_topics(self.bootstrap_servers, self.prefix, [topic]):
            place = message.partition, message.offset
            if (message.key, message.value) == (key, value) and place not in known:
                return place
        return None

    @asynccontextmanager
    async def held(self, topic: str) -> AsyncIterator[None]:
        """Makes ``produce`` wait until the block has ended; it begins when what is under way has been written."""
        self._held[topic] = asyncio.Event()
        try:
            while self._under_way[topic]:
                await asyncio.sleep(0.05)
            yield
        finally:
            self._held.pop(topic).set()

    async def register_again(self) -> None:
        """Writes every key's last entry into a registry that was recreated, while it is ``held``."""
        for key, value in self.registry.items():
            await self._producer.send_and_wait(f"{self.prefix}sessions", value, key=key)

    async def register(self, agent_id: str, **entry: Any) -> None:
        """Adds the agent to the registry, or changes it."""
        await self.produce("sessions", self.entry(agent_id, **entry), agent_id.encode())

    def entry(self, agent_id: str, **entry: Any) -> bytes:
        """The agent's entry in the registry, with its token in the secrets file unless another is given."""
        return json.dumps({"token": f"file:{TOKENS}#{agent_id}"} | entry).encode()

    async def register_all(self, **entry: Any) -> list[str]:
        """Registers every simulated agent, with its skills."""
        agents = await self.sim.get("agents")
        await asyncio.gather(*(self.register(a["agent_id"], skills=a["skills"], **entry) for a in agents))
        return [agent["agent_id"] for agent in agents]

    async def inject(
        self,
        agent_id: str,
        marker: str,
        *,
        ce_id: str | None = None,
        conversation: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Produced:
        """Sends an event whose conversation has the sid ``marker``."""
        value = event_of(marker, conversation)
        return await self.inject_raw(agent_id.encode(), value, ce_id=ce_id, marker=marker, **options)

    async def inject_raw(
        self,
        key: bytes | None,
        value: bytes | None,
        *,
        ce_id: str | None = None,
        marker: str | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        **options: Any,
    ) -> Produced:
        """Sends any bytes to the inbox."""
        given = [*headers, *([("ce_id", ce_id.encode())] if ce_id else [])]
        partition, offset = await self.produce("inject", value, key, headers=given, **options)
        agent_id = None if key is None else key.decode(errors="backslashreplace")
        made = Produced(agent_id, partition, offset, ce_id or f"{partition}/{offset}", key, value, marker)
        self.produced.append(made)
        return made

    async def completed(self, deadline: float = 60) -> None:
        """Waits until every entry with an agent's key has an outcome, and each other one its dead letter."""
        wanted = {produced.entry for produced in self.produced if produced.has_agent}
        origins = {f"{self.prefix}inject/{produced.entry}" for produced in self.produced if not produced.has_agent}

        async def all_have() -> bool:
            outcomes = await read_topics(self.bootstrap_servers, self.prefix, ["inject-outcomes"])
            outcomes += [message for message in self.salvaged if message.topic == "inject-outcomes"]
            return wanted <= {json.loads(unframed(outcome.value or b"{}")).get("entry") for outcome in outcomes}

        async def all_put_away() -> bool:
            letters = await read_topics(self.bootstrap_servers, self.prefix, ["dead-letters"])
            return origins <= {letter.header("asm_origin") for letter in letters}

        await until(all_have, f"outcomes of {len(wanted)} entries", deadline)
        if origins:
            await until(all_put_away, f"dead letters of {len(origins)} entries", deadline)

    async def facts(self) -> Facts:
        """The facts known so far."""
        return Facts(
            messages=self.salvaged + await read_topics(self.bootstrap_servers, self.prefix, (*OUTPUT, "inject")),
            inbox=f"{self.prefix}inject",
            partitions=PARTITIONS,
            produced=self.produced,
            agents=await self.sim.agents(),
            taken=await self.sim.get("events"),
            refused=await self.sim.get("refusals"),
            whole=not self.killed,
            foreign=frozenset(self.foreign),
        )

    async def open(self) -> None:
        await asyncio.wait_for(self._producer.start(), DEADLINE)

    async def reconnect(self) -> None:
        """Replaces the lab's producer by one that knows the topics as they are now."""
        new = self._new_producer()
        await asyncio.wait_for(new.start(), DEADLINE)
        self._former.append(self._producer)  # others may be writing with it
        self._producer = new

    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(bootstrap_servers=self.bootstrap_servers, enable_idempotence=True)

    async def close(self) -> None:
        for child in self.bridges.values():
            child.kill()
        await self._http.aclose()
        for producer in (*self._former, self._producer):
            with suppress(TimeoutError):  # the broker may be gone, and another error says why
                await asyncio.wait_for(producer.stop(), DEADLINE)


@asynccontextmanager
async def simulated(directory: Path, *arguments: str) -> AsyncIterator[Simulated]:
    """``asm-bridge simulate`` with these arguments, its tokens in ``directory/secrets``."""
    listen = f"127.0.0.1:{free_port()}"
    tokens = ["--write-tokens", str(directory / "secrets")]
    child = Child("simulator", ["simulate", "--listen", listen, "--log-limit", "0", *tokens, *arguments], {}, directory)
    sim = Simulated(child, f"http://{listen}")
    child.start()
    try:

        async def answers() -> bool:
            try:
                return bool(await sim.get("stats"))
            except httpx.TransportError:
                return False

        await until(answers, "the simulator answers")
        yield sim
    except BaseException as error:
        error.add_note(f"--- {child.log.name} ends:\n{child.said()}")
        raise
    finally:
        await sim.close()


@asynccontextmanager
async def lab(bootstrap_servers: str, prefix: str, directory: Path, *arguments: str) -> AsyncIterator[Lab]:
    """A lab with a simulator of these arguments."""
    async with (
        simulated(directory, *arguments) as sim,
        opened(Lab(bootstrap_servers, prefix, directory, sim.base_url, sim)) as the_lab,
    ):
        yield the_lab


@asynccontextmanager
async def opened(the_lab: Lab) -> AsyncIterator[Lab]:
    """Closes the lab at the end; if the block fails, the ends of the bridges' logs are shown."""
    try:
        await the_lab.open()
        yield the_lab
    except BaseException as error:
        for child in the_lab.bridges.values():
            error.add_note(f"--- {child.log.name} ends:\n{child.said()}")
        raise
    finally:
        await the_lab.close()
