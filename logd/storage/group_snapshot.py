"""The snapshot of one partition of `__consumer_offsets`: its live keys and values, as of an offset.

Replaying the log gives the same, only slower: 1,000,000 commits of 10,000 keys take 1.3 to 4 s,
the snapshot of those keys is read in 10 ms. So the snapshot is never the truth. One that is
missing, damaged, foreign or newer is left aside, with a reason, and the log is replayed from its
start.

`groups.snapshot` in the partition's directory, a state file, payload version 1:

    position  size  field
    0         16    topic id
    16        4     partition
    20        8     offset        all records below it are in the snapshot
    28        4     count         of pairs
    32        8 n   lengths       of each key and each value in turn, 4 bytes each
    …         …     keys and values in turn

Keys are distinct; a key without a value (a tombstone) is left out: what is not here is not there.
Keys and values are those of the records, byte for byte (`record/group_records`).

Durability: replaced as a whole. A crash leaves the old snapshot or the new one, and either is right
with the log behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from logd.errors import CorruptFileError, StorageError
from logd.storage.files import Files
from logd.storage.layout import GROUPS_SNAPSHOT_NAME, TOPIC_ID_BYTES
from logd.storage.state_file import read_state, write_state
from logd.units import INT64_MAX, MIB, format_byte_count

GROUP_SNAPSHOT_VERSION: Final = 1
GROUP_SNAPSHOT_BYTES_MAX: Final = 256 * MIB
"""Some 2,500,000 committed offsets. Beyond it no snapshot is written, and starts are slower."""

_HEAD: Final = struct.Struct(">16siqI")
_LENGTH_BYTES: Final = 4

Pair = tuple[bytes, bytes]
"""A key and its value."""


class GroupSnapshot(NamedTuple):
    """What a snapshot holds: the last value of each key of a partition's records below `offset`."""

    topic_id: bytes
    partition: int
    offset: int
    pairs: list[Pair]


def group_snapshot_path(directory: str) -> str:
    """Return the path of the snapshot in a partition's directory."""
    return f"{directory}/{GROUPS_SNAPSHOT_NAME}"


def encode_group_snapshot(
    pairs: Iterable[Pair], *, topic_id: bytes, partition: int, offset: int
) -> bytes:
    """Return the payload of a snapshot."""
    assert len(topic_id) == TOPIC_ID_BYTES
    assert 0 <= offset <= INT64_MAX
    fields = list(chain.from_iterable(pairs))
    head = _HEAD.pack(topic_id, partition, offset, len(fields) // 2)
    lengths = struct.pack(f">{len(fields)}I", *map(len, fields))
    return b"".join((head, lengths, *fields))


def decode_group_snapshot(path: str, payload: bytes) -> GroupSnapshot:
    """Return the snapshot in a payload.

    Raises:
        CorruptFileError: lengths or values that cannot be.
    """
    try:
        topic_id, partition, offset, count = _HEAD.unpack_from(payload)
    except struct.error as error:
        raise CorruptFileError(path, 0, f"is no snapshot of groups: {error}") from error
    start = _HEAD.size + 2 * count * _LENGTH_BYTES
    if partition < 0 or offset < 0 or start > len(payload):
        reason = f"partition {partition}, offset {offset}, {count} pairs cannot be"
        raise CorruptFileError(path, 0, reason)
    lengths = struct.unpack_from(f">{2 * count}I", payload, _HEAD.size)
    if start + sum(lengths) != len(payload):
        reason = f"{count} pairs end at {start + sum(lengths)}, the payload at {len(payload)}"
        raise CorruptFileError(path, start, reason)
    fields = _split(payload, start, lengths)
    pairs = list(zip(fields, fields, strict=True))
    return GroupSnapshot(topic_id, partition, offset, pairs)


def _split(payload: bytes, position: int, lengths: Iterable[int]) -> Iterator[bytes]:
    for length in lengths:
        end = position + length
        yield payload[position:end]
        position = end


def write_group_snapshot(
    files: Files,
    directory: str,
    pairs: Iterable[Pair],
    *,
    topic_id: bytes,
    partition: int,
    offset: int,
) -> int:
    """Replace the snapshot in a partition's directory; return its bytes.

    Durability: once this returns, a restart finds it; if it raises or the machine stops, a restart
    finds this one or the one before, whole.

    Raises:
        StorageError: larger than GROUP_SNAPSHOT_BYTES_MAX; the one before stays.
        OSError: as the file system gave it.
    """
    payload = encode_group_snapshot(pairs, topic_id=topic_id, partition=partition, offset=offset)
    path = group_snapshot_path(directory)
    if len(payload) > GROUP_SNAPSHOT_BYTES_MAX:
        limit = format_byte_count(GROUP_SNAPSHOT_BYTES_MAX)
        raise StorageError(f"{path} would have {len(payload)} bytes, more than {limit}")
    write_state(files, path, payload, version=GROUP_SNAPSHOT_VERSION)
    return len(payload)


def read_group_snapshot(files: Files, path: str) -> GroupSnapshot:
    """Return the snapshot in a file, whatever partition it is of.

    Raises:
        FileNotFoundError: there is none. CorruptFileError: it cannot be used.
        UnsupportedFormatError: intact, but of a newer version. OSError: it cannot be read.
    """
    assert path
    _, payload = read_state(
        files, path, limit_bytes=GROUP_SNAPSHOT_BYTES_MAX, newest_version=GROUP_SNAPSHOT_VERSION
    )
    return decode_group_snapshot(path, payload)
