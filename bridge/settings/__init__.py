"""The bridge's settings: ``load_settings`` returns a frozen ``Settings``, or raises an error that lists every fault."""

from bridge.settings.kafka import KafkaSettings
from bridge.settings.load import SettingsError, load_settings, sources
from bridge.settings.model import (
    KEYS,
    AsmSettings,
    OpsSettings,
    SchemaRegistrySettings,
    Settings,
    TopicsSettings,
    lookup,
)
from bridge.settings.show import masked, secret_values, shown, shown_default

__all__ = [
    "KEYS",
    "AsmSettings",
    "KafkaSettings",
    "OpsSettings",
    "SchemaRegistrySettings",
    "Settings",
    "SettingsError",
    "TopicsSettings",
    "load_settings",
    "lookup",
    "masked",
    "secret_values",
    "shown",
    "shown_default",
    "sources",
]
