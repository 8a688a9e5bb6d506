"""Kafka: topics, clients, partitions. No other package of the bridge needs to know aiokafka."""

from bridge.kafka.errors import KafkaUnavailableError
from bridge.kafka.lifecycle import connected

__all__ = ["KafkaUnavailableError", "connected"]
