"""The bytes of each storage format, kept as hex, one file per format version.

They must never change: they stand for what lies in people's data directories. A new version of a
format gets a new file beside the old one, and both stay readable.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.policy.clock_guard import ClockNote
from logd.storage import sync_journal
from logd.storage.catalog import SqliteCatalog
from logd.storage.clean_stop import CleanLog, CleanStop, read_clean_stop, write_clean_stop
from logd.storage.clock_note import read_clock_note, write_clock_note
from logd.storage.files import Files
from logd.storage.offset_index import OffsetIndex
from logd.storage.state_file import read_state, write_state
from logd.storage.sync_journal import SyncJournal, SyncPoint
from logd.storage.time_index import TimeIndex

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
TOPIC_ID = bytes(range(16))
STOP = CleanStop(
    {
        (TOPIC_ID, 0): CleanLog(3, 900, 0, 800, 4096, 10_000, (0, 500, 800)),
        (TOPIC_ID, 1): CleanLog(0, 0, 2, 0, 0, 0),
    }
)
POINTS = [
    SyncPoint(TOPIC_ID, 3, 1_048_576, 2_000_000, 123_456_789),
    SyncPoint(TOPIC_ID, 0, 0, 1, 77),
]


def golden(name: str) -> bytes:
    return bytes.fromhex((Path(__file__).parent / f"{name}.hex").read_text())


def put(directory: str, name: str, data: bytes) -> str:
    path = f"{directory}/{name}"
    Path(path).write_bytes(data)
    return path


def test_state_file(directory: str) -> None:
    """Envelope version 1: we read it, and write the same."""
    path = put(directory, "old", golden("state_file_v1"))
    assert read_state(Files(), path, limit_bytes=100) == (7, b"a payload")
    write_state(Files(), f"{directory}/new", b"a payload", version=7)
    assert Path(directory, "new").read_bytes().hex() == golden("state_file_v1").hex()


def test_clean_stop_marker(directory: str) -> None:
    """Payload version 1."""
    path = put(directory, "old", golden("clean_stop_v1"))
    assert read_clean_stop(Files(), path, cluster_id="cluster") == STOP
    write_clean_stop(Files(), f"{directory}/new", STOP, cluster_id="cluster")
    assert Path(directory, "new").read_bytes().hex() == golden("clean_stop_v1").hex()


def test_clock_note(directory: str) -> None:
    """Payload version 1."""
    note = ClockNote(1_700_000_000_000, 5_000_000, BOOT)
    path = put(directory, "old", golden("clock_note_v1"))
    assert read_clock_note(Files(), path) == note
    write_clock_note(Files(), f"{directory}/new", note)
    assert Path(directory, "new").read_bytes().hex() == golden("clock_note_v1").hex()


def test_offset_index(directory: str) -> None:
    """Kafka's layout."""
    name = "00000000000000001000.index"
    path = put(directory, name, golden("offset_index"))
    old = OffsetIndex.open(Files(), path, base_offset=1000, max_bytes=4096, writable=False)
    assert old.lookup(1500) == (1299, 8192)
    new = OffsetIndex.create(Files(), f"{directory}/new", base_offset=1000, max_bytes=4096)
    for offset, position in ((1099, 4096), (1299, 8192), (2_000_000_999, 2**31 - 1)):
        new.append(offset, position)
    new.seal()
    assert Path(directory, "new").read_bytes().hex() == golden("offset_index").hex()


def test_time_index(directory: str) -> None:
    """Kafka's layout."""
    path = put(directory, "00000000000000001000.timeindex", golden("time_index"))
    old = TimeIndex.open(Files(), path, base_offset=1000, max_bytes=4096, writable=False)
    assert old.lookup(1_700_000_000_500) == (1_700_000_000_000, 1099)
    new = TimeIndex.create(Files(), f"{directory}/new", base_offset=1000, max_bytes=4096)
    for timestamp_ms, offset in ((1_700_000_000_000, 1099), (1_700_000_001_000, 1299)):
        new.append(timestamp_ms, offset)
    new.seal()
    assert Path(directory, "new").read_bytes().hex() == golden("time_index").hex()


def test_sync_journal(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 1; the file holds the header without its zeros, then the first two slots."""
    monkeypatch.setattr(sync_journal, "SLOTS_MIN", 8)
    kept = golden("sync_journal_v1")
    size = sync_journal.HEADER_BYTES + 16 * sync_journal.RECORD_BYTES
    whole = (kept[:24].ljust(sync_journal.HEADER_BYTES, b"\0") + kept[24:]).ljust(size, b"\0")
    old = SyncJournal.open(
        Files(), put(directory, "old", whole), boot_id="f" * 32, partitions_hint=0
    )
    assert list(old.points.values()) == POINTS[::-1]
    assert old.last_boot_id == BOOT
    new = SyncJournal.open(Files(), f"{directory}/new", boot_id=BOOT, partitions_hint=0)
    for point in POINTS:
        new.record(point)
    assert Path(directory, "new").read_bytes().hex() == whole.hex()


def test_catalog(directory: str) -> None:
    """Version 1: the tables are those of the kept schema."""
    catalog = SqliteCatalog.open(f"{directory}/catalog.sqlite", "cluster")
    rows = catalog._connection.execute(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    )
    schema = "\n".join(f"{sql};" for (sql,) in rows) + "\n"
    catalog.close()
    assert schema == (Path(__file__).parent / "catalog_v1.sql").read_text()
