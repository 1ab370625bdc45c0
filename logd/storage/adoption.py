"""Taking in a partition directory that the catalog does not know, or that came from elsewhere.

Every batch is looked at before anything is changed: what this server cannot serve (transactional
batches, messages from before Kafka 0.11) is refused by file and offset, because a client that met
it later could not be helped. Damage is no reason to refuse: recovery reports it as it does for our
own.

A directory from outside is copied, never moved: only its .log files, leader epochs and log start
offset, since indexes are rebuilt from the log, and producers are not continued. What is in chunks
of another server cannot come along: such a directory is refused. The copy is made under a name that
no partition has, and gets its own name when it is complete and synced.

All functions block and are called from threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from logd.errors import DataDirectoryError, UnsupportedFormatError
from logd.record.batch import CONTROL_BIT, TRANSACTIONAL_BIT
from logd.storage.files import Files, OpenFile
from logd.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    PRODUCERS_SUFFIX,
    REPLACEMENT_NAME,
    parse_segment_file_name,
)
from logd.storage.log_walk import Damage, walk_log
from logd.storage.partition_files import EPOCHS_NAME, LOG_START_NAME, read_log_start
from logd.storage.segment_scan import is_old_message
from logd.storage.topic_directories import holds_records, make_room, remove_tree
from logd.units import INT64_MAX, MIB

ADOPTING_SUFFIX: Final = "-adopting"
"""Ends the name of a copy that is not complete; a later adoption of the same name removes it."""

_COPY_BYTES: Final = MIB
_SYNC_EVERY_BYTES: Final = 64 * MIB


def check_adoptable(files: Files, directory: str) -> int:
    """Look at every batch of a partition directory; return the bytes of its .log files.

    Raises:
        DataDirectoryError: not a directory, or none that holds a log.
        UnsupportedFormatError: a transactional or control batch, or a message of an old format; the
            text names file and offset.
        OSError: a file cannot be read.
    """
    if not files.is_directory(directory):
        raise DataDirectoryError(f"{directory} is not a directory")
    segments = list(_segments(files, directory))
    if not segments:
        raise DataDirectoryError(f"{directory} holds no .log file named by an offset")
    size = 0
    for base_offset, name in segments:
        file = files.open_read(f"{directory}/{name}")
        _check_segment(files, file, base_offset)
        size += files.size(file)
    return size


def check_destination(files: Files, directory: str, target: str) -> None:
    """Accept a place for the directory: its own, a free one, or one without a record in it.

    Raises:
        DataDirectoryError: other records lie there.
    """
    assert directory
    if directory != target and files.exists(target) and holds_records(files, target):
        raise DataDirectoryError(
            f"{target} holds data already; take that over first, or choose another name"
        )


def _segments(files: Files, directory: str) -> Iterator[tuple[int, str]]:
    for name in files.list_directory(directory):
        parsed = parse_segment_file_name(name)
        if parsed is not None and parsed[1] == LOG_SUFFIX:
            yield parsed[0], name


def _check_segment(files: Files, file: OpenFile, base_offset: int) -> None:
    assert base_offset >= 0
    for found in walk_log(files, file, base_offset=base_offset):
        if isinstance(found, Damage):
            if is_old_message(files, file, found.position, found.end):
                raise UnsupportedFormatError(
                    file.path,
                    f"position {found.position} holds a message of format 0 or 1; "
                    "only record batches of format 2 can be taken in",
                )
            continue
        header = found.header
        if header.attributes & (TRANSACTIONAL_BIT | CONTROL_BIT):
            kind = "control" if header.attributes & CONTROL_BIT else "transactional"
            raise UnsupportedFormatError(
                file.path,
                f"offset {header.base_offset} (position {found.position}) is a {kind} batch; "
                "transactions are not supported by this server",
            )


def copy_partition(files: Files, source: str, target: str, *, reserve_bytes: int) -> str:
    """Copy a partition directory; return the path of the copy, whole and synced.

    The copy is not at `target` yet, see `move_into_place`.

    Args:
        target: where the directory is to be.
        reserve_bytes: free space that must remain.

    Raises:
        DataDirectoryError: there is not enough space, a compaction was cut short, or records are
            in chunks of the server that wrote it; nothing was copied.
        OSError: the copy failed; the next one of the same name removes what there is of it.
    """
    parent = target.rpartition("/")[0]
    if files.exists(f"{source}/{REPLACEMENT_NAME}"):
        raise DataDirectoryError(
            f"{source} holds a half-finished replacement of segments; start and stop the server "
            "that wrote it once"
        )
    _refuse_released(files, source)
    names = [name for _, name in _segments(files, source)]
    need_bytes = sum(files.stat_size(f"{source}/{name}") for name in names)
    free_bytes = files.free_bytes(parent)
    if free_bytes < need_bytes + reserve_bytes:
        raise DataDirectoryError(
            f"copying {source} takes {need_bytes} bytes; {free_bytes} are free, "
            f"of which {reserve_bytes} are the reserve"
        )
    unfinished = target + ADOPTING_SUFFIX
    if files.exists(unfinished):
        remove_tree(files, unfinished)
    files.make_directory(unfinished)
    names += [name for name in (EPOCHS_NAME, LOG_START_NAME) if files.exists(f"{source}/{name}")]
    for name in names:
        _copy_file(files, f"{source}/{name}", f"{unfinished}/{name}")
    files.sync_directory(unfinished)
    return unfinished


def _refuse_released(files: Files, source: str) -> None:
    """Refuse a directory with released segments: an index without its log, not below the start.

    Kafka may leave such an index below its log start, which it keeps elsewhere; so what lies before
    the first .log counts only in a directory that we wrote.
    """
    names = files.list_directory(source)
    parsed = [each for each in map(parse_segment_file_name, names) if each is not None]
    hot = sorted(base for base, suffix in parsed if suffix == LOG_SUFFIX)
    is_ours = LOG_START_NAME in names or any(each[1] == PRODUCERS_SUFFIX for each in parsed)
    log_start = read_log_start(files, source)
    bases = sorted({base for base, suffix in parsed if suffix in (LOG_SUFFIX, INDEX_SUFFIX)})
    for base, following in pairwise((*bases, INT64_MAX)):
        is_known = base in hot or following <= log_start
        if not is_known and (is_ours or base > hot[0]):
            raise DataDirectoryError(
                f"{source} has no .log of the segment at offset {base}: it is in chunks; thaw it "
                "on the server that has them (`logd cold thaw`)"
            )


def move_into_place(files: Files, directory: str, target: str) -> None:
    """Give a directory the name of the partition that it becomes; durable once this returns.

    An empty partition's directory makes room.

    Raises:
        DataDirectoryError: the name is taken by a directory that holds records.
    """
    assert directory != target
    make_room(files, target)
    files.rename(directory, target)
    files.sync_directory(target.rpartition("/")[0])


def _copy_file(files: Files, source: str, target: str) -> None:
    assert source != target
    original = files.open_read(source)
    copy = files.create(target)
    position = unsynced_bytes = 0
    while data := files.read_at(original, position, _COPY_BYTES):
        files.write_at(copy, position, [data])
        position += len(data)
        unsynced_bytes += len(data)
        if unsynced_bytes >= _SYNC_EVERY_BYTES:  # Else one sync at the end holds up all others.
            files.sync_data(copy)
            unsynced_bytes = 0
    files.sync(copy)
