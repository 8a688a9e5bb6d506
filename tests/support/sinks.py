"""Kafka Connect with two sinks, Apache Iceberg and PostgreSQL: the programs, and what is in their tables."""

import json
import os
import shutil
import subprocess
import zlib
from pathlib import Path
from typing import Any

import httpx

from bridge.testing.brokers import maven
from bridge.testing.brokers.process import ProcessBroker
from tests.support import ROOT
from tests.support.generators import installed, run

FOLDER = ROOT / "tests/support/connect"
JSON_CONVERTER = "4.2.0"
"""The first that has ``schema.content``."""
Row = dict[str, Any]


def connect(version: str) -> Path:
    """The jars of a version of Kafka Connect."""
    return installed(f"kafka-connect-{version}", lambda folder: _fetch("pom", folder, f"-Dkafka={version}"))


def plugins() -> Path:
    """A folder with the two sinks, for ``plugin.path``."""

    def install(folder: Path) -> None:
        for name in ("iceberg", "debezium"):
            _fetch(name, folder / name)

    poms = b"".join((FOLDER / f"{name}.xml").read_bytes() for name in ("iceberg", "debezium"))
    return installed(f"kafka-connect-sinks-{zlib.crc32(poms):x}", install)


def _fetch(pom: str, folder: Path, *options: str) -> None:
    copy = ["mvn", "-B", "-q", "-f", str(FOLDER / f"{pom}.xml"), "dependency:copy-dependencies", *options]
    run([*copy, f"-DoutputDirectory={folder}"], FOLDER)


class ConnectWorker(ProcessBroker):
    """A standalone worker with these connectors; ``files`` are their configurations, the worker's first.

    ``converter``: a class of Java's, its text, that is compiled and stands first in the class path.
    """

    name = "connect"

    def __init__(self, version: str, files: list[str], converter: str = "") -> None:
        super().__init__()
        self._version = version
        self._files = files
        self._converter = converter
        first = connect(JSON_CONVERTER) / f"connect-json-{JSON_CONVERTER}.jar"
        self._classpath = os.pathsep.join([".", str(first), f"{connect(version)}/*"])

    @property
    def description(self) -> str:
        return f"Kafka Connect {self._version}"

    def prepare(self) -> None:
        if self._converter:
            (self.home / "FramedJsonConverter.java").write_text(self._converter)
            run(["javac", "-cp", self._classpath, "FramedJsonConverter.java"], self.home)
        for number, text in enumerate(self._files):
            (self.home / f"{number}.properties").write_text(text)
        (self.home / "0.properties").write_text(f"{self._files[0]}\nlisteners=http://127.0.0.1:{self.port}\n")

    def command(self) -> list[str]:
        files = [f"{number}.properties" for number in range(len(self._files))]
        return [
            *(maven.java(), *maven.QUICK, "-Xmx1g", "-cp", self._classpath),
            *("org.apache.kafka.connect.cli.ConnectStandalone", *files),
        ]

    def ready(self, said: bytes) -> bool:
        try:
            return len(self.ask("connectors")) == len(self._files) - 1
        except httpx.HTTPError:
            return False

    def ask(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/{path}"
        return httpx.get(url, timeout=5, trust_env=False).raise_for_status().json()

    def failures(self) -> list[str]:
        """The traces of connectors and tasks that have failed."""
        states = [self.ask(f"connectors/{name}/status") for name in self.ask("connectors")]
        return [one["trace"] for state in states for one in (state["connector"], *state["tasks"]) if "trace" in one]


class Postgres(ProcessBroker):
    """PostgreSQL of this machine. ``create`` makes a new database, which is used from then on."""

    name = "postgres"
    database = "postgres"

    @property
    def description(self) -> str:
        return "PostgreSQL"

    @property
    def url(self) -> str:
        return f"jdbc:postgresql://127.0.0.1:{self.port}/{self.database}"

    def prepare(self) -> None:
        self.home.chmod(0o711)
        data = self.home / "data"
        data.mkdir()
        if _AS_USER:
            shutil.chown(data, "nobody")
        run([*_AS_USER, "initdb", "-D", str(data), "-A", "trust", "-U", "asm", "--no-sync", "-E", "UTF8"], self.home)

    def command(self) -> list[str]:
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "timezone": "UTC"}
        given = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [*_AS_USER, "postgres", "-D", str(self.home / "data"), "-p", str(self.port), *given]

    def ready(self, said: bytes) -> bool:
        return b"ready to accept connections" in said

    def create(self, database: str) -> None:
        self._psql(f'create database "{database}"')
        self.database = database
        self._psql("create extension hstore")

    def rows(self, table: str) -> list[Row]:
        """The rows of a table; none if there is no such table."""
        if self._psql(f"select to_regclass('{table}')") == [""]:
            return []
        return [json.loads(line) for line in self._psql(f"select row_to_json(t) from {table} t")]

    def types(self, table: str) -> dict[str, str]:
        """The type of each column."""
        sql = f"select column_name, data_type from information_schema.columns where table_name = '{table}'"
        return dict(line.split("|") for line in self._psql(sql))

    def _psql(self, sql: str) -> list[str]:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "asm", "-d", self.database]
        return run(["psql", "-XAt", "-v", "ON_ERROR_STOP=1", *where, "-c", sql], self.home).splitlines()


_AS_USER = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
"""PostgreSQL refuses to run as root."""


def iceberg(warehouse: Path, rows: dict[str, list[Row]], within: int = 60) -> dict[str, dict[str, Any]]:
    """Columns and rows of each Iceberg table, as soon as it has as many rows as here, or after so many seconds."""
    classpath = f"{plugins()}/iceberg/*{os.pathsep}{connect(JSON_CONVERTER)}/*"
    wanted = [f"{name}={len(found)}" for name, found in rows.items()]
    command = [maven.java(), *maven.QUICK, "-cp", classpath, str(FOLDER / "ReadTables.java")]
    done = subprocess.run([*command, str(warehouse), str(within), *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {read["table"]: read for read in map(json.loads, done.stdout.splitlines())}
