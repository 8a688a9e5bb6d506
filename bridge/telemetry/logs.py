"""One log for the bridge and its libraries, on standard error: text on a terminal, otherwise one JSON
object per line.
"""

import logging
import sys
import time
from collections.abc import Hashable, Iterable
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from bridge.settings.show import MASK

_HARMLESS = (
    "NotLeaderForPartition",
    "NotLeaderOrFollower",
    "CoordinatorNotAvailable",
    "LeaderNotAvailable",
    "Unable to update metadata",
    "Topic not found in cluster metadata",
    "is not available during auto-create initialization",
)
"""Messages that aiokafka logs in the first seconds of a topic or group, before it recovers by itself."""

CONVENTIONS = {
    "partition": "messaging.destination.partition.id",
    "topic": "messaging.destination.name",
    "group": "messaging.consumer.group.name",
    "offset": "messaging.kafka.offset",
    "error": "error.message",
    "exception": "exception.stacktrace",
}
"""Our short names for fields that OpenTelemetry's semantic conventions define."""
_REPEATING = ("aiokafka", "opentelemetry")
_LIBRARY_REPEATS = 30.0
_QUIET, _REMEMBERED = 60.0, 1000


class RepeatFilter:
    """Whether a failure should be logged: it differs from the last one, or recurs after a minute without it."""

    def __init__(self) -> None:
        self._last, self._at = "", 0.0

    def is_new(self, error: Exception, now: float | None = None) -> bool:
        """``now``: monotonic seconds."""
        now, text = time.monotonic() if now is None else now, repr(error)
        new = text != self._last or now - self._at > _QUIET
        self._last, self._at = text, now
        return new


class Once:
    """Whether something is logged for the first time; it is forgotten after a thousand other things."""

    def __init__(self) -> None:
        self._said: set[Hashable] = set()

    def is_new(self, what: Hashable) -> bool:
        if what in self._said:
            return False
        if len(self._said) >= _REMEMBERED:
            self._said.clear()
        self._said.add(what)
        return True


def setup_logging(
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 - the setting's name
    level: str = "info",
    secrets: Iterable[str] = (),
) -> None:
    """Routes structlog and the standard library's logging through one chain that masks ``secrets`` in every text."""
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    renderer: Processor = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=30
        )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,  # before the masking: an exception's text may hold a secret, too
        _short if console else _conventional,
        Masking(secrets),
        renderer,
    ]
    _install(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=final), level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared[:3],
            shared[4],
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _short(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """For people: an error's text, or the name of its class if it has none."""
    if isinstance(error := event.get("error"), BaseException):
        event["error"] = str(error) or type(error).__name__
    return event


def _conventional(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """For programs: fields under OpenTelemetry's names, and the class of an error beside its text."""
    if isinstance(error := event.get("error"), BaseException):
        event["error.type"] = type(error).__name__
    if "partition" in event:
        event["partition"] = str(event["partition"])  # there it is text, as not only Kafka has partitions
    return {CONVENTIONS.get(key, key): value for key, value in _short(logger, name, event).items()}


def _install(formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(_demote)
    handler.addFilter(_LibraryRepeatFilter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # Routine work of libraries matters only when you look for a fault; below info, aiokafka logs the bytes that it
    # fetches: a token among them, where one was written to the registry. httpx logs each request at info.
    for name in ("aiokafka", "httpx", "uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.WARNING)


def _demote(record: logging.LogRecord) -> bool:
    """Lowers harmless lines of aiokafka to debug, which drops them unless debug is logged."""
    error = record.exc_info[1] if record.exc_info else None
    if record.name == "asyncio" and type(error).__module__.startswith("aiokafka"):
        # A batch that a fenced producer leaves behind: the failure itself is logged where the partition is lost.
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    if record.name.startswith("aiokafka") and record.levelno > logging.DEBUG:
        text = record.getMessage()
        if any(harmless in text for harmless in _HARMLESS):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return record.levelno >= logging.getLogger().level


class _LibraryRepeatFilter:
    """Passes a line that a library repeats once in 30 s: in an outage aiokafka connects 200 times per second."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], float] = {}

    def __call__(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(_REPEATING) or record.levelno < logging.WARNING:
            return True
        place = record.pathname, record.lineno
        if record.created - self._last.get(place, 0.0) < _LIBRARY_REPEATS:
            return False
        self._last[place] = record.created
        return True


class Masking:
    """A processor that masks the given secrets in every text of an event, however deep."""

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first, so that a secret which contains another one goes whole.
        self._secrets = sorted({secret for secret in secrets if secret}, key=len, reverse=True)

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return self.masked(event) if self._secrets else event

    def masked(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = value.replace(secret, MASK)
            return value
        if isinstance(value, dict):
            return {key: self.masked(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple | set):
            return [self.masked(inner) for inner in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        text = str(value)
        return self.masked(text) if any(secret in text for secret in self._secrets) else value
