"""Settings as shown to people and programs: secrets masked."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bridge.settings.model import DURATIONS, KEYS, Settings, lookup
from bridge.settings.types import proxy_password, show_duration

MASK = "********"


def secret_values(settings: Settings) -> list[str]:
    """The secrets among the settings, which must never be shown."""
    values = [lookup(settings, key) for key in KEYS]
    secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
    return [*secrets, *proxy_password(settings.asm.proxy)]


def masked(settings: Settings, key: str) -> Any:
    """The value as JSON, durations in seconds; a secret that is set as asterisks."""
    value = lookup(settings, key)
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return str(value)
    if key == "asm.proxy":
        for password in proxy_password(value):
            value = value.replace(f":{password}@", f":{MASK}@")
    return value


def shown(settings: Settings, key: str) -> str:
    """The value as text that you could set; empty if it is not set."""
    return _text(key, masked(settings, key))


def shown_default(key: str) -> str:
    return _text(key, KEYS[key].default)


def _text(key: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return show_duration(value) if key in DURATIONS else str(value)
