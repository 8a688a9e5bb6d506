"""Kafka: topics, clients, partitions. Only this package of the bridge knows aiokafka."""
