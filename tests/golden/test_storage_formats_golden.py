"""The bytes of each storage format, kept as hex, one file per format version.

They must never change: they stand for what lies in people's data directories. A new version of a
format gets a new file beside the old one, and both stay readable.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from logd.errors import DataDirectoryError
from logd.policy.clock_guard import ClockNote
from logd.storage import sync_journal, sync_record
from logd.storage.catalog import SqliteCatalog, TopicRow
from logd.storage.catalog_schema import FORMAT_VERSION
from logd.storage.clean_order import NewSegment
from logd.storage.clean_stop import CleanLog, CleanStop, read_clean_stop, write_clean_stop
from logd.storage.clock_note import read_clock_note, write_clock_note
from logd.storage.compaction_state import CompactionState, read_compaction, write_compaction
from logd.storage.files import Files
from logd.storage.offset_index import OffsetIndex
from logd.storage.state_file import read_state, write_state
from logd.storage.swap import Replacement, read_replacement, write_replacement
from logd.storage.sync_journal import SyncJournal
from logd.storage.sync_record import SyncPoint
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


def test_compaction_state(directory: str) -> None:
    """Payload version 1."""
    state = CompactionState(1_200, 1_700_000_000_000)
    put(directory, "compaction", golden("compaction_v1"))
    assert read_compaction(Files(), directory) == state
    write_compaction(Files(), directory, state)
    assert Path(directory, "compaction").read_bytes().hex() == golden("compaction_v1").hex()


def test_replacement_manifest(directory: str) -> None:
    """Payload version 1."""
    replacement = Replacement(
        7,
        (0, 100, 250),
        (NewSegment(0, 4096, 16, 24), NewSegment(250, 61, 0, 0)),
        CompactionState(300, None),
    )
    put(directory, "replacement", golden("replacement_v1"))
    assert read_replacement(Files(), directory) == replacement
    write_replacement(Files(), directory, replacement)
    assert Path(directory, "replacement").read_bytes().hex() == golden("replacement_v1").hex()


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
    size = sync_record.HEADER_BYTES + 16 * sync_record.RECORD_BYTES
    whole = (kept[:24].ljust(sync_record.HEADER_BYTES, b"\0") + kept[24:]).ljust(size, b"\0")
    old = SyncJournal.open(
        Files(), put(directory, "old", whole), boot_id="f" * 32, partitions_hint=0
    )
    assert list(old.points.values()) == POINTS[::-1]
    assert old.last_boot_id == BOOT
    new = SyncJournal.open(Files(), f"{directory}/new", boot_id=BOOT, partitions_hint=0)
    for point in POINTS:
        new.record_all([point])
    assert Path(directory, "new").read_bytes().hex() == whole.hex()


def schema_of(catalog: SqliteCatalog) -> str:
    rows = catalog._database.connection.execute(
        "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    )
    return "\n".join(f"{sql};" for (sql,) in rows) + "\n"


def test_catalog(directory: str) -> None:
    """Version 3: the tables are those of the kept schema."""
    catalog = SqliteCatalog.open(f"{directory}/catalog.sqlite", "cluster")
    schema = schema_of(catalog)
    catalog.close()
    assert schema == (Path(__file__).parent / "catalog_v3.sql").read_text()


def write_catalog(path: str, version: int) -> None:
    """Write a catalog as an old version made it, with one topic in it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    statements = (Path(__file__).parent / f"catalog_v{version}.sql").read_text().split(";")
    for statement in sorted(statements, key=lambda each: "INDEX" in each):  # Kept by name.
        connection.execute(statement)
    if version > 1:
        connection.execute("INSERT INTO cold VALUES (1, 0)")
    connection.execute("INSERT INTO cluster VALUES (1, 'cluster', 3000)")
    connection.execute("INSERT INTO topic VALUES (?, 'old', 4, 'live')", (TOPIC_ID,))
    connection.execute("INSERT INTO topic_override VALUES (?, 'retention.ms', '5')", (TOPIC_ID,))
    connection.execute(f"PRAGMA application_id = {0x4C4F4744}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
def test_an_old_catalog_is_read(directory: str, version: int) -> None:
    """A catalog of an old version keeps all it holds, and has the schema of a new one."""
    path = f"{directory}/catalog.sqlite"
    write_catalog(path, version)
    catalog = SqliteCatalog.open(path, "cluster")
    assert catalog.topics() == [TopicRow(TOPIC_ID, "old", 4, {"retention.ms": "5"})]
    assert catalog.next_producer_id_block() == 3000
    assert catalog.cold.sequence() == 0
    assert schema_of(catalog) == (Path(__file__).parent / "catalog_v3.sql").read_text()
    catalog.close()
    SqliteCatalog.open(path, "cluster").close()


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_upgrade_is_all_or_nothing(directory: str, when: str) -> None:
    """Stopped in the upgrade, a catalog is of version 1 or of the newest, and grows at the next."""

    def stop(event: str) -> None:
        if event == f"{when} upgrade":
            raise KeyboardInterrupt

    path = f"{directory}/catalog.sqlite"
    write_catalog(path, 1)
    with pytest.raises(KeyboardInterrupt):
        SqliteCatalog.open(path, "cluster", stop)
    connection = sqlite3.connect(path)
    expected = 1 if when == "before" else FORMAT_VERSION
    assert connection.execute("PRAGMA user_version").fetchone() == (expected,)
    connection.close()
    catalog = SqliteCatalog.open(path, "cluster")
    assert [row.name for row in catalog.topics()] == ["old"]
    catalog.close()


def test_another_clusters_catalog_does_not_grow(directory: str) -> None:
    """It is refused as it is."""
    path = f"{directory}/catalog.sqlite"
    write_catalog(path, 1)
    with pytest.raises(DataDirectoryError):
        SqliteCatalog.open(path, "other")
    assert SqliteCatalog.open(path, "cluster").topics()
