"""What the life of coded segments counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from logd.metrics import Registry

_Samples = Iterator[tuple[dict[str, str], int | float]]


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


class Figures(Protocol):
    """What gauges show of all coded segments; `cold.figures.ColdFigures` is it."""

    @property
    def by_state(self) -> Mapping[str, int]:
        """How many generations are in which state."""
        ...

    @property
    def unknown_chunks(self) -> int:
        """Of how many chunks nothing is known now."""
        ...

    def margins(self) -> dict[str, int]:
        """Return how many segments have which margin."""
        ...


def register_life_gauges(
    registry: Registry,
    figures: Callable[[], Figures],
    *,
    running: Callable[[], int],
    to_remove: Callable[[], int],
) -> None:
    """Register what is worked out at each scrape."""

    def states() -> _Samples:
        for state, count in sorted(figures().by_state.items()):
            yield {"state": state}, count

    def margins() -> _Samples:
        for margin, count in figures().margins().items():
            yield {"margin": margin}, count

    registry.family(
        "logd_cold_segments", "Encodings of segments, by the state they are in.", "gauge", states
    )
    registry.family(
        "logd_cold_segments_by_margin",
        "Coded segments, by how many more nodes may go.",
        "gauge",
        margins,
    )
    registry.gauge(
        "logd_cold_chunks_unknown",
        "Chunks of which nothing is known now; margins count them as there.",
        lambda: figures().unknown_chunks,
    )
    registry.gauge("logd_cold_encodings_running", "Segments that are being coded.", running)
    registry.gauge(
        "logd_cold_chunks_to_remove", "Chunks that nodes have still to remove.", to_remove
    )
