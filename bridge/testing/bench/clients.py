"""The clients: how each is started, with the bridge's settings, and which of them this machine can run."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bridge.testing.bench.scenarios import (
    AIOHTTP,
    AT_LEAST_ONCE,
    EXACTLY_ONCE,
    FAST_COMMITS,
    GO,
    GO_HTTP2,
    GO_SLOTS,
    HTTP1_TLS,
    HTTP2,
    HTTPX,
    WORKERS,
)
from bridge.testing.cache import cache

PEERS = Path(__file__).parents[3] / "bench" / "peers"
"""Only in a source tree: wheels do not have them."""
_BUILD_DEADLINE = 300.0
_FASTEST = 0.05
"""Seconds: the shortest poll.interval there is."""


@dataclass(frozen=True)
class Place:
    """The addresses and sizes that a client works with. ``interval`` in seconds; 0: as fast as possible."""

    sessions: int
    interval: float
    base_url: str
    brokers: str
    prefix: str
    directory: Path
    ops_port: int
    ca_file: Path | None = None


@dataclass(frozen=True)
class Client:
    """``settings`` and ``workers`` are the bridge's; ``command`` to a peer, with placeholders for a place's fields."""

    name: str
    settings: Mapping[str, str] | None = None
    command: tuple[str, ...] = ()
    tls: bool = False
    workers: int = 1

    @property
    def transactional(self) -> bool:
        return self.settings is not None and self.settings.get("KAFKA__DELIVERY") == "exactly_once"


_ONCE = {"KAFKA__DELIVERY": "exactly_once"}
BRIDGES = (
    Client(EXACTLY_ONCE, _ONCE),
    Client(AT_LEAST_ONCE, {"KAFKA__DELIVERY": "at_least_once"}),
    Client(HTTP2, _ONCE, tls=True),
    Client(HTTP1_TLS, {**_ONCE, "ASM__HTTP2": "false"}, tls=True),
    Client(FAST_COMMITS, {**_ONCE, "KAFKA__COMMIT_INTERVAL": "0.01"}),
    Client(WORKERS, _ONCE, workers=2),
)


def arguments(client: Client, place: Place) -> list[str]:
    """The command line."""
    if client.settings is not None:
        several = ["--workers", str(client.workers)] if client.workers > 1 else []
        return [sys.executable, "-m", "bridge", "run", *several]
    topic = f"{place.prefix}agent-status"
    return [
        word.format(
            n=place.sessions, interval=place.interval, base=place.base_url, brokers=place.brokers, topic=topic
        )
        for word in client.command
    ]  # fmt: skip


def environment(client: Client, place: Place) -> dict[str, str]:
    """The environment without settings for another bridge, but with those for this one, or the authorities that a peer
    in Go trusts.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASM_BRIDGE_")}
    if client.settings is None:
        return inherited | ({"SSL_CERT_FILE": str(place.ca_file)} if place.ca_file else {})
    settings = {
        "ASM__BASE_URL": place.base_url,
        "KAFKA__BOOTSTRAP_SERVERS": place.brokers,
        "KAFKA__GROUP_ID": f"{place.prefix}bench",
        "KAFKA__GROUP_INSTANCE_ID": f"{place.prefix}bench-1",
        "LOG__FORMAT": "json",
        "OPS__LISTEN": f"127.0.0.1:{place.ops_port}",
        "POLL__INTERVAL": str(max(_FASTEST, place.interval)),
        "SECRETS_DIR": str(place.directory),
        "SESSIONS_FILE": str(place.directory / "sessions.json"),
        "TOPICS__PREFIX": place.prefix,
        **({"ASM__CA_FILE": str(place.ca_file)} if place.ca_file else {}),
        **client.settings,
    }
    return inherited | {f"ASM_BRIDGE_{name}": value for name, value in settings.items()}


def agent_id(number: int) -> str:
    return f"agent-{number}"


def prepare(place: Place) -> None:
    """Writes the registry and the tokens: each agent has its own, and a fixed session."""
    tokens = {agent_id(number): f"tok-{number}" for number in range(place.sessions)}
    (place.directory / "tokens.json").write_text(json.dumps(tokens))
    entries = [
        {"agent_id": agent, "asm_session_sid": str(1_000_000 + number), "token": f"file:tokens.json#{agent}"}
        for number, agent in enumerate(tokens)
    ]
    (place.directory / "sessions.json").write_text(json.dumps(entries))


def peers(notes: list[str]) -> Iterator[Client]:
    """The peers that this machine can run; the reasons against the others are added to ``notes``."""
    if not PEERS.is_dir():
        notes.append("no peers: they are in the source tree's bench/peers")
        return
    gopher = go_build("gopher", notes)
    if gopher:
        given = (
            "-sessions",
            "{n}",
            "-interval",
            "{interval}s",
            "-base",
            "{base}",
            "-brokers",
            "{brokers}",
            "-topic",
            "{topic}",
        )
        yield Client(GO, command=(str(gopher), *given))
        yield Client(GO_SLOTS, command=(str(gopher), *given, "-slot", "100ms"))
        yield Client(GO_HTTP2, command=(str(gopher), *given), tls=True)
    for name, module in ((AIOHTTP, "aiohttp"), (HTTPX, "httpx")):
        if find_spec(module) is None:
            notes.append(f"no {name}: `pip install {module}` adds it")
            continue
        given = (
            "--sessions",
            "{n}",
            "--interval",
            "{interval}",
            "--base",
            "{base}",
            "--brokers",
            "{brokers}",
            "--topic",
            "{topic}",
        )
        yield Client(name, command=(sys.executable, str(PEERS / f"naive_{module}.py"), *given))


def go_build(name: str, notes: list[str]) -> Path | None:
    """The program built from ``bench/peers/NAME``, or None and a note."""
    if not PEERS.is_dir() or not shutil.which("go"):
        notes.append(f"no {name} (Go): `go` is not on this machine" if PEERS.is_dir() else f"no {name}: no source tree")
        return None
    made = cache() / f"bench-{name}"
    command = ["go", "build", "-o", str(made), "."]
    try:
        done = subprocess.run(
            command, cwd=PEERS / name, capture_output=True, text=True, timeout=_BUILD_DEADLINE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        notes.append(f"no {name} (Go): {error}")
        return None
    if done.returncode:
        notes.append(f"no {name} (Go): go build says {done.stderr.strip()[-300:]}")
    return made if done.returncode == 0 else None
