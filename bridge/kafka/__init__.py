"""Kafka: topics, clients, partitions. Only this package of the bridge knows aiokafka."""

from bridge.kafka.errors import KafkaUnavailableError
from bridge.kafka.lifecycle import connected

__all__ = ["KafkaUnavailableError", "connected"]
