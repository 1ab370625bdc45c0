"""How a log comes into being, and how one that was stopped cleanly is opened again.

After a clean stop the directory's names and what the stop noted are enough: no segment file is
opened before somebody asks for it, so the start costs the same for ten sealed segments and ten
thousand. What else must be known is which segments are released: their .log is rightly absent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage import partition_files
from logd.storage.checkpoint import has_no_producers, read_snapshot
from logd.storage.clean_stop import CleanLog
from logd.storage.damage import DamageList
from logd.storage.files import Files
from logd.storage.log_settings import LogSettings
from logd.storage.log_state import LogParts
from logd.storage.partition_files import EpochStart
from logd.storage.partition_listing import PartitionListing, list_partition, remove_leftovers
from logd.storage.producer_state import ProducerStates
from logd.storage.released import ReleasedSegment, absent_segments
from logd.storage.segment import Segment, SegmentList
from logd.storage.segment_files import create_segment, segment_paths
from logd.storage.swap import replacement_path
from logd.units import INT64_MAX

FIRST_EPOCH = EpochStart(0, 0)


def create_parts(
    files: Files, directory: str, *, topic_id: bytes, settings: LogSettings
) -> LogParts:
    """Make the directory of a new, empty log.

    Durability: once this returns, the directory and all in it are on the device; its own name
    counts after the parent directory's sync, which this does, too.

    Raises:
        FileExistsError: the directory is there. OSError: it could not be made.
    """
    files.make_directory(directory)
    files.sync_directory(directory.rpartition("/")[0])
    active = Segment(directory, 0)
    active.files = create_segment(files, directory, 0, settings=settings, with_indexes=False)
    active.size = 0
    active.appended_from = 0
    partition_files.write_epochs(files, directory, [FIRST_EPOCH])
    # Syncs the directory, and with it the names of all that was made before.
    partition_files.write_metadata(files, directory, topic_id)
    return LogParts(
        segments=SegmentList((active,)),
        damage=DamageList(files, directory),
        epochs=[FIRST_EPOCH],
        producers=ProducerStates(),
        log_start_offset=0,
        end_offset=0,
    )


def open_clean_parts(
    files: Files,
    directory: str,
    *,
    topic_id: bytes,
    clean: CleanLog,
    released: Sequence[ReleasedSegment] = (),
) -> LogParts:
    """Open a log after a clean stop, by names and by what the stop noted.

    Args:
        released: of these the .log may be absent.

    Raises:
        CorruptFileError: the directory is not as the stop left it; the log is to be recovered.
        UnsupportedFormatError: it belongs to another topic, or Kafka was interrupted in it.
        OSError: it cannot be read.
    """
    listing = list_partition(files, directory)
    partition_files.check_metadata(files, directory, topic_id)
    absent = absent_segments(released, listing.bases, clean.log_start_offset)
    sealed_bytes = _check_unchanged(files, directory, listing, clean, absent)
    remove_leftovers(files, directory, listing, released=absent)
    # In epoch 0 the file has nothing to add, and a thousand logs need not read it.
    epochs = [FIRST_EPOCH]
    if clean.leader_epoch != FIRST_EPOCH.epoch:
        epochs = partition_files.read_epochs(files, directory) or epochs
    segments = describe_segments(directory, listing, absent)
    segments.active.size = clean.active_size
    assert segments.active.base_offset == clean.active_base
    assert segments.active.base_offset <= clean.log_end_offset
    damage = (
        load_damage(files, directory, absent.values())
        if listing.has_damage
        else DamageList(files, directory)
    )
    return LogParts(
        segments=segments,
        damage=damage,
        epochs=epochs,
        producers=_clean_producers(files, directory, listing, clean),
        log_start_offset=clean.log_start_offset,
        end_offset=clean.log_end_offset,
        sealed_bytes=sealed_bytes,
        snapshot_offsets=listing.snapshots[-2:],
        unknown_files=listing.unknown,
    )


def _check_unchanged(
    files: Files,
    directory: str,
    listing: PartitionListing,
    clean: CleanLog,
    absent: dict[int, ReleasedSegment],
) -> int:
    """Compare the names with what the stop noted; return the bytes of sealed .log files.

    Segments may have been released or come back since, by hand: the stop noted all of them, hot or
    not, and their bytes. So what is absent is either released, or not as it was.
    """
    path = segment_paths(directory, clean.active_base).log
    if listing.is_replacing:
        raise CorruptFileError(replacement_path(directory), 0, "is left of a crash")
    if not listing.bases or listing.bases[-1] != clean.active_base:
        raise CorruptFileError(path, 0, "is not the last segment, as the clean stop had noted")
    bases = sorted((*listing.bases, *absent))
    if clean.segment_bases and list(clean.segment_bases) != bases:
        raise CorruptFileError(path, 0, "other segments are there than the clean stop had noted")
    if clean.segment_count and clean.segment_count != len(bases):
        reason = f"{len(bases)} segments are known, the clean stop had noted {clean.segment_count}"
        raise CorruptFileError(path, 0, reason)
    if bases[-1] != clean.active_base:
        raise CorruptFileError(path, 0, f"segment {bases[-1]} is released, and lies behind it")
    released_bytes = sum(each.size_bytes for each in absent.values())
    sealed_bytes = clean.size_bytes - clean.active_size - released_bytes
    if sealed_bytes < 0:
        raise CorruptFileError(path, 0, f"{released_bytes} bytes are released, more than it had")
    size = files.stat_size(path)
    if size != clean.active_size:
        raise CorruptFileError(
            path, min(size, clean.active_size), f"has {size} bytes, not {clean.active_size}"
        )
    return sealed_bytes


def _clean_producers(
    files: Files, directory: str, listing: PartitionListing, clean: CleanLog
) -> ProducerStates:
    """Return the producers as of the end: a clean stop writes a snapshot unless nothing was ever
    appended."""
    if clean.log_end_offset not in listing.snapshots:
        if clean.log_end_offset == 0 or not listing.snapshots:
            return ProducerStates()
        path = segment_paths(directory, clean.active_base).log
        raise CorruptFileError(path, clean.active_size, "its producer snapshot is missing")
    if has_no_producers(files, directory, clean.log_end_offset):
        return ProducerStates()
    with contextlib.suppress(UnsupportedFormatError):
        snapshot = read_snapshot(files, directory, clean.log_end_offset)
        return ProducerStates(snapshot.producers)
    path = segment_paths(directory, clean.active_base).log
    raise CorruptFileError(path, clean.active_size, "its producer snapshot cannot be read")


def load_damage(files: Files, directory: str, released: Iterable[ReleasedSegment]) -> DamageList:
    """Return what is damaged. What was lost of released segments is not: chunks have it.

    Raises:
        CorruptFileError, UnsupportedFormatError, OSError: the list cannot be used.
    """
    damage = DamageList.load(files, directory)
    if damage.ranges:
        for each in released:
            # If it cannot be written down, the next start forgets it again.
            with contextlib.suppress(OSError):
                damage.forget_within(each.base_offset, each.next_offset)
    return damage


def describe_segments(
    directory: str, listing: PartitionListing, absent: Mapping[int, ReleasedSegment]
) -> SegmentList:
    """Return the segments that names alone, and the catalog, tell of. The last one is hot."""
    bases = sorted((*listing.bases, *absent))
    assert bases
    assert bases[-1] not in absent
    ends = [*bases[1:], INT64_MAX]
    segments = []
    for base, end in zip(bases, ends, strict=True):
        segment = Segment(directory, base, end_bound=end)
        if base in absent:
            known = segment.released = absent[base]
            segment.size = known.size_bytes
            segment.max_timestamp = (known.max_timestamp_ms, base)
            segment.lacks_indexes = not (
                base in listing.offset_index_bases and base in listing.time_index_bases
            )
        segments.append(segment)
    return SegmentList(tuple(segments))
