"""Real Apache Kafka: its jars fetched by ``mvn``, one KRaft node run by ``java``."""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

from bridge.ops.http import free_port
from bridge.testing.brokers.base import BrokerUnavailableError
from bridge.testing.brokers.process import ProcessBroker, tail
from bridge.testing.brokers.single_node import single_node
from bridge.testing.cache import cache

POM = Path(__file__).parent / "kafka" / "pom.xml"
OLDEST_JAVA = 17
FETCH_DEADLINE = 600.0
FORMAT_DEADLINE = 60.0
QUICK = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


class MavenBroker(ProcessBroker):
    name = "maven"

    @property
    def description(self) -> str:
        return f"Apache Kafka {kafka_version()} (maven jars, java {java_version()})"

    def prepare(self) -> None:
        classpath()
        properties = self.properties(f"PLAINTEXT://127.0.0.1:{self.port}") | {"log.dirs": f"{self.home}/data"}
        lines = [f"{name}={value}\n" for name, value in properties.items()]
        (self.home / "server.properties").write_text("".join(lines))
        shutil.copy(POM.parent / "log4j2.yaml", self.home)
        format_command = self._java("kafka.tools.StorageTool", "format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c")
        done = run([*format_command, "server.properties"], FORMAT_DEADLINE, self.home)
        if done.returncode:
            raise BrokerUnavailableError(f"Kafka's storage could not be formatted:\n{tail(done.stdout)}")

    def properties(self, listener: str) -> dict[str, str]:
        return single_node(listener, listener, f"127.0.0.1:{free_port()}")

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", "server.properties")

    def ready(self, said: bytes) -> bool:
        return b"Kafka Server started" in said

    def _java(self, *arguments: str) -> list[str]:
        settings = [f"-Dkafka.logs.dir={self.home}", "-Dlog4j2.configurationFile=log4j2.yaml"]
        return [java(), *QUICK, *settings, "-cp", classpath(), *arguments]


def why_not() -> str | None:
    """What this machine lacks to run Kafka in this way, or None."""
    if not java():
        return "no java"
    if java_version() < OLDEST_JAVA:
        return f"java {java_version()} is older than {OLDEST_JAVA}"
    if not libs().is_dir() and not shutil.which("mvn"):
        return "no mvn"
    return None


@functools.cache
def kafka_version() -> str:
    version = ET.parse(POM).findtext(".//{*}properties/{*}kafka")
    assert version, f"{POM} names no version of Kafka"
    return version


@functools.cache
def java() -> str:
    """The path of java, or an empty text. Maven's rule: JAVA_HOME first."""
    home = os.environ.get("JAVA_HOME")
    return (shutil.which("java", path=f"{home}/bin") if home else None) or shutil.which("java") or ""


@functools.cache
def java_version() -> int:
    """The major version, or 0 if it is unknown."""
    said = run([java(), "-version"], 10).stdout.decode(errors="replace")
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def libs() -> Path:
    return cache() / f"kafka-libs-{kafka_version()}"


def classpath() -> str:
    """The jars, fetched once. They get their final name when complete, so that an interrupted fetch is never used."""
    with (cache() / "kafka-libs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may begin at one time
        _fetch()
    return f"{libs()}/*"


def _fetch() -> None:
    if not libs().is_dir():
        partial = cache() / "kafka-libs.partial"
        shutil.rmtree(partial, ignore_errors=True)
        mvn = ["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", "-DincludeScope=runtime"]
        done = run([*mvn, f"-DoutputDirectory={partial}"], FETCH_DEADLINE)
        if done.returncode:
            raise BrokerUnavailableError(f"mvn could not fetch Kafka's jars:\n{tail(done.stdout)}")
        partial.rename(libs())


def run(command: list[str], deadline: float, folder: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end; its output, errors included, is in ``stdout``."""
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=deadline, cwd=folder, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerUnavailableError(f"{command[0]}: {error}") from error
