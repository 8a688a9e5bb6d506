"""The headers of Kafka records that the bridge writes and reads, each name defined once."""

from collections.abc import Iterable

CONTENT_TYPE = "content-type"
EXPIRES_AT = "expires_at"

CE_SPECVERSION = "ce_specversion"
CE_TYPE = "ce_type"
CE_DATASCHEMA = "ce_dataschema"
CE_ID = "ce_id"
CE_SOURCE = "ce_source"
CE_SUBJECT = "ce_subject"
CE_TIME = "ce_time"
"""CloudEvents' attributes in Kafka's binary mode."""

ERROR_CODE = "asm_error_code"
ERROR = "asm_error"
"""Headers of a dead letter: why it is one, as a code and as a text."""
ORIGIN = "asm_origin"
"""A header of a dead letter, and of an event moved to its agent's partition: the ``RecordId`` of the original."""
RECEIVED_AT = "asm_received_at"
"""A header of an event that was moved to its agent's partition: when it first arrived, in RFC 3339."""
READABLE_AT = "asm_readable_at"
"""A header of a moved event that an open transaction had held back: until when, in RFC 3339."""
INBOX = "asm_inbox"
"""A header of an agent's state: the id of the inbox (KIP-516) to which its offsets belong."""

MOVED = frozenset({ORIGIN, RECEIVED_AT, READABLE_AT})
"""The headers that the bridge adds to an event that it moves."""
OWN = MOVED | {ERROR_CODE, ERROR}
"""The headers that the bridge adds to a record's own, and removes before it adds them again."""


def texts(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers that have a value, as text, by their names in lower case: a gateway may have changed these. Bytes
    that are not UTF-8 are shown as ``\\xff``."""
    return {name.lower(): value.decode(errors="backslashreplace") for name, value in headers if value is not None}
