"""A broker with a listener for every kind of login."""

from pathlib import Path
from typing import Any

from bridge.ops.http import free_port
from bridge.settings import KafkaSettings
from bridge.testing.brokers.secured import ADMIN, BRIDGE, SecuredBroker
from tests.support.oauth import CLIENT_ID, CLIENT_SECRET, SCOPE, OAuthServer

SESSION_MS = 3000
"""How long a session by OAuth is valid (KIP-368)."""
_MODULES = "org.apache.kafka.common.security"
LISTENERS = {"PASSWORDS": "SASL_PLAINTEXT", "OAUTH": "SASL_PLAINTEXT", "MUTUAL": "SSL", "ENCRYPTED": "SASL_SSL"}
KINDS = ("plain", "scram-256", "scram-512", "oauth", "mutual", "encrypted")


class LoginsBroker(SecuredBroker):
    """``authority``: the directory of certificates. The user of each login is ``ADMIN``'s, who may do all, or, with
    SCRAM, ``BRIDGE``'s."""

    def __init__(self, authority: Path) -> None:
        super().__init__()
        self._authority = authority
        self._ports = {name: free_port() for name in LISTENERS}

    def properties(self, listener: str) -> dict[str, str]:
        plain = super().properties(listener)
        added = ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports.items())
        for name in LISTENERS:
            at = f"listener.name.{name.lower()}"
            if name in ("PASSWORDS", "ENCRYPTED"):
                plain |= {
                    f"{at}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
                    f"{at}.plain.sasl.jaas.config": plain["listener.name.sasl_plaintext.plain.sasl.jaas.config"],
                    f"{at}.scram-sha-256.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;",
                    f"{at}.scram-sha-512.sasl.jaas.config": f"{_MODULES}.scram.ScramLoginModule required;",
                }
        oauth = f'required unsecuredLoginStringClaim_sub="broker" unsecuredValidatorRequiredScope="{SCOPE}";'
        certificates = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.home / "broker.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self._authority / "ca.pem"),
        }
        pair = (self._authority / "good.key").read_text() + (self._authority / "good.pem").read_text()
        (self.home / "broker.pem").write_text(pair)
        return (
            plain
            | certificates
            | {
                "listeners": f"{plain['listeners']},{added}",
                "advertised.listeners": f"{plain['advertised.listeners']},{added}",
                "listener.security.protocol.map": ",".join(
                    [plain["listener.security.protocol.map"], *(f"{name}:{kind}" for name, kind in LISTENERS.items())]
                ),
                "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
                "listener.name.oauth.oauthbearer.sasl.jaas.config": (
                    f"{_MODULES}.oauthbearer.OAuthBearerLoginModule {oauth}"
                ),
                "listener.name.oauth.oauthbearer.connections.max.reauth.ms": str(SESSION_MS),
                "listener.name.mutual.ssl.client.auth": "required",
                "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^CN=good$/admin/",
            }
        )

    def set_password(self, user: str, password: str) -> None:
        """Sets the password of a user for SCRAM."""
        from confluent_kafka.admin import (  # type: ignore[attr-defined]
            AdminClient,
            ScramCredentialInfo,
            ScramMechanism,
            UserScramCredentialUpsertion,
        )

        admin = AdminClient(self.confluent_arguments())
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            change = UserScramCredentialUpsertion(user, ScramCredentialInfo(mechanism, 4096), password.encode())
            for future in admin.alter_user_scram_credentials([change]).values():
                future.result(10)

    def settings(self, kind: str, oauth: OAuthServer, **others: Any) -> KafkaSettings:
        """The settings of a kind of login (``KINDS``)."""
        passwords: dict[str, Any] = {"sasl_username": ADMIN[0], "sasl_password": ADMIN[1]}
        ours: dict[str, Any] = {"ssl_cafile": self._authority / "ca.pem"}
        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "plain": ("PASSWORDS", passwords),
            "scram-256": ("PASSWORDS", passwords | {"sasl_mechanism": "SCRAM-SHA-256"}),
            "scram-512": ("PASSWORDS", passwords | {"sasl_mechanism": "SCRAM-SHA-512"}),
            "oauth": (
                "OAUTH",
                {
                    "sasl_mechanism": "OAUTHBEARER",
                    "oauth_token_url": oauth.url,
                    "oauth_client_id": CLIENT_ID,
                    "oauth_client_secret": CLIENT_SECRET,
                    "oauth_scope": SCOPE,
                },
            ),
            "mutual": (
                "MUTUAL",
                ours | {"ssl_certfile": self._authority / "good.pem", "ssl_keyfile": self._authority / "good.key"},
            ),
            "encrypted": ("ENCRYPTED", ours | passwords | {"sasl_mechanism": "SCRAM-SHA-512"}),
        }
        listener, given = kinds[kind]
        address = {"bootstrap_servers": f"127.0.0.1:{self._ports[listener]}", "security_protocol": LISTENERS[listener]}
        return KafkaSettings.model_validate({**address, **given, **others})


__all__ = ["ADMIN", "BRIDGE", "KINDS", "SESSION_MS", "LoginsBroker"]
