"""What a log needs to know of its topic's settings."""

from __future__ import annotations

from dataclasses import dataclass

from logd.units import DAY_MS, GIB, INT32_MAX, KIB, MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The settings of one log; replaced as a whole when the topic's change.

    Attributes:
        flush_mode: commit, interval or os. Only recovery cares: with the last two, readers may have
            seen records that a power cut took.
        is_compacted: gaps between offsets are no sign of damage.
    """

    segment_bytes: int = GIB
    segment_ms: int = 7 * DAY_MS
    segment_offsets: int = MIB
    segment_index_bytes: int = 10 * MIB
    index_interval_bytes: int = 4 * KIB
    flush_mode: str = "commit"
    is_compacted: bool = False

    def __post_init__(self) -> None:
        """Refuse what no validated topic setting can be."""
        assert self.segment_bytes >= 1
        assert self.segment_ms >= 1
        assert self.segment_offsets >= 1
        assert 0 < self.segment_index_bytes <= INT32_MAX
        assert self.index_interval_bytes >= 0
        assert self.flush_mode in ("commit", "interval", "os")
