"""What lies in a partition's directory, told by names alone.

    <20 digits>.log .index .timeindex      segments; a released one has no .log
    <20 digits>.producers                  snapshots of producer state, by offset
    <20 digits>.<position>.cut             bytes that recovery cut off, kept beside the log
    partition.metadata, leader-epoch-checkpoint, log-start-offset, damaged, groups.snapshot
    compaction                             how far the log is compacted
    replacement                            names the segments that are being replaced (swap)
    replacement.prepared                   likewise, where the catalog decides (swap_prepared)
    *.deleted, *.cleaned, *.tmp            leftovers: what was on its way out, or never finished
    *.swap                                 a replacement that Kafka's cleaner left half done
    <20 digits>.snapshot, .txnindex        Kafka's, of no use here, left alone

Everything else is unknown: it is reported and left alone.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from logd.errors import UnsupportedFormatError
from logd.storage.damage import DAMAGED_NAME
from logd.storage.files import Files
from logd.storage.layout import (
    CLEANED_SUFFIX,
    COMPACTION_NAME,
    DELETED_SUFFIX,
    GROUPS_SNAPSHOT_NAME,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    PREPARED_NAME,
    PRODUCERS_SUFFIX,
    REPLACEMENT_NAME,
    TEMP_SUFFIX,
    TIME_INDEX_SUFFIX,
    offset_name,
    parse_segment_file_name,
)
from logd.storage.partition_files import EPOCHS_NAME, LOG_START_NAME
from logd.storage.topic_directories import METADATA_NAME

CUT_SUFFIX: Final = ".cut"
SWAP_SUFFIX: Final = ".swap"

_OWN_NAMES: Final = frozenset(
    (
        METADATA_NAME,
        EPOCHS_NAME,
        LOG_START_NAME,
        DAMAGED_NAME,
        GROUPS_SNAPSHOT_NAME,
        COMPACTION_NAME,
        REPLACEMENT_NAME,
        PREPARED_NAME,
    )
)
_KAFKA_SUFFIXES: Final = frozenset((".snapshot", ".txnindex"))
_CUT: Final = re.compile(r"([0-9]{20})\.([0-9]+)(?:-[0-9]+)?\.cut")


@dataclass(frozen=True, slots=True)
class PartitionListing:
    """The names in a partition's directory, sorted out.

    Attributes:
        bases: base offsets of the .log files, rising.
        offset_index_bases, time_index_bases: base offsets for which such an index exists.
        snapshots: offsets of producer snapshots, rising.
        cuts: (base offset, name) of saved tails.
        leftovers: names that a crash left and nobody needs.
        unknown: all others.
        state_names: of the files that are not of one segment, those that exist.
    """

    bases: list[int] = field(default_factory=list)
    offset_index_bases: set[int] = field(default_factory=set)
    time_index_bases: set[int] = field(default_factory=set)
    snapshots: list[int] = field(default_factory=list)
    cuts: list[tuple[int, str]] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    state_names: set[str] = field(default_factory=set)

    @property
    def index_bases(self) -> set[int]:
        """Base offsets for which an index or time index exists."""
        return self.offset_index_bases | self.time_index_bases

    @property
    def has_damage(self) -> bool:
        """Whether there is a list of what is damaged."""
        return DAMAGED_NAME in self.state_names

    @property
    def is_replacing(self) -> bool:
        """Whether a replacement of segments was committed and not finished."""
        return REPLACEMENT_NAME in self.state_names


def list_partition(files: Files, directory: str) -> PartitionListing:
    """Sort out a partition's directory. Opens no file.

    Raises:
        UnsupportedFormatError: Kafka's cleaner was interrupted here; only Kafka can finish that.
        OSError: the directory cannot be read.
    """
    assert not directory.endswith("/")
    listing = PartitionListing()
    for name in files.list_directory(directory):
        if name.endswith(SWAP_SUFFIX):
            raise UnsupportedFormatError(
                f"{directory}/{name}",
                "is a half-finished replacement of segments; start and stop Kafka on it once",
            )
        _sort_in(listing, name)
    return listing


def list_cuts(files: Files, directory: str) -> list[tuple[int, str]]:
    """Return (base offset, name) of the saved tails in a partition's directory, and nothing else.

    Beside ten thousand segments: sorting out all of it takes a tenth of a second of computing.

    Raises:
        OSError: the directory cannot be read.
    """
    assert not directory.endswith("/")
    names = files.list_directory(directory, suffix=CUT_SUFFIX)
    return [(int(cut[1]), name) for name in names if (cut := _CUT.fullmatch(name)) is not None]


def _sort_in(listing: PartitionListing, name: str) -> None:
    if name in _OWN_NAMES:
        listing.state_names.add(name)
        return
    cut = _CUT.fullmatch(name) if name.endswith(CUT_SUFFIX) else None
    parsed = parse_segment_file_name(name)
    if name.endswith((DELETED_SUFFIX, CLEANED_SUFFIX, TEMP_SUFFIX)):
        # Only names that we or Kafka make: somebody else's backup.tmp is none of our business.
        is_ours = (
            parsed is not None or name.removesuffix(TEMP_SUFFIX) in _OWN_NAMES or _CUT.match(name)
        )
        (listing.leftovers if is_ours else listing.unknown).append(name)
    elif cut is not None:
        listing.cuts.append((int(cut[1]), name))
    elif parsed is None:
        listing.unknown.append(name)
    elif parsed[1] == LOG_SUFFIX:
        listing.bases.append(parsed[0])
    elif parsed[1] == INDEX_SUFFIX:
        listing.offset_index_bases.add(parsed[0])
    elif parsed[1] == TIME_INDEX_SUFFIX:
        listing.time_index_bases.add(parsed[0])
    elif parsed[1] == PRODUCERS_SUFFIX:
        listing.snapshots.append(parsed[0])
    elif parsed[1] not in _KAFKA_SUFFIXES:
        listing.unknown.append(name)


def remove_leftovers(
    files: Files, directory: str, listing: PartitionListing, *, released: Collection[int] = ()
) -> list[str]:
    """Unlink what a crash left, and indexes that lost their log; return the names.

    Not synced: what a crash brings back is removed at the next start.

    Args:
        released: base offsets of segments that need no log: their indexes stay.
    """
    assert not set(listing.leftovers).intersection(listing.unknown)
    names = list(listing.leftovers)
    orphans = listing.index_bases.difference(listing.bases, released)
    # Listed again only where it matters: a start does this for each of its logs.
    known = frozenset(files.list_directory(directory) if orphans else ())
    for base_offset in sorted(orphans):
        for suffix in (INDEX_SUFFIX, TIME_INDEX_SUFFIX):
            name = offset_name(base_offset) + suffix
            if name in known:
                names.append(name)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            files.unlink(f"{directory}/{name}")
    return names
