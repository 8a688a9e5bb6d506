"""The choice of a broker: the given one, or the best that this machine can run."""

from bridge.testing.brokers import docker, maven
from bridge.testing.brokers.base import Broker, BrokerUnavailableError
from bridge.testing.brokers.docker import DockerBroker
from bridge.testing.brokers.embedded import EmbeddedBroker
from bridge.testing.brokers.external import ExternalBroker
from bridge.testing.brokers.maven import MavenBroker

NAMED: dict[str, type[Broker]] = {kind.name: kind for kind in (DockerBroker, MavenBroker, EmbeddedBroker)}
"""Best first."""


def start_broker(wanted: str | None) -> tuple[Broker, list[str]]:
    """Starts ``wanted`` (``docker``, ``maven``, ``embedded`` or ``HOST:PORT``), or the best that is available if that
    is None. Returns it with the reasons why no better one was chosen. Raises BrokerUnavailableError if none starts.
    """
    reasons: list[str] = []
    for broker in candidates(wanted, reasons):
        try:
            broker.start()
        except BrokerUnavailableError as error:
            reasons.append(str(error))
            continue
        return broker, reasons
    raise BrokerUnavailableError("no Kafka broker runs on this machine: " + "; ".join(reasons))


def candidates(wanted: str | None, reasons: list[str]) -> list[Broker]:
    """The brokers to try, best first; the reasons against the others are added to ``reasons``."""
    if wanted:
        return [named(wanted)]
    lacks = {"docker": docker.why_not(), "maven": maven.why_not(), "embedded": None}
    reasons += [f"{name}: {why}" for name, why in lacks.items() if why]
    return [kind() for name, kind in NAMED.items() if not lacks[name]]


def named(wanted: str) -> Broker:
    if wanted in NAMED:
        return NAMED[wanted]()
    host, _, port = wanted.rpartition(":")
    if not host or not port.isdecimal():
        raise BrokerUnavailableError(f"--broker {wanted}: expected {', '.join(NAMED)} or HOST:PORT")
    return ExternalBroker(wanted)
