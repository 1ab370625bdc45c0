"""DRIVER: partitions, topics and the handlers of requests."""
