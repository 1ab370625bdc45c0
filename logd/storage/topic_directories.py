"""Partition directories as wholes: renamed, removed, listed; their names are in `layout`.

The catalog says what is live. A directory that it does not know is reported and never deleted, with
one exception: one that holds no record (a creation that a crash cut short) makes room for a new
topic. partition.metadata says to which topic id a directory belongs, as Kafka writes ids: base64url
without padding.

All functions block and are called from threads. A rename counts after the directory's sync.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Final

from logd.errors import CorruptFileError, DataDirectoryError
from logd.storage.files import Files
from logd.storage.layout import (
    TOPIC_ID_BYTES,
    deleted_directory_name,
    partition_directory_name,
)

METADATA_NAME: Final = "partition.metadata"

_METADATA_BYTES_MAX: Final = 1024
_DEPTH_MAX: Final = 4
_TOPIC_ID: Final = re.compile(r"[a-zA-Z0-9_-]{22}")
_METADATA: Final = re.compile(r"version: ?0\ntopic_id: ?([a-zA-Z0-9_-]{22})\n?")


def format_topic_id(topic_id: bytes) -> str:
    """Return a topic id as Kafka's tools print it: 22 characters."""
    assert len(topic_id) == TOPIC_ID_BYTES
    return base64.urlsafe_b64encode(topic_id).decode("ascii").rstrip("=")


def parse_topic_id(text: str) -> bytes:
    """Return the 16 bytes of a topic id.

    Raises:
        ValueError: the text is none.
    """
    if _TOPIC_ID.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no topic id")
    topic_id = base64.urlsafe_b64decode(text + "==")
    assert len(topic_id) == TOPIC_ID_BYTES
    return topic_id


def read_topic_id(files: Files, directory: str) -> bytes | None:
    """Return the topic id that a partition directory belongs to, None if it does not say.

    Raises:
        CorruptFileError: partition.metadata is there and cannot be read as such.
    """
    path = f"{directory}/{METADATA_NAME}"
    if not files.exists(path):
        return None
    text = files.read_whole(path, limit_bytes=_METADATA_BYTES_MAX).decode("ascii", "replace")
    match = _METADATA.fullmatch(text)
    if match is None:
        raise CorruptFileError(path, 0, "neither version 0 nor a topic id as Kafka writes them")
    return parse_topic_id(match[1])


def holds_records(files: Files, directory: str) -> bool:
    """Return whether the directory may hold a record: any .log file with a byte in it, or anything
    that is not a file (and so nothing that we made)."""
    for name in files.list_directory(directory):
        path = f"{directory}/{name}"
        if files.is_directory(path):
            return True
        if name.endswith(".log") and files.stat_size(path) > 0:
            return True
    return False


def make_room(files: Files, directory: str) -> None:
    """Remove what stands where a new partition's directory goes, if it holds no record.

    Raises:
        DataDirectoryError: it holds records; nothing was changed.
    """
    if not files.exists(directory):
        return
    if not files.is_directory(directory) or holds_records(files, directory):
        raise DataDirectoryError(
            f"{directory} holds data that the catalog does not know; "
            f"take it over with `logd topic adopt {directory}`, or move it away"
        )
    remove_tree(files, directory)


def retire(files: Files, topics_path: str, *, topic: str, topic_id: bytes, partitions: int) -> None:
    """Rename a deleted topic's directories out of the way; a repetition finds nothing left to do.

    Durability: once this returns, no crash brings the old names back.

    Raises:
        CorruptFileError: a directory does not say which topic it belongs to; it is left alone.
    """
    assert partitions >= 0
    for partition in range(partitions):
        directory = f"{topics_path}/{partition_directory_name(topic, partition)}"
        # The name may belong to a newer topic by now: only the id decides.
        if files.is_directory(directory) and read_topic_id(files, directory) == topic_id:
            files.rename(directory, f"{topics_path}/{deleted_directory_name(topic_id, partition)}")
    files.sync_directory(topics_path)


def retired_directories(topics_path: str, *, topic_id: bytes, partitions: int) -> list[str]:
    """Return where `retire` put a topic's directories; they may be gone again."""
    assert partitions >= 0
    return [
        f"{topics_path}/{deleted_directory_name(topic_id, partition)}"
        for partition in range(partitions)
    ]


def files_in(files: Files, directories: Sequence[str]) -> list[str]:
    """Return the paths of the files in those of the directories that exist."""
    paths = (
        f"{directory}/{name}"
        for directory in directories
        if files.is_directory(directory)
        for name in files.list_directory(directory)
    )
    return [path for path in paths if not files.is_directory(path)]


def remove_retired(files: Files, directories: Sequence[str]) -> None:
    """Unlink what is left in a deleted topic's directories, and them.

    A crash in between leaves work for the next call.
    """
    for directory in directories:
        if files.is_directory(directory):
            remove_tree(files, directory)
    if directories:
        files.sync_directory(directories[0].rpartition("/")[0])


def remove_tree(files: Files, directory: str, *, depth: int = 0) -> None:
    """Unlink everything in a directory, and the directory; links are removed, not followed."""
    assert depth < _DEPTH_MAX, f"{directory} is nested deeper than anything of ours"
    for name in files.list_directory(directory):
        path = f"{directory}/{name}"
        if files.is_directory(path):
            remove_tree(files, path, depth=depth + 1)
        else:
            files.unlink(path)
    files.remove_directory(directory)


def unknown_directories(files: Files, topics_path: str, known: Iterable[str]) -> list[str]:
    """Return the paths in the topics directory that the catalog does not explain."""
    explained = frozenset(known)
    return [
        f"{topics_path}/{name}"
        for name in files.list_directory(topics_path)
        if name not in explained
    ]
