"""One broker for the whole run, chosen by --broker or by what the machine has."""

import os
import secrets
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from bridge.testing.brokers import Broker, BrokerNotOursError, BrokerUnavailableError, start_broker
from tests.support import SOURCES

os.environ["PYTHONPATH"] = SOURCES

# Test files run side by side: how long an example takes says nothing. `few` is for the other Pythons of `make unit`.
settings.register_profile("shared", deadline=None)
settings.register_profile("few", parent=settings.get_profile("shared"), max_examples=20)
settings.load_profile("shared")

RUNNING = pytest.StashKey[Broker]()
REASONS = pytest.StashKey[list[str]]()
WITHOUT_TRANSACTIONS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--broker",
        default=os.environ.get("BROKER") or None,
        help="docker, maven, embedded or HOST:PORT (default: $BROKER, else the best of the three that runs here)",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of ``-n auto``: most tests on a broker wait, so one process more than there are processors; at most four, as
    each that needs a broker starts its own."""
    return min((os.cpu_count() or 1) + 1, 4)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the most tests on a broker come first: of files that run side by side, the last must not be a long
    one."""
    sizes = Counter(item.path for item in items if needs_broker(item))
    items.sort(key=lambda item: -sizes[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """The broker starts here, outside any test's time limit, if a selected test needs it."""
    if session.config.option.collectonly or not any(map(needs_broker, session.items)):
        return
    try:
        broker, reasons = start_broker(session.config.getoption("broker"))
    except BrokerUnavailableError as error:
        pytest.exit(str(error), returncode=1)
    session.config.add_cleanup(broker.stop)
    session.config.stash[RUNNING], session.config.stash[REASONS] = broker, reasons
    session.config.stash[WITHOUT_TRANSACTIONS] = skip_without_transactions(session.items, broker)


def needs_broker(item: pytest.Item) -> bool:
    return "broker" in getattr(item, "fixturenames", ()) or any(map(item.get_closest_marker, ("kafka", "transactions")))


def skip_without_transactions(items: list[pytest.Item], broker: Broker) -> list[str]:
    """Marks tests that need what the broker lacks. Returns their names."""
    if broker.transactions:
        return []
    skipped = [item for item in items if item.get_closest_marker("transactions")]
    for item in skipped:
        item.add_marker(pytest.mark.skip(reason=f"{broker.description} has no transactions"))
    return [item.nodeid for item in skipped]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that kills or pauses the broker is skipped with a broker that the run did not start."""
    try:
        yield
    except BrokerNotOursError as error:
        pytest.skip(str(error))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return broker_lines(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in broker_lines(config):
        terminalreporter.write_line(line)
    broker, skipped = config.stash.get(RUNNING, None), config.stash.get(WITHOUT_TRANSACTIONS, [])
    if broker and skipped:
        terminalreporter.write_line(
            f"{len(skipped)} tests were skipped because {broker.description} has no transactions:"
        )
        for name in skipped:
            terminalreporter.write_line(f"  {name}")


def broker_lines(config: pytest.Config) -> list[str]:
    broker = config.stash.get(RUNNING, None)
    if broker is None:
        return []
    reasons = "; ".join(reason.splitlines()[0] for reason in config.stash[REASONS])
    return [f"broker: {broker.description}" + (f" [{reasons}]" if reasons else "")]


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """The broker of this run, started. A test that kills or pauses it has it running again at its end."""
    return pytestconfig.stash[RUNNING]


@pytest.fixture
def bootstrap_servers(broker: Broker) -> str:
    return broker.bootstrap_servers


@pytest.fixture
def topics_prefix() -> str:
    """A prefix of topics, group ids and transactional ids that no other test has, such as ``t3f9a7c12.``"""
    return f"t{secrets.token_hex(4)}."


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate authority, and certificates by it: ``good``, ``other`` (host), ``old``."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)

    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    openssl(
        f"req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ours -addext basicConstraints=critical,CA:TRUE"
    )
    for name, host, days in (
        ("good", "IP:127.0.0.1", 2),
        ("other", "DNS:other.example", 2),
        ("old", "IP:127.0.0.1", -1),
    ):
        (folder / "extensions").write_text(f"subjectAltName={host}\nbasicConstraints=CA:FALSE\n")
        openssl(f"req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}")
        signed = f"-CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile extensions"
        openssl(f"x509 -req -in {name}.csr -out {name}.pem {signed}")
    return folder
