"""Faults of machines and administrators: a full disk, rights taken away, a wrong clock."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import KafkaException, admin

from bridge.ops.http import free_port
from bridge.testing.brokers.secured import BRIDGE, Right, SecuredBroker
from tests.support.chaos.faults import OF_RIGHTS, Fault, Trial
from tests.support.chaos.harness import Lab
from tests.support.chaos.shifted import clock_file

_DISK = 2**30
"""Bytes of the broker's disk: more than a run of some minutes takes. A tmpfs uses no memory for what is free."""
_ANSWERED = 60.0
"""Seconds that a change of rights may take: a broker may be away when it begins."""
_A_TRY = 5.0
_LEAST: tuple[Right, ...] = (
    *(("TOPIC", "{prefix}", operation) for operation in ("READ", "WRITE", "CREATE", "DESCRIBE_CONFIGS")),
    ("GROUP", "{prefix}bridge", "READ"),
    ("TRANSACTIONAL_ID", "{prefix}bridge-", "WRITE"),
)
"""The rights that docs/operations.md names."""


class HarshBroker(SecuredBroker):
    """A broker whose disk is small (a tmpfs, where this user may mount one), and which asks an authorizer.

    Bridges log in, and have the rights that docs/operations.md names. The lab does not, on a listener of its own, and
    may do everything, so that no right that a bridge lacks is missing to it, too.
    """

    name = "harsh"

    def __init__(self) -> None:
        super().__init__()
        self._lab_port = free_port()
        self.login: dict[str, str] = {}
        """The settings with which a bridge logs in."""

    def start(self) -> str:
        self.login = {
            "KAFKA__BOOTSTRAP_SERVERS": super().start(),
            "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA__SASL_USERNAME": BRIDGE[0],
            "KAFKA__SASL_PASSWORD": BRIDGE[1],
        }
        self.bootstrap_servers = f"127.0.0.1:{self._lab_port}"
        return self.bootstrap_servers

    def prepare(self) -> None:
        data = self.home / "data"
        data.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(data)]
        self.has_small_disk = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        super().prepare()

    def stop(self) -> None:
        self.kill()
        if self.home.name and self.has_small_disk:
            subprocess.run(["umount", "-l", str(self.home / "data")], capture_output=True, check=False)
        super().stop()

    def properties(self, listener: str) -> dict[str, str]:
        secured, lab = super().properties(listener), f"LAB://127.0.0.1:{self._lab_port}"
        protocols = "listener.security.protocol.map"
        return secured | {
            **{name: f"{secured[name]},{lab}" for name in ("listeners", "advertised.listeners")},
            protocols: f"{secured[protocols]},LAB:PLAINTEXT",
        }

    def confluent_arguments(self) -> dict[str, Any]:
        return {"bootstrap.servers": self.bootstrap_servers}

    def admit(self, the_lab: Lab) -> None:
        """Lets the lab's bridges log in, with the rights that they need."""
        the_lab.login = self.login
        self.grant(*((kind, name.format(prefix=the_lab.prefix), operation) for kind, name, operation in _LEAST))

    def fill(self) -> None:
        """Leaves no room on the disk."""
        assert self.has_small_disk, "this user may not mount a tmpfs: leave out the lane disk"
        while not self._resize(shutil.disk_usage(self.home / "data").used):
            """More has been written in between."""

    def free(self) -> None:
        assert self._resize(_DISK)

    def _resize(self, size: int) -> bool:
        """Sets the size of the disk. Returns False if more than that is used."""
        mount = ["mount", "-o", f"remount,size={size}", str(self.home / "data")]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def deny(self, kind: str, name: str, operation: str) -> None:
        """Takes an operation on what begins with the name from the bridges."""
        rule = self._rule("AclBinding", kind, name, operation)
        self._until_answered(lambda client: client.create_acls([rule], request_timeout=_A_TRY))

    def allow(self, kind: str, name: str, operation: str) -> None:
        rule = self._rule("AclBindingFilter", kind, name, operation)
        self._until_answered(lambda client: client.delete_acls([rule], request_timeout=_A_TRY))

    def _until_answered(self, call: Callable[[Any], dict[Any, Any]]) -> None:
        """Calls until the broker, which may be away, has answered; a second time changes nothing more."""
        deadline = time.monotonic() + _ANSWERED
        while True:
            client = admin.AdminClient(self.confluent_arguments() | {"log_level": 0})
            try:
                for future in call(client).values():
                    future.result()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return

    def _rule(self, cls: str, kind: str, name: str, operation: str) -> Any:
        return getattr(admin, cls)(
            admin.ResourceType[kind],  # type: ignore[attr-defined]
            name,
            admin.ResourcePatternType.PREFIXED,  # type: ignore[attr-defined]
            f"User:{BRIDGE[0]}",
            "*",
            admin.AclOperation[operation],  # type: ignore[attr-defined]
            admin.AclPermissionType.DENY,  # type: ignore[attr-defined]
        )


def _harsh(trial: Trial) -> HarshBroker:
    (broker,) = trial.brokers
    assert isinstance(broker, HarshBroker), "this lane needs a broker of its own: leave out --broker"
    return broker


async def disk_full(trial: Trial, rng: Random) -> None:
    """Nothing can be written for some seconds; Kafka gives its only log directory up, and is started again."""
    broker = _harsh(trial)
    async with trial.administration:
        await asyncio.to_thread(broker.fill)
        await asyncio.sleep(rng.uniform(3, 10))
        trial.note(f"the broker {'still runs' if broker.runs else 'has given up'} on a full disk")
        await asyncio.to_thread(broker.free)
        await asyncio.to_thread(broker.restart)


async def right_taken_away(trial: Trial, rng: Random, *, kind: str, name: str, operation: str) -> None:
    """One right is missing for some seconds."""
    broker, named = _harsh(trial), name.format(prefix=trial.lab.prefix)
    async with trial.turns[OF_RIGHTS]:
        await asyncio.to_thread(broker.deny, kind, named, operation)
        try:
            await asyncio.sleep(rng.uniform(2, 10))
        finally:
            await asyncio.to_thread(broker.allow, kind, named, operation)


async def clock_wrong(trial: Trial, rng: Random) -> None:
    """A process's clock is set to a wrong time and back later; it may be started again meanwhile."""
    async with trial.process(rng) as name:
        path = clock_file(trial.lab.directory, trial.lab.ops[name])
        _set(path, rng.choice((-7200, -600, -7, 3, 7, 600, 7200)))
        await asyncio.sleep(rng.uniform(1, 4))
        if rng.random() < 0.5:
            trial.lab.kill(name)
            trial.lab.launch(name)
            await asyncio.sleep(rng.uniform(3, 8))
        _set(path, 0)


def _set(path: Path, ahead: float) -> None:
    path.with_suffix(".new").write_text(str(ahead))
    path.with_suffix(".new").replace(path)


def _right(kind: str, name: str, operation: str) -> Fault:
    def fault(trial: Trial, rng: Random) -> Awaitable[None]:
        return right_taken_away(trial, rng, kind=kind, name=name, operation=operation)

    return fault


DISK: dict[str, Fault] = {"disk_full": disk_full}
RIGHTS: dict[str, Fault] = {
    f"{operation.lower()} of {name.format(prefix='')}": _right(kind, name, operation)
    for kind, name, operation in (
        ("TOPIC", "{prefix}agent-status", "WRITE"),
        ("TOPIC", "{prefix}agent-state", "WRITE"),
        ("TOPIC", "{prefix}agent-state", "READ"),
        ("TOPIC", "{prefix}inject-outcomes", "WRITE"),
        ("TOPIC", "{prefix}inject", "READ"),
        ("TOPIC", "{prefix}sessions", "READ"),
        ("GROUP", "{prefix}bridge", "READ"),
        ("TRANSACTIONAL_ID", "{prefix}bridge-", "WRITE"),
    )
}
CLOCK: dict[str, Fault] = {"clock_wrong": clock_wrong}
