"""asm-kafka-bridge: TCN's Agent State Manager to Apache Kafka, and back."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("asm-kafka-bridge")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
