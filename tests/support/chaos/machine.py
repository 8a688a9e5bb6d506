"""Faults of machines and administrators: a full disk, rights taken away, a wrong clock."""

import asyncio
import errno
import subprocess
from collections.abc import Awaitable
from pathlib import Path
from random import Random
from typing import Any

from confluent_kafka import admin

from bridge.testing.brokers.maven import MavenBroker
from tests.support.chaos.faults import Fault, Trial
from tests.support.chaos.shifted import clock_file

_DISK = "192m"
"""Of the broker's disk: what its topics take, with room for a run of some minutes."""


class HarshBroker(MavenBroker):
    """A broker whose disk is small (a tmpfs, where this user may mount one), and which asks an authorizer.

    Everyone may do everything that no rule is about; ``deny`` makes a rule, ``allow`` takes it away.
    """

    name = "harsh"

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
        return super().properties(listener) | {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
        }

    def fill(self) -> None:
        """Writes until the disk is full."""
        with (self.home / "data" / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(65536))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    def free(self) -> None:
        (self.home / "data" / "filler").unlink(missing_ok=True)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def deny(self, kind: str, name: str, operation: str) -> None:
        """Takes an operation on what begins with the name from everyone."""
        client = self._admin()  # kept: with it its answers would go
        made: dict[Any, Any] = client.create_acls([self._rule("AclBinding", kind, name, operation)])
        for future in made.values():
            future.result(10)

    def allow(self, kind: str, name: str, operation: str) -> None:
        client = self._admin()
        gone: dict[Any, Any] = client.delete_acls([self._rule("AclBindingFilter", kind, name, operation)])
        for future in gone.values():
            assert future.result(10), "there was no such rule"

    def _admin(self) -> Any:
        return admin.AdminClient({"bootstrap.servers": self.bootstrap_servers})

    def _rule(self, cls: str, kind: str, name: str, operation: str) -> Any:
        return getattr(admin, cls)(
            admin.ResourceType[kind],  # type: ignore[attr-defined]
            name,
            admin.ResourcePatternType.PREFIXED,  # type: ignore[attr-defined]
            "User:ANONYMOUS",
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
    await asyncio.to_thread(broker.fill)
    await asyncio.sleep(rng.uniform(3, 10))
    trial.note(f"the broker {'still runs' if broker.runs else 'has given up'} on a full disk")
    broker.free()
    await asyncio.to_thread(broker.restart)


async def right_taken_away(trial: Trial, rng: Random, *, kind: str, name: str, operation: str) -> None:
    """One right is missing for some seconds."""
    broker, named = _harsh(trial), name.format(prefix=trial.lab.prefix)
    await asyncio.to_thread(broker.deny, kind, named, operation)
    try:
        await asyncio.sleep(rng.uniform(2, 10))
    finally:
        await asyncio.to_thread(broker.allow, kind, named, operation)


async def clock_wrong(trial: Trial, rng: Random) -> None:
    """A process's clock is set to a wrong time and back later; it may be started again meanwhile."""
    name = rng.choice(trial.processes)
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
