"""The interface of a test broker."""

from abc import ABC, abstractmethod
from typing import ClassVar

START_DEADLINE = 60.0
"""Seconds that a broker may take to start; a loaded machine needs 10, an idle one 3."""


class BrokerUnavailableError(RuntimeError):
    """This machine cannot run that broker; the text says why, with the end of the broker's log if it got that far."""


class BrokerNotOursError(RuntimeError):
    """The broker was not started here: it cannot be killed, paused or restarted."""


class Broker(ABC):
    """One Kafka broker on this machine.

    ``start`` and ``restart`` return when it serves requests and raise BrokerUnavailableError otherwise. All methods
    block: an async test calls them with ``asyncio.to_thread``. ``kill`` is ``kill -9``; ``restart`` ends it if it
    still runs and keeps the address, and the data if ``durable``. On a broker that was given by its address, these
    four raise BrokerNotOursError.
    """

    name: ClassVar[str]
    transactions: bool = True
    """Idempotent and transactional producers, LogAppendTime, commit metadata: features that real Kafka has and Tansu
    lacks."""
    durable: bool = True
    bootstrap_servers: str

    @property
    @abstractmethod
    def description(self) -> str:
        """A few words, e.g. ``Apache Kafka 4.1.0 (maven jars, java 17)``."""

    @abstractmethod
    def start(self) -> str:
        """Starts the broker and returns its ``host:port``."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the broker for good and removes its data; safe to repeat."""

    @abstractmethod
    def kill(self) -> None: ...

    @abstractmethod
    def restart(self) -> None: ...

    @abstractmethod
    def pause(self) -> None: ...

    @abstractmethod
    def resume(self) -> None: ...
