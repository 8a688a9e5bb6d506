"""A real Schema Registry: Apicurio, fetched by ``mvn`` and run by ``java``. It speaks Confluent's API."""

import fcntl
import shutil
import tarfile
from pathlib import Path

import httpx
import pytest

from bridge.testing.brokers.base import BrokerUnavailableError
from bridge.testing.brokers.maven import FETCH_DEADLINE, OLDEST_JAVA, QUICK, java, java_version, run
from bridge.testing.brokers.process import ProcessBroker, tail
from bridge.testing.cache import cache

VERSION = "3.0.9"
_ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"


class Apicurio(ProcessBroker):
    """A registry that is started, killed and paused as a broker is; its schemas are kept over a restart."""

    name = "apicurio"

    @property
    def description(self) -> str:
        return f"Apicurio Registry {VERSION} (maven, java {java_version()})"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def prepare(self) -> None:
        app()

    def command(self) -> list[str]:
        settings = {
            "quarkus.http.host": "127.0.0.1",
            "quarkus.http.port": self.port,
            "apicurio.datasource.url": f"jdbc:h2:file:{self.home}/registry",
            "apicurio.rules.global.compatibility": "BACKWARD",
        }
        return [
            *(java(), *QUICK, *(f"-D{name}={value}" for name, value in settings.items())),
            *("-jar", str(app() / f"apicurio-registry-app-{VERSION}-runner.jar")),
        ]

    def ready(self, said: bytes) -> bool:
        try:
            return httpx.get(f"{self.url}/subjects", timeout=1, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


def why_not() -> str | None:
    """What this machine lacks to run it, or None."""
    if not java() or java_version() < OLDEST_JAVA:
        return f"Apicurio needs java {OLDEST_JAVA}"
    return None if _folder().is_dir() or shutil.which("mvn") else "no mvn to fetch Apicurio with"


def app() -> Path:
    """The unpacked program, fetched once. It gets its name when complete."""
    with (cache() / "apicurio.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may begin at one time
        if not _folder().is_dir():
            _fetch()
    return _folder()


def _folder() -> Path:
    return cache() / f"apicurio-{VERSION}"


def _fetch() -> None:
    partial = cache() / "apicurio.partial"
    shutil.rmtree(partial, ignore_errors=True)
    mvn = ["mvn", "-B", "-q", "dependency:copy", f"-Dartifact={_ARTIFACT}", f"-DoutputDirectory={partial}"]
    done = run(mvn, FETCH_DEADLINE)
    if done.returncode:
        raise BrokerUnavailableError(f"mvn could not fetch Apicurio:\n{tail(done.stdout)}")
    (archive,) = partial.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    archive.unlink()
    partial.rename(_folder())


needs_apicurio = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
