"""Three real brokers that replicate, as in a production cluster, to test what happens when one of them dies."""

from bridge.ops.http import free_port
from bridge.testing.brokers.base import Broker
from bridge.testing.brokers.maven import MavenBroker, kafka_version

SIZE = 3
REPLICATED = {
    "default.replication.factor": str(SIZE),
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": str(SIZE),
    "transaction.state.log.replication.factor": str(SIZE),
    "transaction.state.log.min.isr": "2",
    "replica.lag.time.max.ms": "5000",
    "controlled.shutdown.enable": "false",
}


class Node(MavenBroker):
    """One broker, controller too, of a cluster whose controllers are ``voters`` (``ID@HOST:PORT``, by ID from 1)."""

    def __init__(self, number: int, voters: list[str]) -> None:
        super().__init__()
        self.number = number
        self._voters = voters

    def properties(self, listener: str) -> dict[str, str]:
        controller = self._voters[self.number - 1].partition("@")[2]
        own = {
            "node.id": str(self.number),
            "controller.quorum.voters": ",".join(self._voters),
            "listeners": f"{listener},CONTROLLER://{controller}",
        }
        return super().properties(listener) | REPLICATED | own

    def ready(self, said: bytes) -> bool:
        """Alone, without a quorum, none gets as far as ``started``: the cluster waits for all of them."""
        return self.lonely or super().ready(said)

    lonely = False


class Cluster(Broker):
    """``nodes`` are killed and paused one at a time; the methods of the cluster itself are for all of them."""

    name = "cluster"

    def __init__(self) -> None:
        voters = [f"{number}@127.0.0.1:{free_port()}" for number in range(1, SIZE + 1)]
        self.nodes: list[Broker] = []
        self._nodes = [Node(number, voters) for number in range(1, SIZE + 1)]
        self.nodes += self._nodes

    @property
    def description(self) -> str:
        return f"{SIZE} brokers of Apache Kafka {kafka_version()} (maven jars)"

    def start(self) -> str:
        try:
            for node in self._nodes:
                node.lonely = node is not self._nodes[-1]
                node.start()
            for node in self._nodes:
                node.lonely = False
                node.await_ready()
        except BaseException:
            self.stop()
            raise
        self.bootstrap_servers = ",".join(node.bootstrap_servers for node in self._nodes)
        return self.bootstrap_servers

    def stop(self) -> None:
        for node in self._nodes:
            node.stop()

    def kill(self) -> None:
        for node in self._nodes:
            node.kill()

    def restart(self) -> None:
        self.kill()
        for node in self._nodes:
            node.lonely = True
            node.restart()
        for node in self._nodes:
            node.lonely = False
            node.await_ready()

    def pause(self) -> None:
        for node in self._nodes:
            node.pause()

    def resume(self) -> None:
        for node in self._nodes:
            node.resume()
