"""From a topic's settings to what its logs need to know of them."""

from __future__ import annotations

from logd.config import TopicSettings
from logd.storage.log_settings import LogSettings


def log_settings(settings: TopicSettings) -> LogSettings:
    """Return the part of a topic's settings that its logs work with."""
    return LogSettings(
        segment_bytes=settings.segment_bytes,
        segment_ms=_segment_ms(settings),
        segment_offsets=settings.segment_offsets,
        segment_index_bytes=settings.segment_index_bytes,
        index_interval_bytes=settings.index_interval_bytes,
        flush_mode=settings.flush_mode,
        is_compacted="compact" in settings.cleanup_policy,
    )


def _segment_ms(settings: TopicSettings) -> int:
    """Return when a segment that is not full is sealed: only then can it be compacted."""
    if settings.compacted:
        return min(settings.segment_ms, settings.max_compaction_lag_ms)
    return settings.segment_ms
