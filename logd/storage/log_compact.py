"""The log's side of compaction: what a round is planned by, its order, and its commit.

The round itself reads sealed segments and writes new files beside them; the log goes on meanwhile.
Only here do its files become part of the log (`swap` says how that survives a crash).

Two things of a live log know places inside a segment, and are seen to before the commit point:

* Producer snapshots say where recovery begins to walk. One that names a place in a replaced segment
  would make it walk from the middle of nowhere: a newer one is written, the others are unlinked.
* Readers may be about to open a segment by name. `Segment.is_replaced` is set and the names are
  exchanged under the log's open lock; who comes too late is told so and looks the offset up anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from logd.errors import (
    CorruptFileError,
    DamagedRangeError,
    DiskFullError,
    LogFailedError,
    SegmentsChangedError,
    UnsupportedFormatError,
)
from logd.policy.compaction import CompactionFacts, CompactionPlan, SegmentFacts
from logd.storage import swap, swap_prepared
from logd.storage.clean_order import (
    CleanLimits,
    CleanOrder,
    CleanResult,
    NewSegment,
    SourceSegment,
)
from logd.storage.compaction_state import (
    NOTHING_COMPACTED,
    CompactionState,
    read_compaction,
    write_compaction,
)
from logd.storage.files import DISK_FULL_ERRNOS
from logd.storage.layout import cleaned_file_name
from logd.storage.log_checkpoint import (
    drop_snapshots,
    stale_snapshots,
    take_checkpoint,
    write_checkpoint,
)
from logd.storage.log_describe import describe_segment
from logd.storage.log_read import LogReader
from logd.storage.log_state import LogState
from logd.storage.segment import SIZE_UNKNOWN, Segment, SegmentList
from logd.storage.swap import Replacement, ReplaceResult

# --- planning -------------------------------------------------------------------------------------


def compaction_facts(state: LogState, reader: LogReader, *, bound_offset: int) -> CompactionFacts:
    """Return what `plan_compaction` decides by. Blocking: opens each dirty segment once.

    Args:
        bound_offset: no record at or above it may be touched: the high watermark, or less.

    Raises:
        DamagedRangeError: a segment cannot be read. LogFailedError: the log is poisoned.
    """
    if state.failed is not None:
        raise state.failed
    assert bound_offset >= 0
    segments = state.segment_list
    name = f"{state.topic}-{state.partition}"
    known = _known_state(state, segments)
    is_damaged = bool(state.damage.ranges)
    first_dirty = known.first_uncleaned_offset
    facts = tuple(
        _segment_facts(state, reader, item, is_dirty=item.end_bound > first_dirty)
        for item in segments.items[:-1]
    )
    return CompactionFacts(
        name=name,
        segments=facts,
        first_dirty_offset=first_dirty,
        bound_offset=bound_offset,
        next_horizon_ms=known.next_horizon_ms,
        is_damaged=is_damaged or bool(state.damage.ranges),
    )


def _known_state(state: LogState, segments: SegmentList) -> CompactionState:
    """Return how far the log is compacted; read once. What cannot be read counts as nothing."""
    known = state.compaction
    if known is None:
        try:
            known = read_compaction(state.files, state.directory)
        except (CorruptFileError, UnsupportedFormatError):
            known = NOTHING_COMPACTED  # `logd check` tells; a round mends it.
        except OSError as error:
            raise DamagedRangeError(f"{state.directory}: {error}") from error
        state.compaction = known
    if known.first_uncleaned_offset > segments.active.base_offset:
        return NOTHING_COMPACTED  # The file is not of this log.
    return known


def cleaned_below(state: LogState) -> int:
    """Return up to which offset all records went through a round. Blocking, the first time.

    Raises:
        DamagedRangeError: it cannot be read.
    """
    return _known_state(state, state.segment_list).first_uncleaned_offset


def _segment_facts(
    state: LogState, reader: LogReader, segment: Segment, *, is_dirty: bool
) -> SegmentFacts:
    assert not segment.is_active
    if segment.released is not None:
        latest_ms = segment.released.max_timestamp_ms
        first_ms = segment.released.min_timestamp_ms
        return SegmentFacts(
            segment.base_offset, segment.end_bound, segment.size, first_ms, latest_ms
        )
    if is_dirty:
        if segment.first_timestamp_ms is None or segment.max_timestamp is None:
            segment.first_timestamp_ms = describe_segment(state, reader, segment).first_timestamp_ms
    elif segment.size == SIZE_UNKNOWN:
        try:
            segment.size = state.files.stat_size(segment.paths.log)
        except OSError as error:
            if segment.is_replaced:
                raise SegmentsChangedError(f"{segment.paths.log}: it was replaced") from error
            raise DamagedRangeError(f"{segment.paths.log} cannot be read: {error}") from error
    latest = segment.max_timestamp
    return SegmentFacts(
        segment.base_offset,
        segment.end_bound,
        max(segment.size, 0),
        -1 if segment.first_timestamp_ms is None else segment.first_timestamp_ms,
        -1 if latest is None else latest[0],
    )


def clean_order(
    state: LogState,
    plan: CompactionPlan,
    *,
    attempt: int,
    now_ms: int,
    limits: CleanLimits,
    keeps_groups: bool = False,
) -> CleanOrder:
    """Return the order for a planned round. Not blocking, on the loop.

    Args:
        attempt: a number that no earlier round had in this directory.
        keeps_groups: some of the log is in chunks; see `CleanOrder`.

    Raises:
        LogFailedError: the log is poisoned. SegmentsChangedError: the plan is out of date.
    """
    if state.failed is not None:
        raise state.failed
    planned = [(i.base_offset, i.end_offset, i.size_bytes) for group in plan.groups for i in group]
    items = state.segment_list.items[: len(planned)]
    if planned != [(item.base_offset, item.end_bound, item.size) for item in items]:
        raise SegmentsChangedError(f"{plan.name}: the plan is of segments that are not there")
    assert not items[-1].is_active
    return CleanOrder(
        name=plan.name,
        directory=state.directory,
        attempt=attempt,
        groups=tuple(
            tuple(SourceSegment(i.base_offset, i.end_offset, i.size_bytes) for i in group)
            for group in plan.groups
        ),
        first_dirty_offset=plan.first_dirty_offset,
        end_offset=plan.end_offset,
        producer_last_offsets=tuple(
            entry.last_offset
            for entry in state.producers.entries()
            if entry.last_offset < plan.end_offset
        ),
        now_ms=now_ms,
        keeps_groups=keeps_groups,
        segment_index_bytes=state.settings.segment_index_bytes,
        index_interval_bytes=state.settings.index_interval_bytes,
        limits=limits,
    )


# --- replacing ------------------------------------------------------------------------------------


def replace_segments(
    state: LogState, order: CleanOrder, result: CleanResult, *, is_prepared: bool = False
) -> ReplaceResult:
    """Put what a round wrote in the place of the segments it read. Blocking, exclusive.

    A round that replaces many is committed in steps (`clean_steps`), each by a call.

    Durability: one commit point. A crash before it leaves the old segments, a crash behind it the
    new ones (the next start finishes the renames); never both, never a mixture. When this returns,
    the new ones are durable.

    Args:
        is_prepared: `prepare_replacement` was called, and the catalog said yes: that was the commit
            point. Whatever keeps this from going on poisons the log, and the next start finishes.

    Raises:
        SegmentsChangedError: records were deleted meanwhile, or the files are not those that the
            result names; nothing has changed.
        DiskFullError: no space for the manifest; nothing has changed.
        LogFailedError: the log is poisoned, or the disk refused half-way.
    """
    try:
        return _replace(state, order, result, is_prepared=is_prepared)
    except (SegmentsChangedError, DiskFullError, OSError) as error:
        if not is_prepared:
            raise
        message = f"{state.directory}: segments could not be replaced: {error}"
        raise state.poison(LogFailedError(message)) from error


def _replace(
    state: LogState, order: CleanOrder, result: CleanResult, *, is_prepared: bool
) -> ReplaceResult:
    if state.failed is not None:
        raise state.failed
    assert result.attempt == order.attempt
    compaction = _reached(result)
    if not result.groups:
        return _note(state, order, compaction)
    replacement, old = _checked(state, order, result)
    with state.open_lock, state.snapshot_lock:
        if not is_prepared:
            _refuse_damaged(state, order, old)
        # A checkpoint that was begun long ago may have been written this moment; it is older than
        # the one just seen to, and the next such one finds its segment replaced.
        drop_snapshots(state, replacement.old)
        if is_prepared:
            _commit_prepared(state, old)
        else:
            _commit(state, old, replacement)
        try:
            unlink_paths = swap.exchange_names(state.files, state.directory, replacement)
            _publish(state, old, replacement.new)
            swap.end_replacement(state.files, state.directory, replacement)
        except OSError as error:
            message = f"{state.directory}: segments could not be replaced: {error}"
            raise state.poison(LogFailedError(message)) from error
        state.compaction = compaction
    return ReplaceResult(tuple(unlink_paths))


def prepare_replacement(
    state: LogState, order: CleanOrder, result: CleanResult, superseded: Sequence[str]
) -> None:
    """Have all ready for a replacement that the catalog decides (`swap_prepared`). Blocking.

    Exclusive, until `replace_segments` or `cancel_replacement` was called.

    Args:
        superseded: the encodings of the old segments that the transaction supersedes.

    Raises:
        As `replace_segments`; nothing has changed, and a manifest that is left means nothing.
    """
    if state.failed is not None:
        raise state.failed
    assert result.groups
    replacement, old = _checked(state, order, result)
    with state.open_lock:
        _refuse_damaged(state, order, old)
    try:
        swap_prepared.write_prepared(state.files, state.directory, replacement, superseded)
    except OSError as error:
        cancel_replacement(state)
        message = f"{state.directory}: a replacement could not be prepared: {error}"
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(message) from error
        raise state.poison(LogFailedError(message)) from error


def cancel_replacement(state: LogState) -> None:
    """Take back what was prepared: the catalog said no. Blocking.

    Raises:
        LogFailedError: it cannot be removed. The log is poisoned: so nobody supersedes an encoding
            that the next start would take for the catalog's yes.
    """
    try:
        swap_prepared.drop_prepared(state.files, state.directory)
    except OSError as error:
        message = f"{swap_prepared.prepared_path(state.directory)}: {error}"
        raise state.poison(LogFailedError(message)) from error


def doubt_replacement(state: LogState, reason: str) -> LogFailedError:
    """Poison the log: nobody knows what the catalog said. The next start asks it, and settles it.

    Not blocking.
    """
    return state.poison(LogFailedError(f"{state.directory}: segments are being replaced: {reason}"))


def _reached(result: CleanResult) -> CompactionState:
    return CompactionState(result.first_uncleaned_offset, result.next_horizon_ms)


def _checked(
    state: LogState, order: CleanOrder, result: CleanResult
) -> tuple[Replacement, list[Segment]]:
    """Return the replacement, and the segments that go; everything is as the round left it.

    Raises:
        SegmentsChangedError: it is not. DiskFullError, LogFailedError: no checkpoint.
    """
    replacement = Replacement(
        order.attempt,
        tuple(base for group in result.groups for base in group.old_bases),
        tuple(segment for group in result.groups for segment in group.new),
        _reached(result),
    )
    old = _ordered_segments(state, order, replacement.old)
    _check_begin(state, order, replacement)
    _check_written(state, replacement)
    _renew_checkpoint(state, replacement)
    return replacement, old


def _refuse_damaged(state: LogState, order: CleanOrder, old: Sequence[Segment]) -> None:
    assert state.open_lock.locked()
    if any(state.damage.in_segment(segment.base_offset) for segment in old):
        raise SegmentsChangedError(f"{order.name}: damage was found in it meanwhile")


def _note(state: LogState, order: CleanOrder, compaction: CompactionState) -> ReplaceResult:
    """Nothing is replaced: the round found nothing to remove."""
    _ordered_segments(state, order, ())
    try:
        write_compaction(state.files, state.directory, compaction)
    except OSError as error:
        message = f"{state.directory}: {error}"
        if error.errno in DISK_FULL_ERRNOS:
            raise DiskFullError(message) from error
        raise state.poison(LogFailedError(message)) from error
    state.compaction = compaction
    return ReplaceResult(())


def _ordered_segments(state: LogState, order: CleanOrder, bases: Sequence[int]) -> list[Segment]:
    """Return the segments with these bases; all that the order names must be as it says.

    Raises:
        SegmentsChangedError: they are not.
    """
    ordered = order.segments
    first = state.segment_list.index_of(ordered[0].base_offset)
    items = state.segment_list.items[first : first + len(ordered)]
    found = tuple(SourceSegment(item.base_offset, item.end_bound, item.size) for item in items)
    is_changed = found != ordered or items[-1].is_active
    if is_changed or any(item.released is not None for item in items):
        raise SegmentsChangedError(
            f"{order.name}: from offset {ordered[0].base_offset} on the log has other segments "
            f"than the round of attempt {order.attempt} read"
        )
    wanted = frozenset(bases)
    old = [item for item in items if item.base_offset in wanted]
    if len(old) != len(bases):
        raise SegmentsChangedError(f"{order.name}: the result names segments that were not ordered")
    return old


def _check_begin(state: LogState, order: CleanOrder, replacement: Replacement) -> None:
    """Check that the log begins where it did.

    Raises:
        SegmentsChangedError: what lay before was deleted meanwhile, and nothing takes its place.
    """
    begin = state.segment_list.items[0].base_offset
    if begin in replacement.gone:
        raise SegmentsChangedError(f"{order.name}: the log begins at offset {begin} now")


def _check_written(state: LogState, replacement: Replacement) -> None:
    """Check that the round's files are there, whole.

    Raises:
        SegmentsChangedError: they are not.
    """
    for segment in replacement.new:
        for suffix, size in zip(swap.SUFFIXES, segment[1:], strict=True):
            name = cleaned_file_name(segment.base_offset, replacement.attempt, suffix)
            try:
                found = state.files.stat_size(f"{state.directory}/{name}")
            except OSError as error:
                raise SegmentsChangedError(f"{state.directory}/{name}: {error}") from error
            if found != size:
                reason = f"has {found} bytes, the round wrote {size}"
                raise SegmentsChangedError(f"{state.directory}/{name}: {reason}")


def _renew_checkpoint(state: LogState, replacement: Replacement) -> None:
    """Have a snapshot that names no place in an old segment, if there is any."""
    stale = stale_snapshots(state, replacement.old)
    if stale and stale[-1] == state.snapshot_offsets[-1]:
        write_checkpoint(state, take_checkpoint(state))


def _commit(state: LogState, old: Sequence[Segment], replacement: Replacement) -> None:
    """Pass the commit point; from here on nobody opens the old segments by name.

    Raises:
        DiskFullError: no space for the manifest; nothing has changed.
        LogFailedError: it could not be written, or nobody knows.
    """
    assert state.open_lock.locked()
    for segment in old:
        assert not segment.is_active
        segment.is_replaced = True
    try:
        swap.write_replacement(state.files, state.directory, replacement)
    except OSError as error:
        message = f"{state.directory}: segments could not be replaced: {error}"
        path = swap.replacement_path(state.directory)
        if error.errno not in DISK_FULL_ERRNOS or state.files.exists(path):
            raise state.poison(LogFailedError(message)) from error
        for segment in old:
            segment.is_replaced = False
        raise DiskFullError(message) from error


def _commit_prepared(state: LogState, old: Sequence[Segment]) -> None:
    """Say here what the catalog has said; from here on nobody opens the old segments by name.

    Raises:
        OSError: the manifest has either name.
    """
    assert state.open_lock.locked()
    for segment in old:
        assert not segment.is_active
        segment.is_replaced = True
    swap_prepared.commit_prepared(state.files, state.directory)


def _publish(state: LogState, old: Sequence[Segment], new: Sequence[NewSegment]) -> None:
    """Put the new segments into the list, in one assignment."""
    segments = state.segment_list
    gone = frozenset(segment.base_offset for segment in old)
    assert segments.active.base_offset not in gone
    first = segments.index_of(old[0].base_offset)
    end = segments.index_of(old[-1].base_offset) + 1
    kept = [item for item in segments.items[first:end] if item.base_offset not in gone]
    made = [Segment(state.directory, segment.base_offset) for segment in new]
    for segment, written in zip(made, new, strict=True):
        segment.size = written.log_bytes
    between = sorted((*made, *kept), key=lambda item: item.base_offset)
    spliced = segments.spliced(first, end, between)
    for segment, following in pairwise(spliced.items[max(first - 1, 0) : first + len(between) + 1]):
        segment.end_bound = following.base_offset
    for segment in old:
        assert segment.size != SIZE_UNKNOWN
        state.open_files.forget(segment)
    with state.list_lock:
        state.sealed_bytes += sum(segment.log_bytes for segment in new)
        state.sealed_bytes -= sum(segment.size for segment in old)
        state.segment_list = spliced
