"""What is counted of requests: how many, how long, and how long the loop was busy at a stretch."""

from __future__ import annotations

from typing import Final

from logd.metrics import Counter, Histogram, Registry
from logd.wire.api_keys import API_NAMES

LATENCY_BOUNDS_S: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
)  # fmt: skip


class RequestMetrics:
    """Counts by api; cheap enough for every request."""

    def __init__(self, registry: Registry) -> None:
        self._latency: dict[int, Histogram] = {
            key: registry.histogram(
                "logd_request_seconds",
                "Time from the turn in which a request was read to the one that answered it.",
                LATENCY_BOUNDS_S,
                api=name,
            )
            for key, name in API_NAMES.items()
        }
        self.unanswered: Counter = registry.counter(
            "logd_requests_unanswered_total", "Requests without an answer (acks=0)."
        )
        self.at_limit: Counter = registry.counter(
            "logd_requests_at_limit_total",
            "Times that a connection had as many requests in flight as it may.",
        )
        self._turns: Histogram = registry.histogram(
            "logd_loop_turn_seconds", "How long the serving loop worked at a stretch.",
            LATENCY_BOUNDS_S,
        )  # fmt: skip

    def answered(self, api_key: int, seconds: float, count: int) -> None:
        """So many requests were answered, all of which came in the same turn."""
        latency = self._latency.get(api_key)
        if latency is not None:
            latency.observe(seconds, count)

    def turn_ended(self, seconds: float) -> None:
        """The loop had one turn."""
        self._turns.observe(seconds)
