"""Names in a data directory: pure functions from values to names and back.

    <data directory>/
        lock                        who uses the directory (data_directory)
        meta                        format version and cluster id (data_directory, state_file)
        boot                        the boot id of the run that wrote last (data_directory)
        clean-stop                  marker of a clean stop (clean_stop, state_file)
        clock                       what time it was, for retention (clock_note, state_file)
        scrub                       how far scrub has come (scrub_note, state_file)
        findings                    what was found wrong with chunks (findings_note, state_file)
        catalog.sqlite              topics and settings (catalog); SQLite adds -wal beside it
        catalog.sqlite.aside-<n>    what was the catalog before it was made again (catalog_rebuild)
        catalog-rebuild/            the new one while it is made
        sync.journal                what is known to be synced (sync_journal)
        ballast                     space to give back in need (data_directory)
        topics/
            <topic>-<partition>/            one partition's log
                <20 digits>.log .index .timeindex .producers ...
                groups.snapshot             committed offsets, of __consumer_offsets alone
                compaction                  how far the log is compacted
                replacement                 which segments are being replaced just now
            <topic id>-<partition>-delete/  a deleted one, to be unlinked

The 20 digits are the base offset of a segment, zero-padded, so that names sort as offsets do; they
and the partition directories are named as Kafka names them. A deleted partition carries the 32 hex
digits of the topic's id, not its name: the name is free again at once. No partition directory ends
in `-delete`, because what follows the last dash of one is a number; so the two cannot be confused.
"""

from __future__ import annotations

import re
from typing import Final

from logd.units import INT64_MAX

LOCK_NAME: Final = "lock"
META_NAME: Final = "meta"
BOOT_NAME: Final = "boot"
CLEAN_STOP_NAME: Final = "clean-stop"
CLOCK_NAME: Final = "clock"
SCRUB_NAME: Final = "scrub"
FINDINGS_NAME: Final = "findings"
CATALOG_NAME: Final = "catalog.sqlite"
# A new catalog while it is made from what is found without the old one.
REBUILD_NAME: Final = "catalog-rebuild"
JOURNAL_NAME: Final = "sync.journal"
BALLAST_NAME: Final = "ballast"
TOPICS_NAME: Final = "topics"

LOG_SUFFIX: Final = ".log"
INDEX_SUFFIX: Final = ".index"
TIME_INDEX_SUFFIX: Final = ".timeindex"
PRODUCERS_SUFFIX: Final = ".producers"
GROUPS_SNAPSHOT_NAME: Final = "groups.snapshot"
# Appended to a file's whole name: it is on its way out, and is unlinked later.
DELETED_SUFFIX: Final = ".deleted"
# Appended to a file's whole name while its next version is written; left over only by a crash.
TEMP_SUFFIX: Final = ".tmp"
# Behind the name of a file that compaction wrote and that is not part of the log yet.
CLEANED_SUFFIX: Final = ".cleaned"
# What compaction knows of a partition, and the manifest of a replacement that is under way.
COMPACTION_NAME: Final = "compaction"
REPLACEMENT_NAME: Final = "replacement"
# The same, while the catalog has not said yet whether it happens.
PREPARED_NAME: Final = "replacement.prepared"

TOPIC_ID_BYTES: Final = 16
TOPIC_NAME_CHARACTERS_MAX: Final = 249
# A file name has at most 255 bytes: 249 of the topic, a dash, and five digits.
PARTITIONS_MAX: Final = 100_000

_OFFSET_DIGITS: Final = 20
_TOPIC_NAME: Final = re.compile(rf"[a-zA-Z0-9._-]{{1,{TOPIC_NAME_CHARACTERS_MAX}}}")
_SEGMENT_FILE: Final = re.compile(rf"([0-9]{{{_OFFSET_DIGITS}}})(\.[a-z0-9.]+)")
_CLEANED: Final = re.compile(rf"([0-9]{{{_OFFSET_DIGITS}}})(?:\.[0-9]+)?(\.[a-z]+)\.cleaned")
_REPLACED: Final = re.compile(rf"([0-9]{{{_OFFSET_DIGITS}}})\.[0-9]+(\.[a-z]+)\.deleted")
_PARTITION_DIRECTORY: Final = re.compile(r"(.+)-(0|[1-9][0-9]{0,4})", re.DOTALL)
_DELETED_DIRECTORY: Final = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,4})-delete")


def is_topic_name(name: str) -> bool:
    """Return whether `name` may name a topic: 1 to 249 of a-z A-Z 0-9 . _ - and not `.` or `..`."""
    return _TOPIC_NAME.fullmatch(name) is not None and name not in (".", "..")


def offset_name(offset: int) -> str:
    """Return the 20 digits that stand for an offset in file names."""
    assert 0 <= offset <= INT64_MAX
    return f"{offset:0{_OFFSET_DIGITS}d}"


def segment_file_name(base_offset: int, suffix: str) -> str:
    """Return the name of one file of a segment: `00000000000000000042.log`."""
    assert suffix.startswith(".")
    return offset_name(base_offset) + suffix


def cleaned_file_name(base_offset: int, attempt: int, suffix: str) -> str:
    """Return the name of one file of a compacted segment before it has its own: `….7.log.cleaned`.

    Args:
        attempt: tells runs of the cleaner apart.
    """
    assert attempt >= 0
    assert suffix.startswith(".")
    return f"{offset_name(base_offset)}.{attempt}{suffix}{CLEANED_SUFFIX}"


def replaced_file_name(base_offset: int, attempt: int, suffix: str) -> str:
    """Return the last name of one file of a segment that compaction replaced: `….7.log.deleted`.

    A name of its own: renaming over an older one would remove that in this moment.
    """
    assert attempt >= 0
    assert suffix.startswith(".")
    return f"{offset_name(base_offset)}.{attempt}{suffix}{DELETED_SUFFIX}"


def base_file_name(name: str) -> str:
    """Return a segment file's own name: without what marks it as new or as deleted."""
    assert "/" not in name
    marked = _CLEANED.fullmatch(name) or _REPLACED.fullmatch(name)
    return name.removesuffix(DELETED_SUFFIX) if marked is None else marked[1] + marked[2]


def parse_segment_file_name(name: str) -> tuple[int, str] | None:
    """Return (base offset, suffix) of a name made of 20 digits and a suffix; None for any other.

    The suffix is everything behind the digits: `.log`, `.index.deleted`, ...
    """
    match = _SEGMENT_FILE.fullmatch(name)
    if match is None or int(match[1]) > INT64_MAX:
        return None
    return int(match[1]), match[2]


def partition_directory_name(topic: str, partition: int) -> str:
    """Return the name of a live partition's directory: `<topic>-<partition>`."""
    assert is_topic_name(topic)
    assert 0 <= partition < PARTITIONS_MAX
    return f"{topic}-{partition}"


def parse_partition_directory_name(name: str) -> tuple[str, int] | None:
    """Return (topic, partition) of a live partition's directory name; None for any other name."""
    match = _PARTITION_DIRECTORY.fullmatch(name)
    if match is None or not is_topic_name(match[1]):
        return None
    return match[1], int(match[2])


def deleted_directory_name(topic_id: bytes, partition: int) -> str:
    """Return the name of a deleted partition's directory: `<topic id>-<partition>-delete`."""
    assert len(topic_id) == TOPIC_ID_BYTES
    assert 0 <= partition < PARTITIONS_MAX
    return f"{topic_id.hex()}-{partition}-delete"


def parse_deleted_directory_name(name: str) -> tuple[bytes, int] | None:
    """Return (topic id, partition) of a deleted partition's directory name; None for any other."""
    match = _DELETED_DIRECTORY.fullmatch(name)
    if match is None:
        return None
    return bytes.fromhex(match[1]), int(match[2])
