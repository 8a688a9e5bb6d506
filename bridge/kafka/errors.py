"""What Kafka can fail with. Other packages take aiokafka's errors from here, so that this package alone imports it."""

from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

__all__ = [
    "EXPECTED_ERRORS",
    "AuthenticationFailedError",
    "ClusterAuthorizationFailedError",
    "GroupAuthorizationFailedError",
    "KafkaError",
    "KafkaUnavailableError",
    "NoTransactionsError",
    "SaslAuthenticationFailed",
    "TopicAuthorizationFailedError",
    "TransactionalIdAuthorizationFailed",
    "UnreadableRecordsError",
    "UnsupportedSaslMechanismError",
]


class KafkaUnavailableError(KafkaError):  # type: ignore[misc]
    """Kafka cannot be reached, does not let us in, or lacks a topic. The text says where, and what to check."""

    def __str__(self) -> str:
        """The text alone: aiokafka would put the class's name before it."""
        return RuntimeError.__str__(self)


class NoTransactionsError(KafkaError):  # type: ignore[misc]
    """The broker does not support transactions, which ``exactly_once`` needs."""


class UnreadableRecordsError(KafkaError):  # type: ignore[misc]
    """aiokafka failed over what a fetch brought, with an error that is not one of Kafka's; the text says which."""


EXPECTED_ERRORS = (KafkaError, OSError, TimeoutError)
"""What an outage of Kafka raises. Of anything else the log should have the stack."""
