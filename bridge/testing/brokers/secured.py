"""A broker that requires a login (SASL PLAIN) and allows only what an ACL grants, as a company's Kafka does."""

from typing import Any

from bridge.testing.brokers.maven import MavenBroker

ADMIN, BRIDGE = ("admin", "admin-s3cret"), ("bridge", "bridge-s3cret")
"""User name and password of two users: one may do everything, the other only what it is granted."""


Right = tuple[str, str, str]
"""``TOPIC``, ``GROUP`` or ``TRANSACTIONAL_ID``, the prefix of the name, and the operation."""


def _binding(right: Right, user: str) -> tuple[Any, ...]:
    from confluent_kafka.admin import (  # type: ignore[attr-defined]
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    kind, name, operation = right
    return (
        *(ResourceType[kind], name, ResourcePatternType.PREFIXED, f"User:{user}", "*"),
        *(AclOperation[operation], AclPermissionType.ALLOW),
    )


class SecuredBroker(MavenBroker):
    name = "secured"

    def properties(self, listener: str) -> dict[str, str]:
        secured = listener.replace("PLAINTEXT:", "SASL_PLAINTEXT:")
        plain = super().properties(listener)
        login = f'username="{ADMIN[0]}" password="{ADMIN[1]}"'
        users = " ".join(f'user_{name}="{password}"' for name, password in (ADMIN, BRIDGE))
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return plain | {
            "listeners": plain["listeners"].replace(listener, secured),
            "advertised.listeners": secured,
            "inter.broker.listener.name": "SASL_PLAINTEXT",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f"{module} required {login} {users};",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The controller's own connections, on a loopback listener, have no user name.
            "super.users": f"User:{ADMIN[0]};User:ANONYMOUS",
        }

    def grant(self, *rights: Right, user: str = BRIDGE[0]) -> None:
        """Grants rights to a user."""
        from confluent_kafka.admin import AclBinding, AdminClient  # type: ignore[attr-defined]

        admin = AdminClient(self.confluent_arguments())  # kept: with it its answers would go
        made: dict[Any, Any] = admin.create_acls([AclBinding(*_binding(right, user)) for right in rights])
        for future in made.values():
            future.result(10)

    def revoke(self, *rights: Right, user: str = BRIDGE[0]) -> None:
        """Withdraws rights that were granted."""
        from confluent_kafka.admin import AclBindingFilter, AdminClient  # type: ignore[attr-defined]

        admin = AdminClient(self.confluent_arguments())
        for future in admin.delete_acls([AclBindingFilter(*_binding(right, user)) for right in rights]).values():
            assert len(future.result(10)) == 1

    def confluent_arguments(self) -> dict[str, Any]:
        """The arguments of a confluent-kafka client with all rights."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": ADMIN[0],
            "sasl.password": ADMIN[1],
        }
