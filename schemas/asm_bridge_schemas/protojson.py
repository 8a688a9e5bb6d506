"""Protobuf's JSON mapping, in every shape a gateway (or a mock of one) prints.

What a message looks like is compiled once from the annotations of its Struct (``asm_bridge_schemas.asm``) into
closures: one that reads leniently what was received, one that reads strictly what is to be sent, and one that is
called where the first has failed, and gives up no more than the fields that cannot be read.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from functools import cache
from inspect import cleandoc
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from asm_bridge_schemas import odd
from asm_bridge_schemas.asm import Needed, OneOf, Shared, Wire
from asm_bridge_schemas.scalars import (
    BOOL,
    INT64,
    INT64_ID,
    STRING,
    TIMESTAMP,
    Codec,
    ProtoJSONError,
    Reader,
    TolerantReader,
    enum_codec,
    expected,
    short,
    string,
    timestamp,
)
from asm_bridge_schemas.texts import by_text, decode, decode_strictly, decode_tolerantly

__all__ = [
    "ProtoJSONError", "camel", "decode", "omit", "read", "read_strict", "report_unreadable_to", "schema", "timestamp",
    "without_omitted",
]  # fmt: skip

T = TypeVar("T", bound=msgspec.Struct)


def read(cls: type[T], data: bytes | Mapping[str, Any]) -> T:
    """Reads an answer of the service into a Struct: both naming styles, any form of int64 and enum, nulls and unknown
    fields.

    A field that cannot be read costs that field: it has its default (a time its text), and is reported. Raises
    ``ProtoJSONError`` for what is not JSON or not an object, where nothing that was given can be read, and where that
    which is ``Needed`` cannot.
    """
    try:
        value = _partly_decoded(cls, data) if isinstance(data, bytes) else data
        result: T = _lenient_message(cls)(value)
    except ProtoJSONError:
        return _read_tolerantly(cls, data)
    return result


Observer = Callable[[ProtoJSONError], object]
_observer: Observer = str


def report_unreadable_to(observer: Observer) -> None:
    """From now on, calls ``observer`` for each field of an answer that ``read`` cannot read."""
    global _observer  # noqa: PLW0603 - like a handler of the log: what reads answers need not know what counts
    _observer = observer


_omitted: frozenset[str] = frozenset()


def omit(names: Iterable[str]) -> None:
    """From now on ``read`` leaves out the fields of these names (of ``OMITTABLE``), in whatever message they are, as if
    the service had not sent them: nothing that is made of answers, digests included, depends on them.
    """
    global _omitted  # noqa: PLW0603 - as for the observer: what reads answers need not know what is published
    _omitted = frozenset(names)
    for compiled in (_fields, _lenient_message, _tolerant_message, _strict_message, _text, _decoder):
        compiled.cache_clear()


def without_omitted(value: Any) -> Any:
    """An event (as ``read_strict`` returns it) without the fields that are left out, for publication."""
    if not _omitted:
        return value
    if isinstance(value, dict):
        return {name: without_omitted(item) for name, item in value.items() if name not in _omitted}
    return [without_omitted(item) for item in value] if isinstance(value, list) else value


def _read_tolerantly(cls: type[T], data: bytes | Mapping[str, Any]) -> T:
    value = _partly_decoded(cls, odd.repaired(data), decode_tolerantly) if isinstance(data, bytes) else data
    unreadable: list[ProtoJSONError] = []
    result: T = _tolerant_message(cls)(value, unreadable)
    for error in unreadable:
        _observer(error)
    return result


def read_strict(cls: type[msgspec.Struct], data: bytes | Mapping[str, Any]) -> dict[str, Any]:
    """Normalises an event to be sent: the fields given, in snake_case, int64 as digits, enums as names, times in UTC.

    Null fields, and the vendor page's ``"1s"`` for times and ``"string"`` for numbers, are left out; an enum number
    that the list lacks stays one.
    Raises ``ProtoJSONError``, also for what the service would refuse: unknown fields, fields given twice, two members
    of a oneof.
    """
    value = decode(data) if isinstance(data, bytes) else data
    result: dict[str, Any] = _strict_message(cls)(value)
    return result


def schema(cls: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of what ``read_strict`` accepts for a message, with its messages as references into ``$defs``."""
    null = {"type": "null"}
    properties = {key: {"anyOf": [codec.schema, null]} for key, (_, codec, _) in _fields(cls).items()}
    described = {"description": cleandoc(cls.__doc__)} if cls.__doc__ else {}
    return {
        "title": cls.__name__,
        **described,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _partly_decoded(cls: type[msgspec.Struct], data: bytes, decode: Reader = decode_strictly) -> Any:
    """A message's JSON text, decoded except for what is ``Shared``, which stays text."""
    try:
        return _decoder(cls).decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # or what should be an object is none
        return decode(data)


@cache
def _decoder(cls: type[msgspec.Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_text(cls))


@cache
def _text(cls: type[msgspec.Struct]) -> Any:
    """The type as which a message's JSON text is decoded: any, or a Struct if some of it is ``Shared``."""
    texts = {key: codec.text for key, (_, codec, _) in _fields(cls).items()}
    if all(text is Any for text in texts.values()):
        return Any
    fields = [(key, text if text in (Any, msgspec.Raw) else text | None, msgspec.UNSET) for key, text in texts.items()]
    return msgspec.defstruct(cls.__name__, fields)


def camel(name: str) -> str:
    """The field's name in JSON, as protoc makes it."""
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


@cache
def _fields(cls: type[msgspec.Struct]) -> dict[str, tuple[str, Codec, str | None]]:
    """By either name of a field: its name, how it is read, its oneof."""
    fields = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        oneof = next((mark.name for mark in unwrap(hint)[1] if isinstance(mark, OneOf)), None)
        fields[name] = fields[camel(name)] = (name, _codec(hint), oneof)
    return fields


@cache
def _lenient_message(cls: type[msgspec.Struct]) -> Reader:
    readers = {key: (name, codec.lenient) for key, (name, codec, _) in _fields(cls).items() if name not in _omitted}

    def lenient(value: Any) -> msgspec.Struct:
        given = {}
        name = ""
        try:
            for key, item in _items(value):
                if item is not None and key in readers:
                    name, reader = readers[key]
                    given[name] = reader(item)
        except ProtoJSONError as error:
            error.under(name)
            raise
        return cls(**given)

    return lenient


@cache
def _tolerant_message(cls: type[msgspec.Struct]) -> TolerantReader:
    needed = {name for name, hint in get_type_hints(cls, include_extras=True).items() if Needed.HERE in unwrap(hint)[1]}
    fields = {key: (name, codec) for key, (name, codec, _) in _fields(cls).items() if name not in _omitted}

    def tolerant(value: Any, unreadable: list[ProtoJSONError]) -> msgspec.Struct:
        given: dict[str, Any] = {}
        error = None
        for key, item in _items(value):
            if item is None or key not in fields:
                continue
            name, codec = fields[key]
            result, failed = _tried(name, codec, item, unreadable)
            if failed is None:
                given[name] = result
            elif name in needed:
                raise failed
            else:
                error = failed
        if error is not None and not given:
            raise unreadable.pop()
        return cls(**given)

    return tolerant


@cache
def _strict_message(cls: type[msgspec.Struct]) -> Reader:
    fields = _fields(cls)

    def strict(value: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        chosen: dict[str, str] = {}
        for key, item in _mapping(value).items():
            if key not in fields:
                raise ProtoJSONError(f"unknown field {short(key)}")
            name, codec, oneof = fields[key]
            if item is None:
                continue
            if name in given:
                raise ProtoJSONError(f"{name} is given twice, also as {camel(name)}")
            if oneof is not None and chosen.setdefault(oneof, name) != name:
                raise ProtoJSONError(f"only one of {chosen[oneof]} and {name} may be given")
            given[name] = _at(name, codec.strict, item)
        return {name: item for name, item in given.items() if item is not None}

    return strict


def _codec(hint: Any) -> Codec:
    base, marks = unwrap(hint)
    codec = _plain_codec(base, marks)
    return by_text(codec) if Shared.BY_TEXT in marks else codec


def _plain_codec(base: Any, marks: tuple[Any, ...]) -> Codec:
    for mark in marks:
        if mark is Wire.INT64:
            return INT64_ID if base is str else INT64
        if mark is Wire.TIMESTAMP:
            return TIMESTAMP
        if isinstance(mark, type) and issubclass(mark, IntEnum):
            return enum_codec(mark)
    if get_origin(base) is list:
        return _list(_codec(get_args(base)[0]))
    if get_origin(base) is dict:
        return _map(_codec(get_args(base)[1]))
    if base is bool or base is str:
        return BOOL if base is bool else STRING
    return Codec(
        _lenient_message(base),
        _strict_message(base),
        _tolerant_message(base),
        base(),
        {"$ref": f"#/$defs/{base.__name__}"},
        _text(base),
    )


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The type without ``Annotated`` and ``| None``, and what ``Annotated`` says."""
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *found = get_args(hint)
        marks = tuple(found)
    members = [member for member in get_args(hint) if member is not type(None)]
    return (members[0] if type(None) in get_args(hint) else hint), marks


def _list(element: Codec) -> Codec:
    def lenient(value: Any) -> list[Any]:
        default, reader, array = element.default, element.lenient, _array(value)
        result: list[Any] = []
        try:
            for item in array:
                result.append(default if item is None else reader(item))  # noqa: PERF401 - its length is the index
        except ProtoJSONError as error:
            error.under(f"[{len(result)}]")
            raise
        return result

    def strict(value: Any) -> list[Any]:
        return [_at(f"[{index}]", element.strict, item) for index, item in enumerate(_array(value))]

    def tolerant(value: Any, unreadable: list[ProtoJSONError]) -> list[Any]:
        """One element alone is read as a list of it; an element that cannot be read is left out."""
        if type(value) is not list:
            return [element.tolerant(value, unreadable)]
        result = []
        for index, item in enumerate(value):
            read, failed = _tried(f"[{index}]", element, item, unreadable)
            if failed is None:
                result.append(read)
        if value and not result:
            raise unreadable.pop()
        return result

    return Codec(lenient, strict, tolerant, [], {"type": "array", "items": element.schema})


def _map(element: Codec) -> Codec:
    def lenient(value: Any) -> dict[str, Any]:
        default, reader = element.default, element.lenient
        items = _mapping(value).items()
        return {string(key): default if item is None else _at(f"[{short(key)}]", reader, item) for key, item in items}

    def strict(value: Any) -> dict[str, Any]:
        items = {string(key): _at(f"[{short(key)}]", element.strict, item) for key, item in _mapping(value).items()}
        return {key: item for key, item in items.items() if item is not None}

    def tolerant(value: Any, unreadable: list[ProtoJSONError]) -> dict[str, Any]:
        result = {}
        for key, item in _mapping(value).items():
            read, failed = _tried("[]", element, item, unreadable)
            if failed is None:
                result[key] = read
        return result

    return Codec(lenient, strict, tolerant, {}, {"type": "object", "additionalProperties": element.schema})


def _tried(step: str, codec: Codec, item: Any, unreadable: list[ProtoJSONError]) -> tuple[Any, ProtoJSONError | None]:
    """What is read of a part, or the error that it costs; ``step`` is put before the path of all that goes wrong in
    it."""
    before, result, failed = len(unreadable), None, None
    try:
        result = codec.default if item is None else codec.tolerant(item, unreadable)
    except ProtoJSONError as error:
        failed = error
        unreadable.append(error)
    for inside in unreadable[before:]:
        inside.under(step)
    return result, failed


def _at(step: str, reader: Reader, value: Any) -> Any:
    try:
        return reader(value)
    except ProtoJSONError as error:
        error.under(step)
        raise


def _mapping(value: Any) -> Mapping[str, Any]:
    if type(value) is not dict and not isinstance(value, Mapping):
        raise expected("an object", value)
    return value


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    """The fields given of a message, or of one that was decoded in part."""
    if isinstance(value, msgspec.Struct):
        fields = zip(value.__struct_fields__, msgspec.structs.astuple(value), strict=True)
        return [(name, item) for name, item in fields if item is not msgspec.UNSET]
    return _mapping(value).items()


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        raise expected("an array", value)
    return value
