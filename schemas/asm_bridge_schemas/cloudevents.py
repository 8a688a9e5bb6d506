"""CloudEvents 1.0 in structured mode: an event with its attributes around it, as ``application/cloudevents+json``."""

import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from asm_bridge_schemas.scalars import ProtoJSONError, expected
from asm_bridge_schemas.texts import decode

CONTENT_TYPE = "application/cloudevents+json"
_PREFIX = "application/cloudevents"
_SPECVERSION = "1.0"
_REQUIRED = ("specversion", "id", "source", "type")


class StructuredEvent(NamedTuple):
    """The contents of a record in structured mode. ``id`` and ``source`` are known even if there is a ``problem``.

    ``data`` is decoded JSON, or bytes of the type that ``content_type`` names.
    """

    id: str | None = None
    source: str | None = None
    data: Any = None
    content_type: str | None = None
    problem: str | None = None


def media_type(content_type: str | None) -> str:
    """A content-type in lower case and without its parameters; empty if there is none."""
    return (content_type or "").partition(";")[0].strip().lower()


def unwrap(value: bytes | None, content_type: str | None) -> StructuredEvent | None:
    """The CloudEvent in a record, None if its content-type does not name one. Never raises."""
    kind = media_type(content_type)
    if not kind.startswith(_PREFIX):
        return None
    if kind != CONTENT_TYPE:
        return StructuredEvent(problem=f"the content-type {kind} is not supported, only {CONTENT_TYPE}, one a record")
    try:
        if value is None:
            raise ProtoJSONError("the value is null")
        envelope = decode(value)
        if not isinstance(envelope, Mapping):
            raise expected("a CloudEvent", envelope)
    except ProtoJSONError as error:
        return StructuredEvent(problem=str(error))
    event = StructuredEvent(
        id=_text(envelope, "id"), source=_text(envelope, "source"), content_type=_text(envelope, "datacontenttype")
    )
    try:
        _check(envelope)
        return event._replace(data=_data(envelope))
    except ProtoJSONError as error:
        return event._replace(problem=f"not a CloudEvent: {error}")


def _text(envelope: Mapping[str, Any], name: str) -> str | None:
    value = envelope.get(name)
    return value if isinstance(value, str) and value else None


def _check(envelope: Mapping[str, Any]) -> None:
    for name in _REQUIRED:
        if envelope.get(name) in (None, ""):
            raise ProtoJSONError(f"{name} is missing")
    for name in (*_REQUIRED, "datacontenttype"):
        if not isinstance(envelope.get(name), str | None):
            raise ProtoJSONError(f"{name} is not a string")
    if envelope["specversion"] != _SPECVERSION:
        raise ProtoJSONError(f"specversion is {envelope['specversion'][:20]}, only {_SPECVERSION} is supported")


def _data(envelope: Mapping[str, Any]) -> Any:
    data, encoded = envelope.get("data"), envelope.get("data_base64")
    if encoded is None:
        if data is None:
            raise ProtoJSONError("it has neither data nor data_base64")
        return data
    if data is not None:
        raise ProtoJSONError("it has both data and data_base64")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ProtoJSONError(f"data_base64 is not base64 ({error})") from None
