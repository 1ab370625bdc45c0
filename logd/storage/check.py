"""Check a stopped server's data directory: every file, every checksum. Changes nothing in it.

The lock is taken, so that no server writes meanwhile; the catalog is opened as a copy in a scratch
directory (`catalog_copy`). Everything found goes into one report; the check itself only fails where
the directory cannot be checked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from logd.errors import DataDirectoryError, LogdError
from logd.policy.cold.values import Generation
from logd.storage import layout
from logd.storage.catalog import TopicRow
from logd.storage.catalog_copy import WAL_SUFFIX, open_catalog_copy, read_cluster_id
from logd.storage.check_cold import check_generations, coded_ranges
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.clean_stop import CleanStop, read_clean_stop
from logd.storage.files import Files, OpenFile
from logd.storage.inspect import DAMAGE, STATE_BYTES_MAX, Depth, inspect_file
from logd.storage.state_file import read_state
from logd.storage.sync_record import SyncPoint
from logd.storage.topic_directories import format_topic_id, read_topic_id

_KNOWN_NAMES: Final = frozenset(
    (
        layout.LOCK_NAME,
        layout.META_NAME,
        layout.BOOT_NAME,
        layout.CLEAN_STOP_NAME,
        layout.CLOCK_NAME,
        layout.SCRUB_NAME,
        layout.FINDINGS_NAME,
        layout.CATALOG_NAME,
        layout.CATALOG_NAME + WAL_SUFFIX,
        layout.JOURNAL_NAME,
        layout.BALLAST_NAME,
        layout.TOPICS_NAME,
        "lost+found",
    )
)
_PASSING_SUFFIXES: Final = ("-delete", "-adopting")

LogKey = tuple[bytes, int]
CodedRanges = Mapping[LogKey, tuple[tuple[int, int], ...]]


def check_directory(
    files: Files, path: str, *, scratch: str, on_progress: Callable[[int], None] = lambda _: None
) -> CheckReport:
    """Check the data directory at `path`.

    Args:
        scratch: an empty directory outside of it, for a copy of the catalog.
        on_progress: called with the bytes of log that were checked since the last call.

    Raises:
        DataDirectoryError: it is none, or a server uses it.
        OSError: it cannot be listed.
    """
    lock = _take_lock(files, path)
    report = CheckReport(path, on_progress=on_progress)
    cluster_id = _read_cluster_id(files, path, report)
    clean = _read_clean_stop(files, path, cluster_id, report)
    points = _read_journal(files, path, report)
    topics, generations = _read_catalog(files, path, cluster_id, scratch, report)
    coded = coded_ranges(generations)
    _check_topics(files, path, topics, clean, points, coded, report)
    for name in files.list_directory(path):
        if name not in _KNOWN_NAMES and not name.endswith(layout.TEMP_SUFFIX):
            report.note(f"{path}/{name}", "not a file of logd; it was not checked")
    assert lock is None or lock.fd >= 0  # Held up to here.
    return report


def log_bytes(files: Files, path: str) -> int:
    """Return the bytes of all .log files in a data directory, for a measure of progress."""
    topics_path = f"{path}/{layout.TOPICS_NAME}"
    if not files.is_directory(topics_path):
        return 0
    return sum(
        files.stat_size(f"{topics_path}/{directory}/{name}")
        for directory in files.list_directory(topics_path)
        if files.is_directory(f"{topics_path}/{directory}")
        for name in files.list_directory(f"{topics_path}/{directory}")
        if name.endswith(layout.LOG_SUFFIX)
    )


def _take_lock(files: Files, path: str) -> OpenFile | None:
    if not files.is_directory(path) or not files.exists(f"{path}/{layout.META_NAME}"):
        raise DataDirectoryError(
            f"{path} is no data directory of logd: it has no {layout.META_NAME!r}; name the one "
            "that a server was given by --data"
        )
    lock_path = f"{path}/{layout.LOCK_NAME}"
    if not files.exists(lock_path):
        return None  # Copied without it: nobody can hold it.
    lock = files.open_read(lock_path)
    if not files.lock(lock):
        raise DataDirectoryError(f"{path} is in use by a server; stop it first, or check a copy")
    return lock


# --- what stands beside the topics ----------------------------------------------------------------


def _read_cluster_id(files: Files, path: str, report: CheckReport) -> str | None:
    meta_path = f"{path}/{layout.META_NAME}"
    try:
        cluster_id = read_cluster_id(files, path)
    except (LogdError, OSError) as error:
        report.found_error(meta_path, error)
        return None
    report.checked(files.stat_size(meta_path))
    return cluster_id


def _read_clean_stop(
    files: Files, path: str, cluster_id: str | None, report: CheckReport
) -> CleanStop | None:
    for name in (
        layout.BOOT_NAME, layout.CLEAN_STOP_NAME, layout.CLOCK_NAME, layout.SCRUB_NAME,
        layout.FINDINGS_NAME,
    ):  # fmt: skip
        state_path = f"{path}/{name}"
        try:
            read_state(files, state_path, limit_bytes=STATE_BYTES_MAX)
            report.checked(files.stat_size(state_path))
        except FileNotFoundError:  # None must be there: a new directory, an unclean stop.
            continue
        except (LogdError, OSError) as error:
            report.found_error(state_path, error)
    if cluster_id is None:
        return None
    try:
        stop = read_clean_stop(files, f"{path}/{layout.CLEAN_STOP_NAME}", cluster_id=cluster_id)
    except FileNotFoundError:
        report.note(path, "the last stop was not clean; the next start recovers")
        return None
    except (LogdError, OSError):
        return None  # Reported above, or it speaks of another cluster, which proves nothing here.
    report.clean_stop = True
    return stop


def _read_journal(files: Files, path: str, report: CheckReport) -> dict[LogKey, SyncPoint]:
    """Return the newest point of every log."""
    journal_path = f"{path}/{layout.JOURNAL_NAME}"
    newest: dict[LogKey, tuple[int, SyncPoint]] = {}
    try:
        for item in inspect_file(files, journal_path, Depth()):
            if item.kind == DAMAGE:
                report.found_damage(journal_path, item.position, item.fields["reason"])
            elif item.kind == "point":
                sequence, point = _sync_point(item.fields)
                key = (point.topic_id, point.partition)
                if key not in newest or newest[key][0] < sequence:
                    newest[key] = (sequence, point)
        report.checked(files.stat_size(journal_path))
    except FileNotFoundError:
        report.note(journal_path, "missing; recovery then begins at the last checkpoints")
    except (LogdError, OSError) as error:
        report.found_error(journal_path, error)
    return {key: point for key, (_, point) in newest.items()}


def _sync_point(fields: dict[str, int | str]) -> tuple[int, SyncPoint]:
    return int(fields["sequence"]), SyncPoint(
        topic_id=bytes.fromhex(str(fields["topic_id"])),
        partition=int(fields["partition"]),
        segment_base=int(fields["segment_base"]),
        synced_offset=int(fields["synced_offset"]),
        position=int(fields["synced_position"]),
    )


def _read_catalog(
    files: Files, path: str, cluster_id: str | None, scratch: str, report: CheckReport
) -> tuple[list[TopicRow] | None, list[Generation]]:
    """Return the topics and what is coded of them; None for the topics if it cannot be read."""
    catalog_path = f"{path}/{layout.CATALOG_NAME}"
    try:
        catalog = open_catalog_copy(
            files, catalog_path, cluster_id=cluster_id or "unknown", scratch=scratch
        )
        try:
            rows, generations = catalog.topics(), catalog.cold.generations()
        finally:
            catalog.close()
        report.checked(files.stat_size(catalog_path))
    except (LogdError, OSError) as error:
        report.found_error(catalog_path, error)
        return None, []
    report.topics = sum(row.state == "live" for row in rows)
    topics_path = f"{path}/{layout.TOPICS_NAME}"
    check_generations(files, catalog_path, topics_path, rows, generations, report)
    return rows, generations


# --- topics ---------------------------------------------------------------------------------------


def _check_topics(
    files: Files,
    path: str,
    topics: list[TopicRow] | None,
    clean: CleanStop | None,
    points: dict[LogKey, SyncPoint],
    coded: CodedRanges,
    report: CheckReport,
) -> None:
    topics_path = f"{path}/{layout.TOPICS_NAME}"
    if not files.is_directory(topics_path):
        report.found_damage(topics_path, None, "is missing")
        return
    live = {row.name: row for row in topics or [] if row.state == "live"}
    found = files.list_directory(topics_path)
    for row in live.values():
        for partition in range(row.partitions):
            if layout.partition_directory_name(row.name, partition) not in found:
                missing = f"{topics_path}/{layout.partition_directory_name(row.name, partition)}"
                report.found_damage(missing, None, "is missing, and the catalog lists it")
    for name in found:
        _check_partition_directory(
            *(files, topics_path, name, live, clean, points, coded, report),
            is_complete=topics is not None,
        )


def _check_partition_directory(
    files: Files,
    topics_path: str,
    name: str,
    live: dict[str, TopicRow],
    clean: CleanStop | None,
    points: dict[LogKey, SyncPoint],
    coded: CodedRanges,
    report: CheckReport,
    *,
    is_complete: bool,
) -> None:
    directory = f"{topics_path}/{name}"
    if name.endswith(_PASSING_SUFFIXES):
        report.note(directory, "on its way out; it was not checked")
        return
    parsed = layout.parse_partition_directory_name(name)
    if parsed is None or not files.is_directory(directory):
        report.note(directory, "not a partition's directory; it was not checked")
        return
    row = live.get(parsed[0])
    if row is not None and parsed[1] >= row.partitions:
        row = None
    if row is None and is_complete:
        reason = f"the catalog does not know it; take it in with `logd topic adopt {directory}`"
        report.note(directory, reason)
    topic_id = _topic_id(files, directory, row, report)
    key = None if topic_id is None else (topic_id, parsed[1])
    expected = Expected(
        clean=clean.logs.get(key) if clean is not None and key is not None else None,
        synced=points.get(key) if key is not None else None,
        may_have_gaps=row is None or "compact" in row.overrides.get("cleanup.policy", ""),
        coded=coded.get(key, ()) if key is not None else (),
    )
    check_partition(files, directory, expected, report)


def _topic_id(
    files: Files, directory: str, row: TopicRow | None, report: CheckReport
) -> bytes | None:
    try:
        topic_id = read_topic_id(files, directory)
    except (LogdError, OSError) as error:
        report.found_error(directory, error)
        topic_id = None
    if row is not None and topic_id is not None and topic_id != row.topic_id:
        reason = (
            f"belongs to topic id {format_topic_id(topic_id)}, "
            f"the catalog says {format_topic_id(row.topic_id)}"
        )
        report.found_damage(directory, None, reason)
    return row.topic_id if row is not None else topic_id
