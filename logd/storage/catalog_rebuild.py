"""The catalog made again, as far as the data directory goes: topics found, files put in place.

What is known without a catalog: each partition's directory says its topic's name (in its own name)
and id (partition.metadata), where its log starts, and which segments are hot. What the chunks on
storage nodes say is `policy.cold.rebuild`'s.

Settings of topics, changed server settings and the producer ids that were given out are only in the
catalog. They come from the old one where it can still be read; where not:

* the caller says by which settings a topic goes on, so that nothing of it is deleted;
* producer ids go on far above all that can have been given out.

Files, in the data directory:

    catalog-rebuild/new/      the new catalog while it is made
    catalog-rebuild/whole/    the same when it is whole: from here on it goes into place, also by
                              the next start, whatever a crash cuts short
    catalog.sqlite.aside-1    the old one, -2 … for further ones, each with its -wal; never removed
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from logd.errors import CorruptFileError, DataDirectoryError, LogdError
from logd.policy.cold.rebuild import KnownPartition
from logd.policy.cold.values import StorageNode
from logd.storage import layout, topic_directories
from logd.storage.catalog import SqliteCatalog, TopicRow
from logd.storage.catalog_copy import WAL_SUFFIX, open_catalog_copy
from logd.storage.files import Files
from logd.storage.partition_files import read_log_start
from logd.storage.partition_listing import list_partition
from logd.storage.segment_scan import scan_batches
from logd.storage.swap import read_replacement

NEW_NAME: Final = "new"
WHOLE_NAME: Final = "whole"
ASIDE_SUFFIX: Final = ".aside-"
_SUFFIXES: Final = ("", WAL_SUFFIX, "-shm")

PRODUCER_IDS_A_MS: Final = 2**20
"""No server gives out so many ids in a millisecond: a rebuild begins above all earlier ones."""


@dataclass(frozen=True, slots=True)
class OldCatalog:
    """What could still be read of the catalog that was there.

    Attributes:
        trouble: why there is nothing; empty: it was read, or there was none.
    """

    topics: tuple[TopicRow, ...] = ()
    nodes: tuple[StorageNode, ...] = ()
    broker_overrides: Mapping[str, str] = field(default_factory=dict)
    next_producer_id: int = 0
    sequence: int = 0
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class FoundTopics:
    """What the topics directory shows.

    Attributes:
        rows: the new catalog's, deleted ones with files left included.
        unsettled: names of the topics whose settings were not known.
        directories: of each partition that has one, by topic id and number.
        unclear: directories that are left alone, each with the reason.
    """

    rows: tuple[TopicRow, ...]
    unsettled: tuple[str, ...]
    directories: Mapping[tuple[bytes, int], str]
    unclear: tuple[str, ...]


def resume(files: Files, data_path: str) -> str | None:
    """Finish what a crash cut short, if a new catalog was whole by then; harmless otherwise.

    Returns:
        Where the old catalog is now; None: there was none, or nothing was to be done.

    Raises:
        DataDirectoryError: the new one was not whole, and there is no old one.
    """
    scratch = f"{data_path}/{layout.REBUILD_NAME}"
    if files.exists(f"{scratch}/{WHOLE_NAME}/{layout.CATALOG_NAME}"):
        return _put_in_place(files, data_path)
    if files.exists(scratch) and not files.exists(f"{data_path}/{layout.CATALOG_NAME}"):
        raise DataDirectoryError(
            f"{data_path}: a rebuild of the catalog was cut short; start with --rebuild-catalog "
            "again"
        )
    assert data_path
    return None


def begin(files: Files, data_path: str) -> str:
    """Return an empty directory to work in, as long as the rebuild runs."""
    scratch = f"{data_path}/{layout.REBUILD_NAME}"
    if files.exists(scratch):
        topic_directories.remove_tree(files, scratch)
    files.make_directory(scratch)
    files.make_directory(f"{scratch}/{NEW_NAME}")
    files.sync_directory(data_path)
    assert files.list_directory(f"{scratch}/{NEW_NAME}") == []
    return scratch


def read_old(files: Files, data_path: str, *, cluster_id: str, scratch: str) -> OldCatalog:
    """Return what the catalog that is there still says; it is not touched."""
    path = f"{data_path}/{layout.CATALOG_NAME}"
    assert scratch
    if not files.exists(path):
        return OldCatalog()
    try:
        catalog = open_catalog_copy(files, path, cluster_id=cluster_id, scratch=scratch)
        try:
            return OldCatalog(
                topics=tuple(catalog.topics()),
                nodes=tuple(catalog.cold.nodes()),
                broker_overrides=catalog.broker_overrides(),
                next_producer_id=catalog.next_producer_id_block(1),
                sequence=catalog.cold.sequence(),
            )
        finally:
            catalog.close()
    except (LogdError, OSError) as error:
        return OldCatalog(trouble=str(error))


# --- topics ---------------------------------------------------------------------------------------


def find_topics(
    files: Files,
    topics_path: str,
    old: OldCatalog,
    *,
    coded: Collection[tuple[bytes, int]],
    unknown_settings: Callable[[str], Mapping[str, str]],
) -> FoundTopics:
    """Return the topics that have a directory.

    Args:
        coded: partitions that have chunks: a topic has at least so many.
        unknown_settings: of a topic by name, where the old catalog does not say.
    """
    directories: dict[tuple[bytes, int], str] = {}
    names: dict[bytes, set[str]] = {}
    deleted: dict[bytes, int] = {}
    unclear: list[str] = []
    for entry in files.list_directory(topics_path):
        path = f"{topics_path}/{entry}"
        retired = layout.parse_deleted_directory_name(entry)
        if retired is not None:
            deleted[retired[0]] = max(deleted.get(retired[0], 0), retired[1] + 1)
            continue
        found = _of_directory(files, path, entry)
        if isinstance(found, str):
            unclear.append(f"{path}: {found}")
        elif found is not None:
            name, index, topic_id = found
            directories[topic_id, index] = path
            names.setdefault(topic_id, set()).add(name)
    rows, unsettled = _rows(directories, names, old, coded, unknown_settings, unclear)
    gone = [
        TopicRow(topic_id, f"deleted-{topic_id.hex()}", count, state="deleting")
        for topic_id, count in sorted(deleted.items())
        if topic_id not in names
    ]
    kept = {row.topic_id for row in rows}
    here = {key: path for key, path in directories.items() if key[0] in kept}
    return FoundTopics((*rows, *gone), tuple(unsettled), here, tuple(unclear))


def _of_directory(files: Files, path: str, entry: str) -> tuple[str, int, bytes] | str | None:
    """Return name, number and topic id of a partition's directory, or why it is left alone."""
    assert entry
    parsed = layout.parse_partition_directory_name(entry)
    if parsed is None or not files.is_directory(path):
        return "is no partition's directory"
    try:
        topic_id = topic_directories.read_topic_id(files, path)
    except CorruptFileError as error:
        return str(error)
    if topic_id is None:
        return "does not say which topic it belongs to"
    return parsed[0], parsed[1], topic_id


def _rows(
    directories: Mapping[tuple[bytes, int], str],
    names: Mapping[bytes, set[str]],
    old: OldCatalog,
    coded: Collection[tuple[bytes, int]],
    unknown_settings: Callable[[str], Mapping[str, str]],
    unclear: list[str],
) -> tuple[list[TopicRow], list[str]]:
    """Return the live topics, and the names of those whose settings were not known."""
    known = {row.topic_id: row for row in old.topics}
    users: dict[str, int] = {}
    for several in names.values():
        for name in several:
            users[name] = users.get(name, 0) + 1
    rows, unsettled = [], []
    for topic_id, several in sorted(names.items()):
        name = min(several)
        if len(several) > 1 or users[name] > 1:
            unclear.append(f"{', '.join(sorted(several))}: one name, several topic ids, or both")
            continue
        indexes = [index for key, index in (*directories, *coded) if key == topic_id]
        before = known.get(topic_id)
        if before is None:
            unsettled.append(name)
        settings = dict(unknown_settings(name)) if before is None else dict(before.overrides)
        count = max(max(indexes) + 1, 0 if before is None else before.partitions)
        state = "live" if before is None else before.state
        rows.append(TopicRow(topic_id, name, count, settings, state))
    assert len({row.topic_id for row in rows}) == len(rows)
    return rows, unsettled


def known_partitions(
    files: Files, found: FoundTopics, coded_bases: Mapping[tuple[bytes, int], Collection[int]]
) -> dict[tuple[bytes, int], KnownPartition]:
    """Return what `plan_rebuild` has to know of all partitions of live topics.

    Args:
        coded_bases: of segments that have chunks; only their hot files are looked at.

    Raises:
        CorruptFileError, UnsupportedFormatError, OSError: a directory cannot be read.
    """
    known = {}
    for row in found.rows:
        for index in range(row.partitions if row.state == "live" else 0):
            key = (row.topic_id, index)
            path = found.directories.get(key)
            known[key] = (
                KnownPartition(0)
                if path is None
                else known_partition(files, path, coded_bases.get(key, ()))
            )
    assert all(index >= 0 for _, index in known)
    return known


def known_partition(files: Files, directory: str, bases: Collection[int]) -> KnownPartition:
    """Return what is known of a partition by its directory.

    A replacement that was committed, and that a crash cut short, counts as done: recovery does it.
    """
    assert directory
    hot_bases = set(list_partition(files, directory).bases)
    replacement = read_replacement(files, directory)
    if replacement is not None:
        hot_bases = hot_bases.difference(replacement.old) | replacement.new_bases
    return KnownPartition(
        read_log_start(files, directory),
        _hot(files, directory, hot_bases.intersection(bases)),
        tuple(sorted(hot_bases)),
    )


def _hot(files: Files, directory: str, bases: Collection[int]) -> tuple[tuple[int, int], ...]:
    """Return (base offset, next offset) of the hot files of some segments."""
    found = []
    for base in sorted(bases):
        path = f"{directory}/{layout.segment_file_name(base, layout.LOG_SUFFIX)}"
        if files.exists(path):
            found.append((base, _next_offset(files, path, base)))
    assert all(base <= end for base, end in found)
    return tuple(found)


def _next_offset(files: Files, path: str, base: int) -> int:
    """Return the offset behind the last batch of a hot file, as far as it can be read."""
    assert base >= 0
    file = files.open_read(path)
    next_offset = base
    try:
        for batch in scan_batches(files, file, 0, files.size(file), verify=False):
            next_offset = max(next_offset, batch.header.next_offset)
    except CorruptFileError:
        return next_offset  # Recovery judges it; what lies behind is in chunks.
    return next_offset


# --- the new catalog ------------------------------------------------------------------------------


def new_catalog(
    data_path: str, *, cluster_id: str, found: FoundTopics, old: OldCatalog, now_ms: int
) -> SqliteCatalog:
    """Return a new catalog beside the old one, with the topics in it."""
    path = f"{data_path}/{layout.REBUILD_NAME}/{NEW_NAME}/{layout.CATALOG_NAME}"
    catalog = SqliteCatalog.open(path, cluster_id)
    has_old = bool(old.topics or old.next_producer_id)
    assert now_ms > 0
    catalog.restore(
        found.rows,
        broker_overrides=old.broker_overrides,
        # An old copy does not know what was given out since.
        next_producer_id=max(now_ms * PRODUCER_IDS_A_MS, old.next_producer_id + int(has_old)),
    )
    return catalog


def put_in_place(files: Files, data_path: str) -> str | None:
    """Put the old catalog aside and the new one, which is closed, in its place; both durable.

    Returns:
        Where the old one is now; None: there was none.
    """
    scratch = f"{data_path}/{layout.REBUILD_NAME}"
    assert not files.exists(f"{scratch}/{NEW_NAME}/{layout.CATALOG_NAME}{WAL_SUFFIX}")
    files.sync_directory(f"{scratch}/{NEW_NAME}")
    files.rename(f"{scratch}/{NEW_NAME}", f"{scratch}/{WHOLE_NAME}")
    files.sync_directory(scratch)
    return _put_in_place(files, data_path)


def _put_in_place(files: Files, data_path: str) -> str | None:
    path, aside = f"{data_path}/{layout.CATALOG_NAME}", None
    scratch = f"{data_path}/{layout.REBUILD_NAME}"
    assert files.exists(f"{scratch}/{WHOLE_NAME}/{layout.CATALOG_NAME}")
    there = [suffix for suffix in _SUFFIXES if files.exists(path + suffix)]
    if there:
        aside = _free_name(files, path)
        for suffix in there:
            files.rename(path + suffix, aside + suffix)
        files.sync_directory(data_path)
    files.rename(f"{scratch}/{WHOLE_NAME}/{layout.CATALOG_NAME}", path)
    files.sync_directory(data_path)
    topic_directories.remove_tree(files, scratch)
    return aside


def _free_name(files: Files, path: str) -> str:
    number = 1
    while any(files.exists(f"{path}{ASIDE_SUFFIX}{number}{suffix}") for suffix in ("", WAL_SUFFIX)):
        number += 1
    assert number >= 1
    return f"{path}{ASIDE_SUFFIX}{number}"


def coded_bases(
    keys: Sequence[tuple[bytes, int, int]],
) -> dict[tuple[bytes, int], set[int]]:
    """Return the base offsets of coded segments by partition, from (topic id, number, base)."""
    bases: dict[tuple[bytes, int], set[int]] = {}
    for topic_id, partition, base in keys:
        bases.setdefault((topic_id, partition), set()).add(base)
    assert sum(map(len, bases.values())) <= len(keys)
    return bases
