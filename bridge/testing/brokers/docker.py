"""Real Apache Kafka in a container, by testcontainers."""

import time
from typing import Any

from bridge.ops.http import free_port
from bridge.testing.brokers.base import START_DEADLINE, Broker, BrokerUnavailableError
from bridge.testing.brokers.process import tail
from bridge.testing.brokers.single_node import single_node

IMAGE = "apache/kafka:4.1.0"
ENGINE_DEADLINE = 2
ADDRESS = "/tmp/address"
LAUNCH = f"""until [ -s {ADDRESS} ]; do sleep 0.1; done
export KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://$(cat {ADDRESS})
exec /etc/kafka/docker/run"""
"""The address at which clients reach a container is known only when it runs."""


class DockerBroker(Broker):
    """testcontainers' own KafkaContainer calls Confluent's launcher, which this image lacks; and a port that Docker
    chooses changes when the container is started again. So: a plain container with a port of our choice."""

    name = "docker"

    def __init__(self) -> None:
        self._container: Any = None

    @property
    def description(self) -> str:
        return f"Apache Kafka {IMAGE.partition(':')[2]} (docker)"

    def start(self) -> str:
        from docker.errors import DockerException
        from testcontainers.core.container import DockerContainer

        port = free_port()
        container = DockerContainer(IMAGE).with_bind_ports(9092, port).with_command(["sh", "-c", LAUNCH])
        # Any KAFKA_ variable replaces the image's configuration whole, so this is all of it.
        for name, value in single_node("PLAINTEXT://:9092", "", "localhost:9093").items():
            container.with_env("KAFKA_" + name.upper().replace(".", "_"), value)
        try:
            self._container = container.start()
        except (DockerException, OSError) as error:
            raise BrokerUnavailableError(f"docker: {IMAGE} does not start: {error}") from error
        self.bootstrap_servers = f"{container.get_container_host_ip()}:{port}".replace("localhost", "127.0.0.1")
        container.exec(["sh", "-c", f"echo {self.bootstrap_servers} >{ADDRESS}"])
        self._wait(begin=0)
        return self.bootstrap_servers

    def stop(self) -> None:
        if self._container is not None:
            self._container.stop()
            self._container = None

    def kill(self) -> None:
        from docker.errors import APIError

        try:
            self._wrapped().kill()
        except APIError as error:  # 409: it does not run, as desired
            if error.status_code != 409:
                raise

    def restart(self) -> None:
        self.kill()
        begin = len(self._log())
        self._wrapped().start()
        self._wait(begin)

    def pause(self) -> None:
        self._wrapped().pause()

    def resume(self) -> None:
        self._wrapped().unpause()

    def _wrapped(self) -> Any:
        if self._container is None:
            raise RuntimeError("the broker does not run")
        return self._container.get_wrapped_container()

    def _log(self) -> bytes:
        said: bytes = self._wrapped().logs()
        return said

    def _wait(self, begin: int) -> None:
        deadline, said = time.monotonic() + START_DEADLINE, b""
        while time.monotonic() < deadline:
            said = self._log()[begin:]
            if b"Kafka Server started" in said:
                return
            time.sleep(0.1)
        raise BrokerUnavailableError(f"{self.name}: not ready in time; its log ends:\n{tail(said)}")


def why_not() -> str | None:
    """What this machine lacks to run containers, or None. Takes 2 s at most: often only Docker's client is there."""
    try:
        import docker
        from docker.errors import DockerException
        from testcontainers.core import container  # noqa: F401
    except ImportError:
        return "testcontainers is not installed"
    try:
        client = docker.from_env(timeout=ENGINE_DEADLINE)
    except DockerException:
        return "no Docker engine answers"
    client.close()
    return None
