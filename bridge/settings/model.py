"""Every setting: its key, type, default and meaning. No other part of the program repeats them."""

from collections.abc import Iterator
from functools import partial
from operator import attrgetter
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, PrivateAttr, SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from bridge.settings.kafka import KafkaSettings
from bridge.settings.section import Problem, Section, Text, setting
from bridge.settings.types import (
    FOR_EVER,
    BaseUrl,
    Count,
    Directory,
    File,
    Interval,
    Listen,
    NotNegative,
    Omitted,
    Positive,
    Prefix,
    ProxyUrl,
    RegistryUrl,
    Retention,
    Source,
    host_port,
    is_duration,
    is_loopback,
    show_host_port,
    ssl_context,
)


class AsmSettings(Section):
    base_url: BaseUrl = setting("https://api.cbf.tcn.com", "Address of the region's ASM service.")
    token: SecretStr | None = setting(None, "Bearer token for sessions that name none.")
    ca_file: File | None = setting(None, "PEM file of certificate authorities to trust in addition to the system's.")
    proxy: ProxyUrl | None = setting(None, "Proxy for requests to the service, e.g. http://proxy:3128.")
    connect_timeout: Positive = setting(5.0, "Timeout for opening a connection.")
    request_timeout: Positive = setting(10.0, "Timeout for a request.")
    max_connections: Count = setting(512, "Maximum number of connections to the service.")
    max_connection_age: Positive = setting(300.0, "Age at which a connection is replaced by a new one.")
    http2: bool = setting(True, "Use HTTP/2 if the service offers it.")
    rate_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = setting(
        None, "Maximum polls per second to the host, over all sessions of a process."
    )
    max_retry_after: Positive = setting(60.0, "Longest time to wait because of a Retry-After.")
    allow_http: bool = setting(
        False, "Allow asm.base_url to be plain http to another machine (tokens are sent unencrypted)."
    )

    def transport_arguments(self) -> dict[str, Any]:
        """The arguments for connections to the service."""
        names = ("proxy", "connect_timeout", "request_timeout", "max_connections", "max_connection_age", "http2")
        return {"new_tls": partial(ssl_context, self.ca_file), **self.model_dump(include=set(names))}

    def problems(self) -> Iterator[Problem]:
        url = urlsplit(self.base_url)
        if url.scheme == "http" and not self.allow_http and not is_loopback(url.hostname or ""):
            yield (
                "base_url",
                "is plain http to another machine, which exposes the tokens: use https, or set asm.allow_http",
            )


class PollSettings(Section):
    interval: Interval = setting(1.0, "Time between two polls of a session without an interval of its own.")


class TopicsSettings(Section):
    prefix: Prefix = setting("asm.", "Prefix of the names of all topics.")
    partitions: Count = setting(8, "Partitions of a new topic; never changes for the topics of one prefix.")
    replication_factor: Annotated[int, Field(ge=-1)] = setting(
        -1, "Replicas of a new topic; -1 for the broker's default."
    )
    retention: Retention = setting(7 * 86400.0, "Retention of a new topic that is not compacted; -1 for no limit.")
    create: bool = setting(True, "Create missing topics at startup.")

    def name(self, topic: str) -> str:
        """``agent-status`` -> ``asm.agent-status``."""
        return self.prefix + topic

    @property
    def retention_ms(self) -> int:
        return -1 if self.retention == FOR_EVER else round(self.retention * 1000)

    def problems(self) -> Iterator[Problem]:
        if self.replication_factor == 0:
            yield "replication_factor", "must be at least 1, or -1 for the broker's default"


class RecordsSettings(Section):
    encoding: Literal["json", "msgpack"] = setting("json", "Encoding of the values of records.")
    source: Source | None = setting(None, "Prefix of ce_source, to distinguish organisations and regions: /acme/eu.")
    heartbeat_interval: Positive = setting(10.0, "Time between two heartbeats of a partition.")
    omit: Omitted | None = setting(None, "Fields with personal data that are never published, separated by commas.")

    @property
    def omitted(self) -> list[str]:
        """The names of ``omit``."""
        return self.omit.split(",") if self.omit else []


class SchemaRegistrySettings(Section):
    url: RegistryUrl | None = setting(
        None, "Address of a Schema Registry (Confluent's API); values are then framed in Confluent's wire format."
    )
    username: Text | None = setting(None, "User name at the Schema Registry.")
    password: SecretStr | None = setting(None, "Password at the Schema Registry.")
    ca_file: File | None = setting(None, "PEM file of certificate authorities to trust in addition to the system's.")

    def client_arguments(self) -> dict[str, Any]:
        """The keyword arguments of httpx's client. Raises ``ssl.SSLError`` for a ca_file that is not PEM."""
        password = self.password.get_secret_value() if self.password else ""
        return {
            "base_url": self.url,
            "auth": (self.username, password) if self.username else None,
            "verify": ssl_context(self.ca_file),
            "timeout": 10.0,
            "trust_env": False,
        }

    def problems(self) -> Iterator[Problem]:
        for name in ("username", "password", "ca_file"):
            if getattr(self, name) is not None and self.url is None:
                yield name, "is not used without schema_registry.url: set that, too"
        if self.url and (self.username is None) != (self.password is None):
            missing, other = ("username", "password") if self.username is None else ("password", "username")
            yield missing, f"is missing: schema_registry.{other} is set"
        if self.ca_file:
            try:
                ssl_context(self.ca_file)
            except OSError:
                yield "ca_file", "cannot be loaded: check that it is PEM"


class InjectionSettings(Section):
    ttl: Positive = setting(300.0, "How long an event without expires_at waits for its agent's session.")
    unknown_agent_grace: Positive = setting(10.0, "How long an event for an unknown agent waits.")
    max_attempts: Count = setting(10, "How many times an event is tried when the service fails without refusing it.")
    max_events_per_request: Count = setting(20, "Maximum number of events in one request.")
    max_pending: Count = setting(1000, "Maximum number of events that wait for one agent.")


class OpsSettings(Section):
    listen: Listen = setting("127.0.0.1:8080", "HOST:PORT of the endpoint for health, metrics and the status page.")

    token: SecretStr | None = setting(
        None, "Bearer token for all paths except /healthz and /readyz; a browser uses it as a password."
    )
    hosts: Text | None = setting(
        None, "Further host names of the endpoint, such as that of a proxy in front of it, separated by commas."
    )

    @property
    def host(self) -> str:
        return host_port(self.listen)[0]

    @property
    def host_names(self) -> frozenset[str]:
        """The names of ``hosts``."""
        return frozenset(name for part in (self.hosts or "").split(",") if (name := part.strip().lower()))

    def authorization(self) -> dict[str, str]:
        """The headers with which to read the endpoint."""
        return {"Authorization": f"Bearer {self.token.get_secret_value()}"} if self.token else {}

    @property
    def port(self) -> int:
        return host_port(self.listen)[1]

    @property
    def local_host(self) -> str:
        """The address at which this machine reaches the endpoint."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - not bound

    @property
    def local_url(self) -> str:
        """The URL of ``local_host``, without a path."""
        return f"http://{show_host_port(self.local_host, self.port)}"


class LogSettings(Section):
    format: Literal["auto", "console", "json"] = setting(
        "auto", "Log format; auto is console on a terminal, otherwise json."
    )
    level: Literal["debug", "info", "warning", "error"] = setting("info", "Lowest level that is logged.")


class Settings(BaseSettings):
    """All settings in force. Frozen; inner parts get sections or values instead of the whole."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="ASM_BRIDGE_", env_nested_delimiter="__", env_ignore_empty=True
    )

    asm: AsmSettings = AsmSettings()
    poll: PollSettings = PollSettings()
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicsSettings = TopicsSettings()
    records: RecordsSettings = RecordsSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    injection: InjectionSettings = InjectionSettings()
    ops: OpsSettings = OpsSettings()
    log: LogSettings = LogSettings()
    sessions_file: File | None = setting(
        None, "TOML file of sessions; they are added to the registry, or updated there, at startup."
    )
    drain_timeout: NotNegative = setting(20.0, "Maximum time for a clean stop.")
    secrets_dir: Directory | None = setting(
        None, "Directory of token files, and of settings such as asm_bridge_asm__token."
    )

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Uses only the given values: ``load_settings`` reads the sources, and records where each value came from."""
        return (init_settings,)


SECTIONS: dict[str, type[Section]] = {
    name: kind
    for name, field in Settings.model_fields.items()
    if isinstance(kind := field.annotation, type) and issubclass(kind, Section)
}
KEYS: dict[str, FieldInfo] = {
    f"{name}.{inner}": field for name, section in SECTIONS.items() for inner, field in section.model_fields.items()
} | {name: field for name, field in Settings.model_fields.items() if name not in SECTIONS}
"""Every key, e.g. ``kafka.group_id``, with its kind, default and meaning."""

DURATIONS = frozenset(key for key, field in KEYS.items() if any(is_duration(one) for one in field.metadata))
SECRETS = frozenset(key for key, field in KEYS.items() if SecretStr in getattr(field.annotation, "__args__", ()))


def lookup(settings: Settings, key: str) -> Any:
    """The value of ``kafka.group_id`` and the like."""
    return attrgetter(key)(settings)
