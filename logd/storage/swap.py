"""The replacement of n segments by m, with one commit point: the file `replacement`.

A state file (state_file, payload version 1) whose payload is JSON in UTF-8:

    {"attempt": 7, "old": [0, 100], "new": [[0, 4096, 16, 24]], "first_uncleaned_offset": 200,
     "next_horizon_ms": null}

`old` are base offsets; `new` are base offset, bytes of .log, .index and .timeindex. In order, each
step durable before the next one:

    1  the new segments are whole and synced, under names that nobody reads (`cleaned_segment`)
    2  the manifest is written: from here on the new segments are the log
    3  the old segments' files are renamed to .deleted, the new ones' to their own names
    4  the file `compaction` says how far the log is compacted
    5  the manifest is removed

A crash before 2 leaves the old segments and files that the next start removes; a crash behind it
leaves the manifest, and the next start does 3 to 5 (again): each rename is done if its source is
still there. So at every moment exactly one version is valid, and which one is told by one file,
written by one rename, covered by one checksum. Kafka's order of renames needs no manifest, but
trusts every single name.

A file's bytes are the same before and behind its renames: who has an old one open reads on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from logd.errors import CorruptFileError
from logd.storage.clean_order import NewSegment
from logd.storage.compaction_state import CompactionState, write_compaction
from logd.storage.files import Files
from logd.storage.json_state import read_json_state
from logd.storage.layout import (
    DELETED_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    REPLACEMENT_NAME,
    TIME_INDEX_SUFFIX,
    cleaned_file_name,
    replaced_file_name,
    segment_file_name,
)
from logd.storage.state_file import remove_state, write_state
from logd.units import INT64_MAX, MIB

T = TypeVar("T")

REPLACEMENT_VERSION: Final = 1
# A million segments.
REPLACEMENT_BYTES_MAX: Final = 64 * MIB
SUFFIXES: Final = (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX)


@dataclass(frozen=True, slots=True)
class ReplaceResult:
    """What `Log.replace_segments` did.

    Attributes:
        unlink_paths: files that were renamed out of the log, to be unlinked when nobody reads them.
    """

    unlink_paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Replacement:
    """What the manifest says.

    Attributes:
        attempt: part of the new files' first names.
        old: base offsets of the segments that go, in order.
        compaction: what the file `compaction` is to say.
    """

    attempt: int
    old: tuple[int, ...]
    new: tuple[NewSegment, ...]
    compaction: CompactionState

    def __post_init__(self) -> None:
        """Refuse what no round can come to."""
        bases = tuple(segment.base_offset for segment in self.new)
        numbers = (self.attempt, *self.old, *(value for segment in self.new for value in segment))
        if not all(type(value) is int and 0 <= value <= INT64_MAX for value in numbers):
            raise ValueError("a number is none, or out of bounds")
        if not self.old or not all(_rises(offsets) for offsets in (self.old, bases)):
            raise ValueError("segments are named out of order")

    @property
    def new_bases(self) -> frozenset[int]:
        """The new segments' base offsets."""
        return frozenset(segment.base_offset for segment in self.new)

    @property
    def gone(self) -> tuple[int, ...]:
        """The old base offsets that no new segment has."""
        return tuple(base for base in self.old if base not in self.new_bases)


def _rises(offsets: tuple[int, ...]) -> bool:
    return list(offsets) == sorted(set(offsets))


def replacement_path(directory: str) -> str:
    """Return the path of the manifest."""
    return f"{directory}/{REPLACEMENT_NAME}"


def write_replacement(files: Files, directory: str, replacement: Replacement) -> None:
    """Write the manifest: the commit point. Durable once this returns.

    Raises:
        OSError: if the manifest is there nevertheless, the replacement may be committed or not.
    """
    payload = encode_replacement(replacement)
    write_state(files, replacement_path(directory), payload, version=REPLACEMENT_VERSION)


def encode_replacement(replacement: Replacement, **more: object) -> bytes:
    """Return the payload of a manifest; `more` members are passed over by whoever decodes it."""
    fields = {
        "attempt": replacement.attempt,
        "old": replacement.old,
        "new": replacement.new,
        **replacement.compaction.to_fields(),
        **more,
    }
    payload = json.dumps(fields, separators=(",", ":")).encode()
    assert replacement == decode_replacement(json.loads(payload))
    assert len(payload) <= REPLACEMENT_BYTES_MAX
    return payload


def read_replacement(files: Files, directory: str) -> Replacement | None:
    """Return what the manifest says; None if there is none.

    Raises:
        CorruptFileError: damaged, or it says what cannot be. UnsupportedFormatError: a newer
        version. OSError: it cannot be read.
    """
    return read_manifest(files, replacement_path(directory), decode_replacement)


def read_manifest(files: Files, path: str, decode: Callable[[Any], T]) -> T | None:
    """Return what a manifest of this form says, whatever its name; None if there is none.

    Raises: as `read_replacement`.
    """
    assert path
    try:
        return read_json_state(
            files,
            path,
            decode,
            what="manifest of a replacement",
            limit_bytes=REPLACEMENT_BYTES_MAX,
            newest_version=REPLACEMENT_VERSION,
        )
    except FileNotFoundError:
        return None


def decode_replacement(fields: dict[str, Any]) -> Replacement:
    """Return the replacement that a manifest's members describe.

    Raises:
        ValueError, TypeError, KeyError: none.
    """
    return Replacement(
        fields["attempt"],
        tuple(fields["old"]),
        tuple(NewSegment(*row) for row in fields["new"]),
        CompactionState(fields["first_uncleaned_offset"], fields["next_horizon_ms"]),
    )


def check_new_files(files: Files, directory: str, replacement: Replacement) -> None:
    """Check that each new log is there and whole, under its first or its own name.

    The indexes can be built anew.

    Raises:
        CorruptFileError: one is missing, or has another length. OSError: it cannot be looked at.
    """
    for segment in replacement.new:
        path = f"{directory}/{segment_file_name(segment.base_offset, LOG_SUFFIX)}"
        name = cleaned_file_name(segment.base_offset, replacement.attempt, LOG_SUFFIX)
        if files.exists(f"{directory}/{name}"):
            path = f"{directory}/{name}"
        try:
            size = files.stat_size(path)
        except FileNotFoundError:
            size = 0 if segment.log_bytes else -1
        if size != segment.log_bytes:
            reason = f"{segment.log_bytes} bytes belong here, says {REPLACEMENT_NAME}"
            raise CorruptFileError(path, max(min(size, segment.log_bytes), 0), reason)


def exchange_names(files: Files, directory: str, replacement: Replacement) -> list[str]:
    """Give the old files their last names and the new ones their own; return the old ones' paths.

    Durability: all of it, once this returns. What was done before is not done again.

    Raises:
        OSError: some are renamed, some are not.
    """
    unlink_paths: list[str] = []
    attempt = replacement.attempt
    assert replacement.old
    for base in replacement.gone:
        for suffix in SUFFIXES:
            unlink_paths += _set_aside(files, directory, base, attempt, suffix)
    for segment in replacement.new:
        base = segment.base_offset
        for suffix in SUFFIXES:
            name = cleaned_file_name(base, attempt, suffix)
            if files.exists(f"{directory}/{name}"):
                unlink_paths += _set_aside(files, directory, base, attempt, suffix)
                files.rename(
                    f"{directory}/{name}", f"{directory}/{segment_file_name(base, suffix)}"
                )
    files.sync_directory(directory)
    return unlink_paths


def _set_aside(files: Files, directory: str, base: int, attempt: int, suffix: str) -> list[str]:
    last_path = f"{directory}/{replaced_file_name(base, attempt, suffix)}"
    assert last_path.endswith(DELETED_SUFFIX)
    # A segment that was copied here and never opened may have no index.
    with contextlib.suppress(FileNotFoundError):
        files.rename(f"{directory}/{segment_file_name(base, suffix)}", last_path)
        return [last_path]
    return []


def end_replacement(files: Files, directory: str, replacement: Replacement) -> None:
    """Note how far the log is compacted, and remove the manifest; durable once this returns.

    Raises:
        OSError: the manifest may still be there.
    """
    assert files.exists(replacement_path(directory)), "committed"
    # Without this the next round looks at more than it has to, so a full disk is no obstacle.
    with contextlib.suppress(OSError):
        write_compaction(files, directory, replacement.compaction)
    remove_state(files, replacement_path(directory))


def roll_forward(files: Files, directory: str) -> bool:
    """Finish a replacement that a crash cut short behind its commit point; return if there was one.

    Raises:
        CorruptFileError: the manifest, or a new segment, is damaged; nothing was changed.
        UnsupportedFormatError: a newer version. OSError: it is still to be finished.
    """
    replacement = read_replacement(files, directory)
    if replacement is None:
        return False
    check_new_files(files, directory, replacement)
    exchange_names(files, directory, replacement)
    end_replacement(files, directory, replacement)
    return True
