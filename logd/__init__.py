"""The server: an append-only segmented log with Kafka's wire protocol.

Layers, lowest first; a module imports from lower layers only (tests/test_tidy.py holds it to that):

    vocabulary   units errors config metrics
    FORMAT       record wire
    DECISION     policy
    STORAGE      storage
    DRIVER       clock offload, then cold, then broker, then net, then server
"""

__version__ = "0.1.0"
