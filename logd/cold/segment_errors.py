"""Why a segment was not coded, or not thawed: one class for each thing that a caller can do."""

from __future__ import annotations

from logd.errors import LogdError
from logd.policy.cold.leases import Leases
from logd.policy.cold.values import SegmentKey


class ColdRefusedError(LogdError):
    """It cannot be done as things are: no nodes, no space, not sealed. Nothing was begun."""


class AlreadyCodedError(ColdRefusedError):
    """It has a live generation by now: somebody was faster."""


class NodesRefusedError(ColdRefusedError):
    """There are too few nodes, or too little space on them; other segments would hear the same."""


class SegmentBusyError(LogdError):
    """Somebody else works on the segment; later it may be possible, or be done already."""


class ColdFailedError(LogdError):
    """It was begun and given up; what was written is removed, the segment is as it was."""


def busy(leases: Leases, key: SegmentKey) -> SegmentBusyError:
    """Return the error for a segment that is leased."""
    work = leases.work_on(key)
    assert work is not None
    return SegmentBusyError(f"{key}: {work.value} is under way")
