"""From a topic's settings to what its logs need to know of them."""

from __future__ import annotations

from typing import Final

from logd.config import TopicSettings
from logd.policy.retention import roll_after_ms
from logd.storage.log_settings import LogSettings
from logd.units import MINUTE_MS

RETENTION_CHECK_MS: Final = 5 * MINUTE_MS
"""How often retention looks, where nothing else is said."""


def log_settings(
    settings: TopicSettings, *, retention_check_ms: int = RETENTION_CHECK_MS
) -> LogSettings:
    """Return the part of a topic's settings that its logs work with.

    Args:
        retention_check_ms: how often retention looks.
    """
    return LogSettings(
        segment_bytes=settings.segment_bytes,
        segment_ms=_segment_ms(settings, retention_check_ms),
        segment_offsets=settings.segment_offsets,
        segment_index_bytes=settings.segment_index_bytes,
        index_interval_bytes=settings.index_interval_bytes,
        flush_mode=settings.flush_mode,
        is_compacted="compact" in settings.cleanup_policy,
    )


def _segment_ms(settings: TopicSettings, retention_check_ms: int) -> int:
    """Return when a segment that is not full is sealed: only then it can be compacted, or go."""
    segment_ms = roll_after_ms(
        segment_ms=settings.segment_ms,
        retention_ms=settings.retention_ms,
        deletes="delete" in settings.cleanup_policy,
        floor_ms=retention_check_ms,
    )
    return min(segment_ms, settings.max_compaction_lag_ms) if settings.compacted else segment_ms
