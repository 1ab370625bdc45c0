"""FORMAT: the Kafka protocol, sans-I/O: bytes in, values out, and back."""
