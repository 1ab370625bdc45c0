"""A segment that ends before the next one begins: what lay between is lost, or was compacted.

Recovery looks from its checkpoint on. A file that went from before it is found by whoever comes to
where it was: a reader, or who codes the segment before. It is quarantined then, so that nobody is
led over the gap unawares, and `logd status` names it.
"""

from __future__ import annotations

import contextlib

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage.compaction_state import read_compaction
from logd.storage.damage import DamagedRange
from logd.storage.layout import LOG_SUFFIX, segment_file_name
from logd.storage.log_state import LogState
from logd.storage.recovery_walk import MISSING_BEHIND
from logd.storage.segment import Segment


def quarantine_missing(
    state: LogState, segment: Segment, next_offset: int, *, size_bytes: int
) -> DamagedRange | None:
    """Quarantine what is missing behind a sealed segment; return it, None if nothing is.

    Args:
        next_offset: the offset behind its last record.
        size_bytes: of its .log.

    Raises:
        SegmentsChangedError: the segment was replaced meanwhile.
        OSError: what compaction did here cannot be read.
    """
    begins = segment.end_bound
    assert not segment.is_active
    assert segment.base_offset <= next_offset <= begins
    if next_offset == begins or state.settings.is_compacted or begins <= _compacted_below(state):
        return None
    missing = DamagedRange(
        first_offset=next_offset,
        next_offset=begins,
        base_offset=segment.base_offset,
        file=segment_file_name(segment.base_offset, LOG_SUFFIX),
        position=size_bytes,
        end_position=size_bytes,
        reason=MISSING_BEHIND,
    )
    with state.open_lock:
        state.check_not_replaced(segment)
        if missing not in state.damage.ranges:
            with contextlib.suppress(OSError):  # In memory it counts at once.
                state.damage.add(missing)
    return missing


def _compacted_below(state: LogState) -> int:
    with contextlib.suppress(CorruptFileError, UnsupportedFormatError):
        return read_compaction(state.files, state.directory).first_uncleaned_offset
    return 0
