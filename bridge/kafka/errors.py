"""The errors of Kafka. Other packages import aiokafka's errors from here, so that only this package
imports aiokafka.
"""

from collections.abc import Sequence
from typing import cast

from aiokafka.errors import (
    AuthenticationFailedError,
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    ProducerFenced,
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


def _missing(name: str, code: int) -> type[KafkaError]:
    """An error of Kafka's that aiokafka lacks, and would call UnknownError."""
    kind = type(name, (BrokerResponseError,), {"errno": code, "message": name, "description": name})
    return cast("type[KafkaError]", kafka_errors.setdefault(code, kind))


InvalidRecordError = _missing("InvalidRecordError", 87)
"""The broker, or a rule that it has (for example about schemas), refuses a record (KIP-467)."""
for _name, _code in (
    ("UnsupportedCompressionTypeError", 76),
    ("GroupMaxSizeReachedError", 81),
    ("FencedInstanceIdError", 82),
    ("UnstableOffsetCommitError", 88),
    ("ThrottlingQuotaExceededError", 89),
    ("ProducerFencedError", 90),
    ("UnknownTopicIdError", 100),
    ("InconsistentTopicIdError", 103),
    ("FencedMemberEpochError", 110),
    ("UnreleasedInstanceIdError", 111),
    ("UnsupportedAssignorError", 112),
    ("StaleMemberEpochError", 113),
    ("TransactionAbortableError", 120),
):
    _missing(_name, _code)

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


_ADVICE = {
    "FencedInstanceIdError": "another process has the same kafka.group_instance_id: give each process its own",
    "GroupMaxSizeReachedError": "the group has as many members as the brokers' group.max.size allows",
    "InconsistentGroupProtocolError": (
        "another program is in this group: stop it, or give one of the two another group (kafka.group_id)"
    ),
    "InvalidSessionTimeoutError": (
        "set kafka.session_timeout within the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms"
    ),
    "InvalidTransactionTimeout": "set the brokers' transaction.max.timeout.ms to at least 20000",
    "OffsetMetadataTooLargeError": "set the brokers' offset.metadata.max.bytes to at least 1024",
    "NotEnoughReplicas": (
        "fewer replicas are in sync than its min.insync.replicas: start the missing brokers, or set it lower"
    ),
}
"""What to do about an error of Kafka's, by its name or the beginning of that."""
FENCED = (
    "another process has taken over; if this recurs, an installation with another topics.prefix has the same "
    "kafka.group_id, or two processes have the same kafka.group_instance_id"
)
TWIN = "another process has the same kafka.group_instance_id ({}): give each process its own"


def advice_about(error: BaseException | str) -> str | None:
    """What to do about Kafka's error that the text names, if an administrator causes it."""
    return next((advice for name, advice in _ADVICE.items() if name in str(error)), None)


def advised(text: str) -> str:
    """The text, with what to do about Kafka's error that it names."""
    advice = advice_about(text)
    return f"{text}: {advice}" if advice and advice not in text else text


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
    if isinstance(error, ProducerFenced):  # aiokafka's text advises to change a setting that the bridge does not have
        return FENCED
    text = str(error)
    if isinstance(error, KafkaError | TimeoutError):
        return advised(text) or "no answer in time"
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
