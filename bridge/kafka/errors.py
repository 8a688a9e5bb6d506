"""The errors of Kafka. Other packages import aiokafka's errors from here, so that only this package
imports aiokafka.
"""

from collections.abc import Sequence

from aiokafka.errors import (
    AuthenticationFailedError,
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
    kafka_errors,
)

from bridge.kafka.outgoing import Outgoing

__all__ = [  # aiokafka's that are imported from here
    "AuthenticationFailedError",
    "ClusterAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "InvalidTimestampError",
    "KafkaError",
    "SaslAuthenticationFailed",
    "TopicAuthorizationFailedError",
    "TransactionalIdAuthorizationFailed",
    "UnsupportedSaslMechanismError",
]


class InvalidRecordError(BrokerResponseError):  # type: ignore[misc]
    """The broker, or a rule that it has (for example about schemas), refuses a record (KIP-467). aiokafka lacks the
    code."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker found a record invalid."


kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)

REFUSED_RECORDS = (
    InvalidRecordError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    InvalidTimestampError,
    PolicyViolationError,
)
"""Kafka's answers to a batch because of a record in it."""

_NOT_AUTHORISED = (
    (TopicAuthorizationFailedError, "{verb}"),
    (GroupAuthorizationFailedError, "use the group"),
    (TransactionalIdAuthorizationFailed, "use the transactional id"),
    (ClusterAuthorizationFailedError, "write to this cluster without a transaction"),
)

_REFUSALS = (AuthenticationFailedError, *(kind for kind, _ in _NOT_AUTHORISED))


def describe(error: BaseException, verb: str = "write") -> str:
    """Says in a few words what went wrong while writing (or doing what ``verb`` says), and with which of Kafka's
    objects."""
    verb = getattr(error, "verb", verb)
    objects = error.args[0] if error.args and isinstance(error.args[0], set) else error.args[:1]
    for kind, refused in _NOT_AUTHORISED:
        if isinstance(error, kind):
            return f"not authorised to {refused.format(verb=verb)} {', '.join(sorted(map(str, objects)))}".rstrip()
    if isinstance(error, InvalidTimestampError):
        return "Kafka refuses a record because its time is too far from Kafka's: set this machine's clock with NTP"
    text = str(error)
    if isinstance(error, KafkaError | TimeoutError):
        return text or "no answer in time"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_refusal(error: BaseException | None) -> bool:
    """Whether a retry is useless until something has been changed."""
    return isinstance(error, (*_REFUSALS, RefusedRecordsError))


class _PlainError(KafkaError):  # type: ignore[misc]
    def __str__(self) -> str:
        """The text alone: aiokafka would put the class's name before it."""
        return RuntimeError.__str__(self)


class KafkaUnavailableError(_PlainError):
    """Kafka is unreachable, refuses the login, or lacks a topic. The text says where, and what to check."""


class LoginError(KafkaUnavailableError):
    """There is no token, or no certificate, to log in to Kafka with. The text says why, and what to check."""


class NoTransactionsError(KafkaError):  # type: ignore[misc]
    """The broker does not support transactions, which ``exactly_once`` needs."""


class RefusedRecordsError(_PlainError):
    """Kafka refuses a batch because of a record in it. ``topic``: its full name; ``messages``: the batch, of which one
    message is refused, or, with ``every``, any message would be."""

    def __init__(
        self, topic: str = "", why: str = "", messages: Sequence[Outgoing] = (), *, every: bool = False
    ) -> None:
        super().__init__(f"{topic} refuses {'every' if every else 'a'} record: {why}")
        self.topic, self.why, self.messages = topic, why, messages


class HeldBackError(_PlainError):
    """A transaction that stays open holds back what is to be read; the text says where, and since when."""


class UnreadableRecordsError(KafkaError):  # type: ignore[misc]
    """aiokafka failed to decode fetched records with an error that is not one of Kafka's; the text says which."""


EXPECTED_ERRORS = (KafkaError, OSError, TimeoutError)
"""The errors of an outage of Kafka."""


def stack_of(error: Exception) -> Exception | None:
    """The ``exc_info`` of an error's line in the log: none for an outage."""
    return None if isinstance(error, EXPECTED_ERRORS) else error
