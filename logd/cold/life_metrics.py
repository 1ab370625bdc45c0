"""What the life of coded segments counts."""

from __future__ import annotations

from logd.metrics import Registry


class LifeMetrics:
    """Counters, one set for all segments."""

    def __init__(self, registry: Registry) -> None:
        name, text = "logd_cold_encodings_total", "Encodings of segments, by how they ended."
        self.encoded = registry.counter(name, text, outcome="committed")
        self.given_up = registry.counter(name, text, outcome="aborted")
        self.encoded_bytes = registry.counter(
            "logd_cold_encoded_bytes_total", "Bytes of segments that were coded."
        )
        self.released = registry.counter(
            "logd_cold_released_total", "Segments whose hot copy was let go."
        )
        self.thawed = registry.counter("logd_cold_thawed_total", "Segments that were thawed.")
        self.chunks_removed = registry.counter(
            "logd_cold_chunks_removed_total", "Chunks that nodes removed because they were to go."
        )
        self.chunks_quarantined = registry.counter(
            "logd_cold_chunks_quarantined_total", "Chunks put aside because nothing explains them."
        )
