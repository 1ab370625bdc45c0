"""Data directories made by hand, for tests of what only reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from logd.record.batch import read_header
from logd.record.records import encode_batch
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog
from logd.storage.clean_stop import CleanLog, CleanStop, write_clean_stop
from logd.storage.files import Files
from logd.storage.offset_index import OffsetIndex
from logd.storage.partition_files import EpochStart, write_epochs, write_metadata
from logd.storage.producer_state import ProducerSnapshot, encode_snapshot
from logd.storage.state_file import write_state
from logd.storage.sync_journal import SyncJournal
from logd.storage.sync_record import SyncPoint
from logd.storage.time_index import TimeIndex

FILES = Files()
CLUSTER_ID = "AAAAAAAAAAAAAAAAAAAAAA"
BOOT_ID = "0" * 32
TOPIC_ID = bytes(range(16))
START_MS = 1_700_000_000_000
INDEX_BYTES = 1 << 20


def batches(base_offset: int, count: int, *, records: int = 3, codec: int = 0) -> list[bytes]:
    """Return `count` batches of `records` records each, a second apart."""
    made = []
    for number in range(count):
        offset = base_offset + number * records
        at_ms = START_MS + offset * 1000
        rows = [(b"key", b"value %d" % (offset + i), [], at_ms) for i in range(records)]
        made.append(bytes(encode_batch(rows, base_offset=offset, codec=codec)))
    return made


def write_segment(directory: Path, base_offset: int, made: list[bytes], *, active: bool) -> None:
    """Write a segment's log and both indexes, an entry a batch; an active index keeps its zeros."""
    stem = str(directory / layout.offset_name(base_offset))
    (directory / f"{layout.offset_name(base_offset)}.log").write_bytes(b"".join(made))
    offsets = OffsetIndex.create(
        FILES, f"{stem}.index", base_offset=base_offset, max_bytes=INDEX_BYTES
    )
    times = TimeIndex.create(
        FILES, f"{stem}.timeindex", base_offset=base_offset, max_bytes=INDEX_BYTES
    )
    position = 0
    for data in made:
        header = read_header(data)
        offsets.append(header.last_offset, position)
        times.append(header.max_timestamp, header.last_offset)
        position += len(data)
    for index in (offsets, times):
        if active:
            index.sync()
        else:
            index.seal()
        index.close()


@dataclass
class DirectoryMaker:
    """A data directory with one topic `t` of one partition and two segments, as a clean stop leaves
    it."""

    root: Path
    clean: bool = True
    sealed: list[bytes] = field(default_factory=lambda: batches(0, 10))
    active: list[bytes] = field(default_factory=lambda: batches(30, 5, codec=1))

    @property
    def partition(self) -> Path:
        """The partition's directory."""
        return self.root / "topics" / "t-0"

    @property
    def sealed_log(self) -> Path:
        """The first segment's log."""
        return self.partition / "00000000000000000000.log"

    @property
    def active_log(self) -> Path:
        """The second segment's log."""
        return self.partition / "00000000000000000030.log"

    def make(self) -> DirectoryMaker:
        """Write all files."""
        self.partition.mkdir(parents=True)
        root = str(self.root)
        meta = json.dumps({"cluster_id": CLUSTER_ID, "created_by": "0"}).encode()
        write_state(FILES, f"{root}/meta", meta, version=1)
        (self.root / "lock").write_bytes(b"1 boot\n")
        self._write_catalog(root)
        self._write_partition(str(self.partition))
        self._write_journal(root)
        if self.clean:
            size, whole = map(sum, (map(len, self.active), map(len, self.sealed + self.active)))
            log = CleanLog(0, 45, 0, 30, size, whole, (0, 30))
            stop = CleanStop({(TOPIC_ID, 0): log})
            write_clean_stop(FILES, f"{root}/clean-stop", stop, cluster_id=CLUSTER_ID)
        return self

    def _write_catalog(self, root: str) -> None:
        catalog = SqliteCatalog.open(f"{root}/catalog.sqlite", CLUSTER_ID)
        catalog.create_topic("t", TOPIC_ID, 1, {"retention.ms": "1000"})
        catalog.close()

    def _write_partition(self, directory: str) -> None:
        write_metadata(FILES, directory, TOPIC_ID)
        write_epochs(FILES, directory, [EpochStart(0, 0)])
        write_segment(self.partition, 0, self.sealed, active=False)
        write_segment(self.partition, 30, self.active, active=not self.clean)
        snapshot = ProducerSnapshot(30, 0, 30, -1, 30, {})
        name = f"{directory}/{layout.segment_file_name(30, layout.PRODUCERS_SUFFIX)}"
        write_state(FILES, name, encode_snapshot(snapshot), version=1)

    def _write_journal(self, root: str) -> None:
        journal = SyncJournal.open(
            FILES, f"{root}/sync.journal", boot_id=BOOT_ID, partitions_hint=1
        )
        position = sum(map(len, self.active[:3]))
        journal.record_all([SyncPoint(TOPIC_ID, 0, 30, 39, position)])
        journal.close()


def flip(path: Path, position: int) -> None:
    """Invert one byte of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
