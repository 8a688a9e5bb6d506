"""The settings of Kafka: how to reach it, and how to log in."""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import PrivateAttr, SecretStr

from bridge.settings.section import Problem, Section, Text, setting
from bridge.settings.types import CommitInterval, File, Positive, Servers, TokenUrl, ssl_context


class KafkaSettings(Section):
    bootstrap_servers: Servers = setting(
        "localhost:9092", "Brokers to connect to first: HOST:PORT, separated by commas."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "PLAINTEXT", "Protocol for connections to the brokers."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"] | None = setting(
        None, "SASL mechanism (PLAIN if security_protocol is SASL_... and this is not set)."
    )
    sasl_username: Text | None = setting(None, "SASL user name.")
    sasl_password: SecretStr | None = setting(None, "SASL password.")
    ssl_cafile: File | None = setting(
        None, "PEM file of the certificate authorities that signed the brokers' certificates."
    )
    ssl_certfile: File | None = setting(None, "PEM file of the client's certificate.")
    ssl_keyfile: File | None = setting(None, "PEM file of the client's key.")
    ssl_password: SecretStr | None = setting(None, "Password of the client's key.")
    oauth_token_url: TokenUrl | None = setting(
        None, "Token URL of the OAuth server, for sasl_mechanism=OAUTHBEARER (client credentials)."
    )
    oauth_client_id: Text | None = setting(None, "OAuth client id.")
    oauth_client_secret: SecretStr | None = setting(None, "OAuth client secret.")
    oauth_scope: Text | None = setting(None, "OAuth scope, if the server requires one.")
    group_id: Text = setting("asm-bridge", "Consumer group; also the prefix of the transactional ids.")
    delivery: Literal["exactly_once", "at_least_once"] = setting(
        "exactly_once",
        "exactly_once (with transactions) or at_least_once (for brokers without them; one process only).",
    )
    session_timeout: Positive = setting(10.0, "A process without a heartbeat for this long is considered dead.")
    group_instance_id: Text | None = setting(
        None, "Static membership, for quick restarts; must be unique to the process."
    )
    commit_interval: CommitInterval = setting(0.2, "How long steps are collected into one transaction.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = setting(
        "gzip", "Compression of the records that are produced; every Kafka client reads gzip as installed."
    )

    _files: dict[str, Path] = PrivateAttr(default_factory=dict)
    """The files of the secrets directory that settings came from, by name."""

    @property
    def compression_type(self) -> str | None:
        """``compression`` in the form for aiokafka's producer."""
        return None if self.compression == "none" else self.compression

    @property
    def uses_ssl(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def uses_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL_")

    @property
    def mechanism(self) -> str:
        """The SASL mechanism in force."""
        return self.sasl_mechanism or "PLAIN"

    @property
    def user(self) -> str | None:
        """The name that the login has, where there is one."""
        return self.oauth_client_id or self.sasl_username

    def client_arguments(self) -> dict[str, Any]:
        """The arguments of every Kafka client (see ``bridge.kafka.clients``); ``login``: these settings."""
        return {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "login": self,
        }

    def login_arguments(self) -> dict[str, Any]:
        """aiokafka's arguments for TLS and the login, with the current contents of the files. Raises ``OSError``
        (``ssl.SSLError`` is one) and ``ValueError`` where a certificate cannot be loaded."""
        arguments: dict[str, Any] = {}
        if self.uses_ssl:
            arguments["ssl_context"] = self._ssl_context()
        if self.uses_sasl:
            # Amazon MSK's tokens are sent like those of OAuth.
            arguments["sasl_mechanism"] = "OAUTHBEARER" if self.mechanism == "AWS_MSK_IAM" else self.mechanism
            arguments["sasl_plain_username"] = self._present("sasl_username")
            arguments["sasl_plain_password"] = self._present("sasl_password")
        return arguments

    def read_again(self, files: Mapping[str, Path]) -> None:
        """Lets secrets be read from these files whenever they are used. ``files``: by the name of the setting."""
        self._files.update({name: path for name, path in files.items() if name in type(self).model_fields})

    def oauth_credentials(self) -> tuple[str, str, str]:
        """Token URL, client id and client secret, for ``OAUTHBEARER``."""
        return (
            self.oauth_token_url or "",
            self._present("oauth_client_id") or "",
            self._present("oauth_client_secret") or "",
        )

    def _present(self, name: str) -> str | None:
        """A setting's current value: a file of the secrets directory is read again, since it may have been rotated. A
        file that is missing or empty is just being written.
        """
        if name in self._files:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                if text := self._files[name].read_text(encoding="utf-8").strip():
                    return text
        value: SecretStr | str | None = getattr(self, name)
        return value.get_secret_value() if isinstance(value, SecretStr) else value

    def _ssl_context(self) -> ssl.SSLContext:
        files = (self.ssl_cafile, self.ssl_certfile, self.ssl_keyfile)
        return _ssl_context(files, tuple(map(_signature, files)), self._present("ssl_password") or "")

    def problems(self) -> Iterator[Problem]:
        yield from self._sasl_problems()
        yield from self._ssl_problems()

    def _sasl_problems(self) -> Iterator[Problem]:
        wanted = _CREDENTIALS[self.mechanism] if self.uses_sasl else ()
        for name in ("sasl_username", "sasl_password", *_OAUTH):
            given = getattr(self, name) is not None
            if name in wanted and not given:
                reason = "sasl_mechanism" if name in _OAUTH else "security_protocol"
                yield name, f"is missing: kafka.{reason}={getattr(self, reason)} requires it"
            if given and not self.uses_sasl:
                yield name, f"is not used with kafka.security_protocol={self.security_protocol}: set that to SASL_SSL"
            elif given and name not in wanted and not (name == "oauth_scope" and "oauth_token_url" in wanted):
                yield name, f"is not used with kafka.sasl_mechanism={self.mechanism}"
        if self.sasl_mechanism and not self.uses_sasl:
            yield "sasl_mechanism", "is not used without SASL: set kafka.security_protocol to SASL_SSL"

    def _ssl_problems(self) -> Iterator[Problem]:
        for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
            if getattr(self, name) is not None and not self.uses_ssl:
                yield (
                    name,
                    f"is not used with kafka.security_protocol={self.security_protocol}: set that to SSL or SASL_SSL",
                )
        if self.ssl_keyfile and not self.ssl_certfile:
            yield "ssl_certfile", "is missing: kafka.ssl_keyfile requires it"
        elif self.uses_ssl:
            try:
                self._ssl_context()
            except (ssl.SSLError, OSError, ValueError):
                name = "ssl_certfile" if self.ssl_certfile else "ssl_cafile"
                yield name, "cannot be loaded: check that the files are PEM, that the key matches, and its password"


_OAUTH = ("oauth_token_url", "oauth_client_id", "oauth_client_secret", "oauth_scope")
_PASSWORD = ("sasl_username", "sasl_password")
_CREDENTIALS: dict[str, tuple[str, ...]] = {
    "PLAIN": _PASSWORD,
    "SCRAM-SHA-256": _PASSWORD,
    "SCRAM-SHA-512": _PASSWORD,
    "OAUTHBEARER": _OAUTH[:3],
    "AWS_MSK_IAM": (),
}
"""The settings that each SASL mechanism requires."""


def _signature(path: Path | None) -> tuple[int, ...]:
    """Differs once a file has been changed or replaced."""
    if path is None:
        return ()
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=8)
def _ssl_context(files: tuple[Path | None, ...], _: tuple[tuple[int, ...], ...], password: str) -> ssl.SSLContext:
    """``files``: authorities, certificate and key. Loading the system's authorities takes 20 ms: it is done once."""
    cafile, certfile, keyfile = files
    context = ssl_context(cafile, system=cafile is None)
    if certfile:
        context.load_cert_chain(certfile, keyfile, password)  # without any password OpenSSL asks on the terminal
    return context
