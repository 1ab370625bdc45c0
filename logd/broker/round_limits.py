"""What one round of compaction may take of the server, and the rules that it is planned by.

Rounds run side by side, as many as log.cleaner.threads says; the memory for keys and the budget for
reading and writing are the server's, and each round has its share.
"""

from __future__ import annotations

from typing import Final

from logd.config import ServerSettings, TopicSettings
from logd.policy.compaction import CompactionRules
from logd.units import MIB

PROCESS_BYTES: Final = 128 * MIB
"""What a round's process may take beside its keys: the interpreter, and one batch at a time."""

_NO_BUDGET: Final = 2**62


def compaction_rules(settings: TopicSettings) -> CompactionRules:
    """Return the part of a topic's settings that rounds are planned by."""
    return CompactionRules(
        min_cleanable_dirty_ratio=settings.min_cleanable_dirty_ratio,
        min_compaction_lag_ms=settings.min_compaction_lag_ms,
        max_compaction_lag_ms=settings.max_compaction_lag_ms,
        segment_bytes=settings.segment_bytes,
        segment_index_bytes=settings.segment_index_bytes,
        index_interval_bytes=settings.index_interval_bytes,
    )


def slot_count(settings: ServerSettings) -> int:
    """Return how many rounds may run at a time; those on demand need one in any case."""
    return max(1, settings.log_cleaner_threads)


def key_map_bytes(settings: ServerSettings) -> int:
    """Return the share of the memory for keys that one round has."""
    share_bytes = settings.log_cleaner_dedupe_buffer_size // slot_count(settings)
    limit_bytes = settings.log_cleaner_memory_max_bytes
    if limit_bytes is not None:
        share_bytes = min(share_bytes, limit_bytes - PROCESS_BYTES)
    return max(MIB, share_bytes)


def memory_bytes(settings: ServerSettings) -> int:
    """Return what the process of one round may take in all."""
    limit_bytes = settings.log_cleaner_memory_max_bytes
    return key_map_bytes(settings) + PROCESS_BYTES if limit_bytes is None else limit_bytes


def io_bytes_per_s(settings: ServerSettings) -> int:
    """Return the share of the budget for reading and writing that one round has; 0: no limit."""
    bytes_per_s = settings.log_cleaner_io_max_bytes_per_second
    return 0 if bytes_per_s > _NO_BUDGET else max(1, int(bytes_per_s / slot_count(settings)))
