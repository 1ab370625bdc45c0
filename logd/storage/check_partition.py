"""Check one partition's directory: every batch, every record's place, every index entry.

The log is the truth, and indexes are compared with it while it is walked once: an entry of the
offset index must be the position of a batch that holds its offset; one of the time index must name
the first batch of the segment to reach its timestamp. Memory: the index entries of one segment, and
one batch.

What may be wrong without being damage depends on the last stop. After a clean one, nothing. After a
crash, the end of the active segment behind the recovery point may be torn, and the active indexes
may hold anything there: the next start cuts the one and rebuilds the other.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from logd.errors import CorruptFileError, CorruptRecordsError, LogdError
from logd.record.records import check_records
from logd.record.timestamps import batch_timestamp_ms
from logd.storage import layout
from logd.storage.check_report import CheckReport, Finding, Severity
from logd.storage.clean_stop import CleanLog
from logd.storage.compaction_state import read_compaction
from logd.storage.damage import DAMAGED_NAME, DamagedRange, DamageList
from logd.storage.files import Files, OpenFile
from logd.storage.group_snapshot import group_snapshot_path
from logd.storage.inspect import (
    DAMAGE,
    STATE_BYTES_MAX,
    Depth,
    inspect_file,
    read_entries,
)
from logd.storage.log_walk import Damage, walk_log
from logd.storage.mapped_index import MappedIndex
from logd.storage.offset_index import OffsetIndex
from logd.storage.partition_files import EPOCHS_NAME, LOG_START_NAME, read_epochs, read_log_start
from logd.storage.partition_listing import PartitionListing, list_partition
from logd.storage.producer_state import decode_snapshot
from logd.storage.segment_scan import ScannedBatch
from logd.storage.state_file import read_state
from logd.storage.swap import Replacement, check_new_files, read_replacement, replacement_path
from logd.storage.sync_record import SyncPoint
from logd.storage.time_index import TimeIndex

_INDEXES: Final[tuple[tuple[type[MappedIndex], str], ...]] = (
    (OffsetIndex, layout.INDEX_SUFFIX),
    (TimeIndex, layout.TIME_INDEX_SUFFIX),
)
# (position in the index file, entry as stored), in the order of the file.
_Entries = deque[tuple[int, tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a partition from outside its directory.

    Attributes:
        clean: what the marker of the last clean stop says of it, None after a crash.
        synced: its recovery point, None if the journal has none.
        may_have_gaps: the topic is compacted, so offsets may be missing.
        compacted_below: the topic was compacted once, up to here.
        coded: (first, next) offsets of its coded segments, rising: they need no hot file.
    """

    clean: CleanLog | None = None
    synced: SyncPoint | None = None
    may_have_gaps: bool = False
    compacted_below: int = 0
    coded: tuple[tuple[int, int], ...] = ()

    def may_miss(self, offset: int) -> bool:
        """Whether no record need be there right before `offset`."""
        return self.may_have_gaps or offset <= self.compacted_below

    def is_coded(self, first_offset: int, next_offset: int) -> bool:
        """Return whether all of these offsets are in coded segments."""
        at = first_offset
        for first, behind in self.coded:
            at = behind if first <= at < behind else at
        return at >= next_offset


def check_partition(files: Files, directory: str, expected: Expected, report: CheckReport) -> None:
    """Check everything in a partition's directory; findings go to `report`."""
    report.partitions += 1
    try:
        listing = list_partition(files, directory)
        names = frozenset(files.list_directory(directory))
    except (LogdError, OSError) as error:
        report.found_error(directory, error)
        return
    _check_small_files(files, directory, report)
    with contextlib.suppress(LogdError, OSError):  # Reported with the small files.
        compacted_below = read_compaction(files, directory).first_uncleaned_offset
        expected = replace(expected, compacted_below=compacted_below)
    bases = listing.bases
    replacement = _check_replacement(files, directory, listing, report)
    if replacement is not None:
        bases = sorted(replacement.new_bases.union(bases).difference(replacement.gone))
    end_offset = _check_segments(files, directory, bases, names, expected, report, replacement)
    _check_released(files, directory, bases, names, expected, report)
    for offset in listing.snapshots:
        name = layout.segment_file_name(offset, layout.PRODUCERS_SUFFIX)
        _check_snapshot(files, f"{directory}/{name}", report)
    if layout.GROUPS_SNAPSHOT_NAME in names:
        _check_groups(files, directory, end_offset, report)
    _note_others(directory, listing, expected, report)
    _check_ends(files, directory, bases, end_offset, expected, report)


def _check_segments(
    files: Files,
    directory: str,
    bases: list[int],
    names: frozenset[str],
    expected: Expected,
    report: CheckReport,
    replacement: Replacement | None,
) -> int:
    """Check all segments; return the offset behind the last whole batch."""
    next_offset = bases[0] if bases else 0
    for index, base in enumerate(bases):
        if base != next_offset:
            _report_gap(directory, base, next_offset, expected, report)
        is_active = index == len(bases) - 1
        attempt = replacement.attempt if replacement and base in replacement.new_bases else None
        check = _SegmentCheck(files, directory, base, is_active, expected, report, attempt)
        next_offset = max(check.run(names), base)
    return next_offset


def _check_released(
    files: Files,
    directory: str,
    bases: list[int],
    names: frozenset[str],
    expected: Expected,
    report: CheckReport,
) -> None:
    """Look at the indexes of coded segments that are not here; a parity chunk has them as well."""
    log_start = 0
    with contextlib.suppress(LogdError, OSError):  # Reported with the small files.
        log_start = read_log_start(files, directory)
    for base, end in expected.coded:
        if base in bases or end <= log_start:
            continue
        for kind, suffix in _INDEXES:
            name = layout.segment_file_name(base, suffix)
            path = f"{directory}/{name}"
            reason = None if name in names else "is missing"
            try:
                if reason is None:
                    reason = _fault_of_index(files, path, kind, base=base, end=end)
                    report.checked(files.stat_size(path))
            except (CorruptFileError, OSError) as error:
                reason = str(error)
            if reason is not None:
                report.note(path, f"{reason}; the segment is in chunks, and read without it")


def _fault_of_index(
    files: Files, path: str, kind: type[MappedIndex], *, base: int, end: int
) -> str | None:
    """Return what is wrong with a sealed index whose log is not here."""
    for position, entry in read_entries(files, path, kind):
        if entry is None:
            return f"zeros at position {position} of a sealed index"
        relative = entry[1] if kind is TimeIndex else entry[0]
        if not base <= base + relative < end:
            return f"offset {base + relative} at position {position}, but the log ends at {end}"
    return None


def _report_gap(
    directory: str, base: int, next_offset: int, expected: Expected, report: CheckReport
) -> None:
    path = f"{directory}/{layout.segment_file_name(base, layout.LOG_SUFFIX)}"
    if base < next_offset:
        reason = f"begins at offset {base}, but the segment before it ends at {next_offset}"
        report.add(Finding("damage", path, 0, reason, base, next_offset))
    elif not expected.may_miss(base) and not expected.is_coded(next_offset, base):
        reason = f"offsets {next_offset} to {base - 1} are missing before this segment"
        report.add(Finding("damage", path, 0, reason, next_offset, base))


@dataclass(slots=True)
class _SegmentCheck:
    """One segment, while its log is walked."""

    files: Files
    directory: str
    base: int
    is_active: bool
    expected: Expected
    report: CheckReport
    attempt: int | None = None
    names: frozenset[str] = frozenset()
    next_offset: int = 0
    latest_ms: int = -1
    has_damage: bool = False
    offset_entries: _Entries = field(default_factory=deque)
    time_entries: _Entries = field(default_factory=deque)

    def run(self, names: frozenset[str]) -> int:
        """Check log and indexes; return the offset behind the last whole batch."""
        self.names = names
        path = self._path(layout.LOG_SUFFIX)
        self.next_offset = self.base
        self.offset_entries = self._load(OffsetIndex, layout.INDEX_SUFFIX)
        self.time_entries = self._load(TimeIndex, layout.TIME_INDEX_SUFFIX)
        try:
            file = self.files.open_read(path)
            for found in walk_log(self.files, file, base_offset=self.base):
                if isinstance(found, Damage):
                    self._take_damage(found, self.files.size(file))
                else:
                    self._take_batch(file, found)
            self.report.checked(self.files.size(file))
        except OSError as error:
            self.report.found_error(path, error)
        self._check_entries_left()
        return self.next_offset

    def _name(self, suffix: str) -> str:
        if self.attempt is not None:
            name = layout.cleaned_file_name(self.base, self.attempt, suffix)
            if name in self.names:
                return name
        return layout.segment_file_name(self.base, suffix)

    def _path(self, suffix: str) -> str:
        return f"{self.directory}/{self._name(suffix)}"

    @property
    def _may_be_torn(self) -> bool:
        return self.is_active and self.expected.clean is None

    # --- the log ----------------------------------------------------------------------------------

    def _take_batch(self, file: OpenFile, batch: ScannedBatch) -> None:
        header = batch.header
        if header.base_offset > self.next_offset and not self.expected.may_miss(header.base_offset):
            reason = f"offsets {self.next_offset} to {header.base_offset - 1} are missing"
            finding = Finding(
                "note", file.path, batch.position, reason, self.next_offset, header.base_offset
            )
            self.report.add(finding)
        try:
            check_records(self.files.read_at(file, batch.position, header.size))
        except CorruptRecordsError as error:
            reason = f"the batch of offset {header.base_offset}: {error}"
            self.report.add(
                Finding("damage", file.path, batch.position, reason,
                        header.base_offset, header.next_offset)
            )  # fmt: skip
        self._match_offset_entries(batch)
        self._match_time_entries(batch)
        self.latest_ms = max(self.latest_ms, batch_timestamp_ms(header))
        self.next_offset = header.next_offset
        self.report.batches += 1
        self.report.records += header.count
        self.report.on_progress(header.size)

    def _take_damage(self, found: Damage, size: int) -> None:
        synced = self.expected.synced
        synced_position = synced.position if synced and synced.segment_base == self.base else 0
        is_torn = self._may_be_torn and found.end == size and found.position >= synced_position
        reason = f"{found.reason} ({found.end - found.position} bytes)"
        if is_torn:
            reason += "; a torn end behind the last sync, which the next start cuts off"
        self.report.add(
            Finding("note" if is_torn else "damage", found.path, found.position, reason,
                    self.next_offset)
        )  # fmt: skip
        self.report.on_progress(found.end - found.position)
        # What the indexes say of the damaged stretch may be right; nobody can tell.
        self.has_damage = True
        entries = self.offset_entries
        while entries and entries[0][1][1] < found.end:
            entries.popleft()

    # --- the indexes ------------------------------------------------------------------------------

    def _load(self, kind: type[MappedIndex], suffix: str) -> _Entries:
        path = self._path(suffix)
        if self._name(suffix) not in self.names:
            return deque()
        entries: _Entries = deque()
        try:
            for position, entry in read_entries(self.files, path, kind):
                if entry is None and not self.is_active:
                    self._wrong_entry(suffix, position, "zeros at the end of a sealed index")
                if entry is not None:
                    entries.append((position, entry))
            self.report.checked(self.files.stat_size(path))
        except (CorruptFileError, OSError) as error:
            self._wrong_entry(suffix, 0, str(error))
        return entries

    def _match_offset_entries(self, batch: ScannedBatch) -> None:
        entries = self.offset_entries
        while entries and entries[0][1][1] <= batch.position:
            at, (relative, position) = entries.popleft()
            offset = self.base + relative
            holds = batch.header.base_offset <= offset <= batch.header.last_offset
            if position != batch.position or not holds:
                reason = f"offset {offset} is not in a batch at position {position}"
                self._wrong_entry(layout.INDEX_SUFFIX, at, reason)

    def _match_time_entries(self, batch: ScannedBatch) -> None:
        entries = self.time_entries
        while entries and self.base + entries[0][1][1] <= batch.header.last_offset:
            at, (timestamp_ms, relative) = entries.popleft()
            if self.has_damage and self.base + relative < batch.header.base_offset:
                continue
            latest_ms = batch_timestamp_ms(batch.header)
            if not self.latest_ms < timestamp_ms <= latest_ms:
                reason = f"offset {self.base + relative} is not the first of {timestamp_ms} ms"
                self._wrong_entry(layout.TIME_INDEX_SUFFIX, at, reason)

    def _check_entries_left(self) -> None:
        for suffix, entries in (
            (layout.INDEX_SUFFIX, self.offset_entries),
            (layout.TIME_INDEX_SUFFIX, self.time_entries),
        ):
            if entries and not self.has_damage:
                reason = f"{len(entries)} entries lie behind the end of the log"
                self._wrong_entry(suffix, entries[0][0], reason)

    def _wrong_entry(self, suffix: str, position: int, reason: str) -> None:
        severity: Severity = "damage"
        if self._may_be_torn:
            severity = "note"
            reason += "; rebuilt at the next start, as the last stop was not clean"
        self.report.add(Finding(severity, self._path(suffix), position, reason))


def _check_replacement(
    files: Files, directory: str, listing: PartitionListing, report: CheckReport
) -> Replacement | None:
    """Check and return a replacement that a crash cut short; None if there is none."""
    if not listing.is_replacing:
        return None
    path = replacement_path(directory)
    try:
        replacement = read_replacement(files, directory)
        if replacement is None:
            return None
        check_new_files(files, directory, replacement)
    except (LogdError, OSError) as error:
        report.found_error(path, error)
        return None
    report.checked(files.stat_size(path))
    report.note(path, "a compaction that a crash cut short; the next start finishes it")
    return replacement


# --- what stands beside the segments --------------------------------------------------------------


def _check_small_files(files: Files, directory: str, report: CheckReport) -> None:
    for name, read in (
        (EPOCHS_NAME, read_epochs),
        (LOG_START_NAME, read_log_start),
        (DAMAGED_NAME, DamageList.load),
        (layout.COMPACTION_NAME, read_compaction),
    ):
        path = f"{directory}/{name}"
        try:
            read(files, directory)
            if files.exists(path):
                report.checked(files.stat_size(path))
        except (LogdError, OSError) as error:
            report.found_error(path, error)


def _note_others(
    directory: str, listing: PartitionListing, expected: Expected, report: CheckReport
) -> None:
    coded = {first for first, _ in expected.coded}  # Their indexes stay here.
    for base in sorted(listing.index_bases.difference(listing.bases) - coded):
        report.note(f"{directory}/{layout.offset_name(base)}", "an index without its log")
    for _, name in listing.cuts:
        report.note(f"{directory}/{name}", "what a recovery cut off the log and saved")
    for name in listing.unknown:
        report.note(f"{directory}/{name}", "not a file of a partition; it was not checked")


def _check_snapshot(files: Files, path: str, report: CheckReport) -> None:
    try:
        decode_snapshot(path, read_state(files, path, limit_bytes=STATE_BYTES_MAX).payload)
        report.checked(files.stat_size(path))
    except (LogdError, OSError) as error:
        report.found_error(path, error)


def _check_groups(files: Files, directory: str, end_offset: int, report: CheckReport) -> None:
    """Check the snapshot of committed offsets; the log itself is never in doubt because of it."""
    path = group_snapshot_path(directory)
    try:
        for item in inspect_file(files, path, Depth()):
            if item.kind == DAMAGE:
                report.found_damage(path, item.position, item.fields["reason"])
            elif item.kind == "snapshot" and item.fields["offset"] > end_offset:
                offset = item.fields["offset"]
                reason = f"has records up to {offset}, but the log ends at {end_offset}"
                report.add(Finding("damage", path, None, reason, end_offset, offset))
        report.checked(files.stat_size(path))
    except (LogdError, OSError) as error:
        report.found_error(path, error)


def _check_ends(
    files: Files,
    directory: str,
    bases: list[int],
    end_offset: int,
    expected: Expected,
    report: CheckReport,
) -> None:
    """Compare where the log begins and ends with what was noted about it."""
    for damaged in _quarantined(files, directory):
        path = f"{directory}/{damaged.file}"
        report.add(
            Finding("damage", path, damaged.position, f"quarantined: {damaged.reason}",
                    damaged.first_offset, damaged.next_offset)
        )  # fmt: skip
    if not bases:
        report.found_damage(directory, None, "has no segment")
        return
    path = f"{directory}/{layout.segment_file_name(bases[-1], layout.LOG_SUFFIX)}"
    clean, synced = expected.clean, expected.synced
    if clean is not None and clean.log_end_offset != end_offset:
        reason = f"ends at offset {end_offset}, the clean stop noted {clean.log_end_offset}"
        report.found_damage(path, None, reason)
    elif clean is not None and clean.active_size != files.stat_size(path):
        reason = f"has {files.stat_size(path)} bytes, the clean stop noted {clean.active_size}"
        report.found_damage(path, None, reason)
    elif synced is not None and end_offset < synced.synced_offset:
        reason = f"ends at offset {end_offset}, but was synced up to {synced.synced_offset}"
        report.add(Finding("damage", path, None, reason, end_offset, synced.synced_offset))


def _quarantined(files: Files, directory: str) -> Iterator[DamagedRange]:
    try:
        yield from DamageList.load(files, directory).ranges
    except (LogdError, OSError):
        return  # Reported with the small files.
