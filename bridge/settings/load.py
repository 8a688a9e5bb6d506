"""Reads the sources of settings, in order, and reports all faults in them at once."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import TomlConfigSettingsSource

from bridge.printable import printable
from bridge.settings.model import KEYS, SECRETS, SECTIONS, Settings
from bridge.settings.types import exists, expanded

PREFIX = "ASM_BRIDGE_"
CONFIG = "ASM_BRIDGE_CONFIG"
_SERVICE_LINK = re.compile(
    r"ASM_BRIDGE_(PORT|SERVICE_).*|.*_SERVICE_(HOST|PORT|PORT_.*)|.*_PORT_\d+_(TCP|UDP|SCTP)(_.*)?"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")
"""Variables that orchestrators add to the environment for services whose names begin with asm-bridge. They are
recognized by name or, like ``ASM_BRIDGE_OPS_PORT``, by value."""


class SettingsError(Exception):
    """Settings that cannot be used; the text has one line for each fault."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class SettingValue:
    """A value from a source: the source, and the value's name there."""

    value: Any
    source: str
    name: str
    path: Path | None = None
    """The file of the secrets directory that it is the content of."""


@dataclass(slots=True)
class _ReadValues:
    """The values read from the sources so far; the first source to name a key wins."""

    given: dict[str, SettingValue] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, key: str, given: SettingValue) -> None:
        if key not in KEYS:
            self.problems.append(f"{printable(given.name)}: {_unknown(key)}")
        elif isinstance(given.value, str) and not _is_text(given.value):
            self.problems.append(f"{given.name}: is not UTF-8 text")
        elif given.value not in ("", None):
            self.given.setdefault(key, given)


def load_settings(config: Path | None = None, overrides: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; ``overrides`` is the command line, by key. Raises ``SettingsError``."""
    reading = _ReadValues()
    for key, value in (overrides or {}).items():
        reading.add(key, SettingValue(value, "command line", f"--{key}"))
    _read_environment(reading)
    file = _ReadValues(problems=reading.problems)
    _read_toml(file, config)
    _read_secrets(reading, reading.given.get("secrets_dir") or file.given.get("secrets_dir"))
    for key, given in file.given.items():
        reading.add(key, given)
    return _validated(reading)


def sources(settings: Settings) -> dict[str, str]:
    """The source of each key's value: ``default``, ``environment ASM_BRIDGE_X``, ``command line``, ..."""
    return {key: settings._sources.get(key, "default") for key in KEYS}


def _read_environment(reading: _ReadValues) -> None:
    names = {name.upper(): name for name in os.environ if name.upper().startswith(PREFIX)}
    names = {upper: name for upper, name in names.items() if not _is_service_link(upper, name) and upper != CONFIG}
    keys = {upper.removeprefix(PREFIX).lower().replace("__", "."): name for upper, name in names.items()}
    for key, name in keys.items():
        reading.add(key, SettingValue(os.environ[name], f"environment {name}", name))


def _is_service_link(upper: str, name: str) -> bool:
    by_value = upper.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(os.environ[name]) is not None
    return by_value or _SERVICE_LINK.fullmatch(upper) is not None


def _read_toml(reading: _ReadValues, config: Path | None) -> None:
    named = config or (Path(os.environ[CONFIG]) if os.environ.get(CONFIG) else None)
    path = named or Path("asm-bridge.toml")
    if named is None and not path.exists():
        return
    if not exists(path, Path.is_file):
        option = "--config" if config else CONFIG
        reading.problems.append(f"{option if named else path}: {path} does not exist or is not a file")
        return
    try:
        values = TomlConfigSettingsSource(Settings, path).toml_data
        found = [*_flat(values)]
    except (ValueError, RecursionError, OSError) as error:  # also for numbers that are too long for an int
        reading.problems.append(f"{path}: cannot be read: {_text_of(error)}")
        return
    for key, value in found:
        reading.add(key, SettingValue(value, f"file {path}", f"{key} in {path}"))


def _is_text(value: str) -> bool:
    """Whether a value is UTF-8: Python keeps other bytes of the environment as half surrogate pairs."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _text_of(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return (error.strerror or "") if isinstance(error, OSError) else str(error)


def _read_secrets(reading: _ReadValues, directory: SettingValue | None) -> None:
    """Reads files that are named like pydantic-settings' nested secrets: ``asm_bridge_kafka__sasl_password``.

    All others are the sessions' token files, of which there may be thousands: they are not opened.
    """
    folder = None if directory is None else expanded(Path(str(directory.value)))
    if folder is None or not exists(folder, Path.is_dir) or not os.access(folder, os.R_OK | os.X_OK):
        return  # the setting's own check says what is wrong with it
    for path in sorted(folder.iterdir()):
        if not path.name.lower().startswith(PREFIX.lower()) or not path.is_file():
            continue
        name = f"{path.name} in the secrets directory"
        key = path.name.lower().removeprefix(PREFIX.lower()).replace("__", ".")
        try:
            reading.add(key, SettingValue(path.read_text(encoding="utf-8").strip(), "secrets directory", name, path))
        except (OSError, UnicodeDecodeError) as error:
            reading.problems.append(f"{name}: cannot be read: {_text_of(error)}")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and prefix + name not in KEYS:
            yield from _flat(value, f"{prefix}{name}.")
        elif not (isinstance(value, dict) and prefix + name in SECTIONS):
            yield prefix + name, value


def _unknown(key: str) -> str:
    if key in SECTIONS:
        example = f"{key}.{next(iter(SECTIONS[key].model_fields))}"
        return f"is a section, not a setting: set its keys, such as {example} ({env_name(example)})"
    section, _, name = key.replace("-", "_").rpartition(".")
    names = {known.rpartition(".")[2]: known for known in KEYS if known.rpartition(".")[0] == section}
    near = [names[found] for found in difflib.get_close_matches(name, names, n=1)]
    near = near or [known for known in KEYS if known.replace(".", "_") == key or known.rpartition(".")[2] == name]
    near = near or difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)
    hint = f"did you mean {near[0]} ({env_name(near[0])})?" if near else "`asm-bridge config` lists all settings"
    return f"no such setting; {hint}"


def env_name(key: str) -> str:
    """``kafka.group_id`` -> ``ASM_BRIDGE_KAFKA__GROUP_ID``."""
    return PREFIX + key.upper().replace(".", "__")


def _validated(reading: _ReadValues) -> Settings:
    nested: dict[str, Any] = {}
    for key, given in reading.given.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = given.value
    settings, wrong = None, set[str]()
    try:
        settings = Settings(**nested)
    except ValidationError as error:
        wrong = {_key(one["loc"]) for one in error.errors()}
        reading.problems += [_line(reading, _key(one["loc"]), _text(one)) for one in error.errors()]
    between = _between_keys(nested, wrong)
    reading.problems += [_line(reading, key, text) for key, text in between if key not in wrong]
    if settings is None or reading.problems:
        raise SettingsError(reading.problems)
    settings._sources.update({key: given.source for key, given in reading.given.items()})
    files = {key: given.path for key, given in reading.given.items() if given.path is not None}
    settings.kafka.read_again({key.removeprefix("kafka."): path for key, path in files.items()})
    return settings


def _between_keys(nested: dict[str, Any], wrong: set[str]) -> Iterator[tuple[str, str]]:
    """Faults of combinations of keys, mostly in one section; keys that are wrong by themselves count as not set."""
    for name, section in SECTIONS.items():
        if f"{name}.security_protocol" in wrong:  # everything between keys there depends on it
            continue
        sound = {key: value for key, value in nested.get(name, {}).items() if f"{name}.{key}" not in wrong}
        yield from ((f"{name}.{key}", text) for key, text in section(**sound).problems())
    encoding = nested.get("records", {}).get("encoding")
    if nested.get("schema_registry", {}).get("url") and encoding == "msgpack":
        yield "records.encoding", "must be json with schema_registry.url: the registry's schemas are JSON Schemas"


def _key(location: tuple[int | str, ...]) -> str:
    """The key at fault, without what pydantic adds behind it (members of a union)."""
    names = [str(name) for name in location]
    return ".".join(names[:2]) if names[0] in SECTIONS else names[0]


def _line(reading: _ReadValues, key: str, text: str) -> str:
    given = reading.given.get(key)
    return f"{given.name if given else key}: {text}"


def _text(error: ErrorDetails) -> str:
    """The text about an error: what is wrong and what to do. It has the value only if that cannot be a secret."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected']}{_shown(error)}"
    if kind in _BOUNDS:
        return f"must be {_BOUNDS[kind].format(**context)}{_shown(error)}"
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind]}{_shown(error)}"
    return error["msg"].replace("Input should be", "must be")


_BOUNDS = {
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}
_EXPECTED = {
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "text (in TOML: in quotes)",
    "path_type": "a path (in TOML: in quotes)",
    "string_too_short": "some text",
}


def _shown(error: ErrorDetails) -> str:
    value, key = error["input"], _key(error["loc"])
    plain = isinstance(value, str | int | float) and len(str(value)) <= 40
    return f", not {value!r}" if plain and key not in SECRETS and key != "asm.proxy" else ""
