"""The sync journal: up to where each log is known to be on the device.

After a log's fdatasync returned, a `SyncPoint` is noted; ten times a second the newest of each log
are written here, one record each, and synced. The newest valid record of a log is its recovery
point R: below R recovery cuts nothing and reuses no offset. The ack does not wait for it. A point
that is lost makes R lower, never wrong: what it would have said happened before it was noted. (A
record written with each sync would be no surer, since only the sync of the journal outlives a power
cut, and a process that dies takes nothing from the kernel along; it cost a tenth of the CPU of an
append that comes alone.)

The file: a header, then two halves of `slots` records (`sync_record` has the bytes). All blocks are
reserved when the file is made: a journal never meets a full disk.

Halves are used in turn. When one is full, the newest record of every log is copied to the start of
the other, byte for byte and in order of sequence, and synced; only then is the next record written,
behind them. So, at every moment, some half that is synced holds a record of every log that had one
synced: while a half is overwritten, the other one has been complete since its own copies were
synced.

Opening reads all slots. Those that fail the checksum (torn, never written, garbage) are skipped; of
the others the highest sequence of each log wins. A half that by itself has all the winners is
complete, and writing goes on there, behind its highest sequence: nothing is written to open a
journal. If no half is (it was damaged), or there are not enough slots for the partitions, or the
header is not ours, the winners are written to a new file, which replaces the old one by a rename.

A log that is forgotten is not copied any more. Until its last record is overwritten, opening may
still find it: topic ids are never used again, so it means nothing, and the caller forgets it again.

Any thread may call any method; a lock makes them take turns. Only the sync is outside of it. `note`
takes a lock of its own, which nobody holds during I/O: the event loop may call it.
"""

from __future__ import annotations

import contextlib
import errno
import os.path
import threading
from collections.abc import Sequence
from typing import Final

from logd.errors import UnsupportedFormatError
from logd.storage.files import Files, OpenFile
from logd.storage.layout import TEMP_SUFFIX, TOPIC_ID_BYTES
from logd.storage.sync_record import (
    FORMAT_VERSION,
    HEADER,
    HEADER_BYTES,
    RECORD,
    RECORD_BYTES,
    RECORD_MAGIC,
    SLOTS_MAX,
    FoundRecord,
    LogKey,
    SyncPoint,
    boot_id_of,
    decode_header,
    decode_record,
    encode_header,
    encode_record,
    file_bytes,
    newest_of_each,
    place_to_go_on,
)
from logd.units import INT64_MAX

# 1 MiB a half: where ten logs are appended to all the time, halves change every minute and a half.
SLOTS_MIN: Final = 8192
# A half has room for every log's copy and as much again three times over, so changes stay rare.
SLOTS_PER_LOG: Final = 4
_READ_BYTES: Final = 512 * RECORD_BYTES


class SyncJournal:
    """An open journal. Made by `open`; used by any number of threads.

    Attributes:
        points: the newest point of every log, by (topic id, partition); read it, do not change it.
        last_boot_id: of the run that wrote the newest record found at open; None without records.
        problems: what opening passed over, one line each.
    """

    def __init__(self, files: Files, path: str, *, boot_id: bytes) -> None:
        assert len(boot_id) == 16
        self._files = files
        self._path = path
        self._boot_id = boot_id
        self._lock = threading.RLock()
        self._noting = threading.Lock()
        self._noted: dict[LogKey, SyncPoint] = {}
        self._newest: dict[LogKey, bytes] = {}
        self._file: OpenFile | None = None
        self._slots = 0
        self._half = 0
        self._next_slot = 0
        self._next_sequence = 1
        self._is_dirty = False
        # A sync failed: the kernel may have dropped what was written. Only a new file mends that.
        self._is_suspect = False
        self.points: dict[LogKey, SyncPoint] = {}
        self.last_boot_id: str | None = None
        self.problems: list[str] = []

    @classmethod
    def open(cls, files: Files, path: str, *, boot_id: str, partitions_hint: int) -> SyncJournal:
        """Open the journal, or make it.

        Args:
            boot_id: of the running kernel, 32 hex digits with or without dashes. partitions_hint:
            how many logs there are about to be; the file grows when there are more.

        Raises:
            UnsupportedFormatError: an intact journal of a newer version.
            OSError: it cannot be opened, or a new one is needed and cannot be written. Parts that
                cannot be read, and garbage, are no errors: `problems` says what was passed over.
        """
        assert partitions_hint >= 0
        journal = cls(files, path, boot_id=bytes.fromhex(boot_id.replace("-", "")))
        with contextlib.suppress(FileNotFoundError):
            journal._file = files.open_write(path)
        wanted = _slots_for(partitions_hint)
        if journal._file is None:
            journal._rewrite(wanted)
        else:
            journal._load(journal._file, wanted)
        assert journal._next_slot <= journal._slots
        return journal

    # --- reading what is there -------------------------------------------------------------------

    def _load(self, file: OpenFile, wanted_slots: int) -> None:
        """Take over what the file holds, and decide where writing goes on."""
        is_sound = self._reach_the_device(file)
        slots = self._read_header(file)
        # The newest first: all that follows stops at the first intact record of its kind.
        found = sorted(self._read_records(file), reverse=True)
        winners = newest_of_each(found)
        self._newest = {record.key: record.raw for record in winners}
        self.points = {record.key: decode_record(record.raw) for record in winners}
        if winners:
            self._next_sequence = winners[0].sequence + 1
            self.last_boot_id = boot_id_of(winners[0].raw)
        place = place_to_go_on(found, winners, slots) if slots and is_sound else None
        if place is not None:
            self._slots = slots
            self._half, self._next_slot = place
        wanted = max(_slots_for(len(winners)), wanted_slots)
        if place is None or slots < wanted:
            self._grow(wanted)

    def _reach_the_device(self, file: OpenFile) -> bool:
        """Make the cache and the device agree, so that what is read is what is kept.

        What the last run wrote last may be in the cache only; after a failed sync of that run the
        cache may even show records that the device has refused.
        """
        assert file.fd >= 0
        try:
            self._files.sync_data(file)
            self._files.drop_cache(file)
        except OSError as error:
            self.problems.append(f"{self._path}: cannot be synced: {error}")
            return False
        return True

    def _read_header(self, file: OpenFile) -> int:
        """Return the slots of a half, 0 if the header is not intact."""
        data = self._read_chunk(file, 0, HEADER.size)
        if len(data) < HEADER.size:
            self.problems.append(f"{self._path}: has no header")
            return 0
        header = decode_header(data)
        if header is None:
            self.problems.append(f"{self._path}: the header is damaged")
            return 0
        version, slots = header
        if version != FORMAT_VERSION:
            reason = f"has format version {version}, this server knows {FORMAT_VERSION}"
            raise UnsupportedFormatError(self._path, reason)
        if not 0 < slots <= SLOTS_MAX or self._files.size(file) != file_bytes(slots):
            self.problems.append(f"{self._path}: is not as long as its header says")
            return 0
        return slots

    def _read_records(self, file: OpenFile) -> list[FoundRecord]:
        """Return all slots that look like a record; the checksums are for later."""
        found: list[FoundRecord] = []
        end = min(self._files.size(file), file_bytes(SLOTS_MAX))
        for position in range(HEADER_BYTES, end, _READ_BYTES):
            data = self._read_chunk(file, position, min(_READ_BYTES, end - position))
            whole = memoryview(data)[: len(data) - len(data) % RECORD_BYTES]
            slot = (position - HEADER_BYTES) // RECORD_BYTES
            at = 0
            for magic, partition, sequence, topic_id, *_ in RECORD.iter_unpack(whole):
                if magic == RECORD_MAGIC:
                    raw = data[at : at + RECORD_BYTES]
                    found.append(FoundRecord(sequence, slot, (topic_id, partition), raw))
                slot += 1
                at += RECORD_BYTES
            assert at == len(whole)
        return found

    def _read_chunk(self, file: OpenFile, position: int, size: int) -> bytes:
        """Return the bytes; none where the device cannot read them, which is noted."""
        assert size > 0
        try:
            return self._files.read_at(file, position, size)
        except OSError as error:
            self.problems.append(
                f"{self._path}: {size} bytes at position {position} cannot be read: {error}"
            )
            return b""

    # --- writing ---------------------------------------------------------------------------------

    def note(self, point: SyncPoint) -> None:
        """Have the next `sync` record a point; call it after the log's fdatasync returned.

        It never waits for I/O. Of a log's points the newest is recorded.
        """
        with self._noting:
            self._noted[(point.topic_id, point.partition)] = point

    def record_all(self, points: Sequence[SyncPoint]) -> None:
        """Write up to where logs are synced; call it after their fdatasync returned.

        Durability: with the next `sync`. When a half is full this call copies and syncs first.

        Raises:
            OSError: some points are not recorded; those logs' older ones stay, and the next call
                tries again from a sound state.
        """
        with self._lock:
            rest = list(points)
            while rest:
                file = self._with_room()
                room = self._slots - self._next_slot
                self._write(file, rest[:room])
                rest = rest[room:]

    def _record_noted(self) -> None:
        """Record what was noted; what cannot be recorded is noted again, if nothing newer is."""
        with self._noting:
            noted, self._noted = self._noted, {}
        try:
            self.record_all(list(noted.values()))
        except OSError:
            with self._noting:
                self._noted = {**noted, **self._noted}
            raise

    def _write(self, file: OpenFile, points: list[SyncPoint]) -> None:
        """Write points to the free slots, in one call."""
        assert 0 < len(points) <= self._slots - self._next_slot
        records = []
        for number, point in enumerate(points, self._next_sequence):
            assert 0 <= point.segment_base <= point.synced_offset <= INT64_MAX
            assert 0 <= point.position <= INT64_MAX
            records.append(encode_record(point, sequence=number, boot_id=self._boot_id))
        position = self._position(self._half, self._next_slot)
        self._files.write_at(file, position, [b"".join(records)])
        self._next_slot += len(records)
        self._next_sequence += len(records)
        for point, raw in zip(points, records, strict=True):
            self._newest[(point.topic_id, point.partition)] = raw
            self.points[(point.topic_id, point.partition)] = point
        self._is_dirty = True

    def sync(self) -> None:
        """Record what was noted and force all records to the device, if there is anything new.

        Raises:
            OSError: the records since the last sync may be lost. The next call writes all newest
                records to a new file: a failed sync is never repeated on the same one.
        """
        with self._lock:
            self._record_noted()
            if self._is_suspect:
                self._rewrite(self._slots)
            if not self._is_dirty:
                return
            assert self._file is not None
            file = self._file
            self._is_dirty = False
        try:
            self._files.sync_data(file)
        except OSError:
            with self._lock:
                self._is_suspect = True
                self._is_dirty = True
            raise

    @property
    def dirty(self) -> bool:
        """Whether there is anything to `sync`."""
        return self._is_dirty or bool(self._noted)

    def boot_id_of(self, topic_id: bytes, partition: int) -> str | None:
        """Return the boot id of the run that wrote the log's newest record; None without record."""
        assert len(topic_id) == TOPIC_ID_BYTES
        raw = self._newest.get((topic_id, partition))
        return None if raw is None else boot_id_of(raw)

    def forget(self, topic_id: bytes, partition: int) -> None:
        """Stop keeping a log's record: the log is gone for good."""
        assert len(topic_id) == TOPIC_ID_BYTES
        with self._lock:
            with self._noting:
                self._noted.pop((topic_id, partition), None)
            self._newest.pop((topic_id, partition), None)
            self.points.pop((topic_id, partition), None)

    def close(self) -> None:
        """Sync and let go of the file.

        Raises:
            OSError: as `sync`.
        """
        try:
            self.sync()
        finally:
            self._file = None
        assert not self._is_dirty

    # --- halves ----------------------------------------------------------------------------------

    def _position(self, half: int, slot: int) -> int:
        assert half in (0, 1)
        assert 0 <= slot < self._slots
        return HEADER_BYTES + (half * self._slots + slot) * RECORD_BYTES

    def _with_room(self) -> OpenFile:
        """Return the file, in which a slot is free at `_next_slot`."""
        assert self._file is not None, "the journal is closed"
        if self._is_suspect:
            self._rewrite(self._slots)
        elif self._next_slot == self._slots:
            wanted = _slots_for(len(self._newest))
            if wanted > self._slots:
                self._grow(wanted)
            if self._next_slot == self._slots:
                self._switch(self._file)
        assert self._next_slot < self._slots, "more logs than a half has slots"
        return self._file

    def _switch(self, file: OpenFile) -> None:
        """Copy every log's newest record to the other half and go on there."""
        copies = self._copies()
        assert len(copies) < self._slots
        other = 1 - self._half
        if copies:
            self._files.write_at(file, self._position(other, 0), [b"".join(copies)])
        try:
            self._files.sync_data(file)
        except OSError:
            self._is_suspect = True
            raise
        self._is_dirty = False
        self._half = other
        self._next_slot = len(copies)

    def _grow(self, slots: int) -> None:
        """Move to a file with more slots; where there is no space for one, stay if possible."""
        assert slots >= SLOTS_MIN
        try:
            self._rewrite(slots)
        except OSError as error:
            is_possible = len(self._newest) < self._slots and not self._is_suspect
            if not is_possible or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def _rewrite(self, slots: int) -> None:
        """Write every log's newest record to a new file, which takes the old one's place."""
        assert len(self._newest) < slots <= SLOTS_MAX
        copies = self._copies()
        temp = self._path + TEMP_SUFFIX
        try:
            file = self._files.create_or_truncate(temp)
            self._files.allocate(file, 0, file_bytes(slots))
            self._files.write_at(file, 0, [encode_header(slots), *copies])
            self._files.sync(file)
            self._files.rename(temp, self._path)
        except OSError:
            # Best effort: the space may be needed, and the next attempt empties the file anyway.
            with contextlib.suppress(OSError):
                self._files.unlink(temp)
            raise
        # The old file is gone from here on; should this fail, the next call writes another one.
        file.path = self._path
        self._file = file
        self._slots = slots
        self._half = 0
        self._next_slot = len(copies)
        self._is_suspect = True
        self._files.sync_directory(os.path.dirname(self._path) or ".")
        self._is_suspect = False
        self._is_dirty = False

    def _copies(self) -> list[bytes]:
        """Return the newest record of every log in order of sequence."""
        copies = sorted(self._newest.values(), key=lambda raw: raw[8:16])
        assert len(copies) <= SLOTS_MAX
        return copies


def _slots_for(logs: int) -> int:
    """Return the slots of a half that suits so many logs: a power of two."""
    assert logs >= 0
    slots = SLOTS_MIN
    while slots < logs * SLOTS_PER_LOG and slots < SLOTS_MAX:
        slots *= 2
    return slots
