"""The small files of a partition's directory: partition.metadata, leader epochs, log start offset.

The first two are Kafka's, byte for byte, plain text without a checksum:

    partition.metadata          leader-epoch-checkpoint
    version: 0                  0              format version
    topic_id: <22 characters>   1              number of entries
                                0 0            epoch, its start offset

`log-start-offset` is ours (Kafka has one for all partitions): a state file with 8 bytes of payload.
It is absent while the log starts at its first segment's base offset.

All are replaced by writing a temporary file, syncing it, renaming it and syncing the directory: a
crash leaves the old or the new one.
"""

from __future__ import annotations

import contextlib
import struct
from itertools import pairwise
from typing import Final, NamedTuple

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage.files import Files
from logd.storage.layout import TEMP_SUFFIX
from logd.storage.state_file import read_state, write_state
from logd.storage.topic_directories import METADATA_NAME, format_topic_id, read_topic_id
from logd.units import INT32_MAX, INT64_MAX

EPOCHS_NAME: Final = "leader-epoch-checkpoint"
LOG_START_NAME: Final = "log-start-offset"
EPOCHS_BYTES_MAX: Final = 1024 * 1024
_LOG_START_VERSION: Final = 1
_OFFSET: Final = struct.Struct(">q")

UNDEFINED_EPOCH: Final = -1
UNDEFINED_OFFSET: Final = -1


class EpochStart(NamedTuple):
    """A leader epoch and the offset of its first record."""

    epoch: int
    start_offset: int


def write_metadata(files: Files, directory: str, topic_id: bytes) -> None:
    """Write partition.metadata; durable once this returns.

    Raises:
        OSError: the old file, if any, is still there.
    """
    text = f"version: 0\ntopic_id: {format_topic_id(topic_id)}"
    _replace(files, directory, METADATA_NAME, text.encode("ascii"))


def check_metadata(files: Files, directory: str, topic_id: bytes) -> None:
    """Check that the directory belongs to the topic; write partition.metadata where it is missing.

    Raises:
        UnsupportedFormatError: it belongs to another topic.
        CorruptFileError: partition.metadata makes no sense.
    """
    found = read_topic_id(files, directory)
    if found is None:
        write_metadata(files, directory, topic_id)
    elif found != topic_id:
        raise UnsupportedFormatError(
            f"{directory}/{METADATA_NAME}",
            f"belongs to topic id {format_topic_id(found)}, not {format_topic_id(topic_id)}",
        )


def write_epochs(files: Files, directory: str, epochs: list[EpochStart]) -> None:
    """Write leader-epoch-checkpoint; durable once this returns.

    Raises:
        OSError: the old file, if any, is still there.
    """
    assert all(a < b for a, b in pairwise(epochs))
    lines = ["0", str(len(epochs)), *(f"{entry.epoch} {entry.start_offset}" for entry in epochs)]
    _replace(files, directory, EPOCHS_NAME, "".join(f"{line}\n" for line in lines).encode("ascii"))


def read_epochs(files: Files, directory: str) -> list[EpochStart] | None:
    """Return the leader epochs, rising; None if the file is missing.

    Raises:
        CorruptFileError: the file makes no sense. UnsupportedFormatError: of another version.
    """
    path = f"{directory}/{EPOCHS_NAME}"
    try:
        data = files.read_whole(path, limit_bytes=EPOCHS_BYTES_MAX)
    except FileNotFoundError:
        return None
    lines = data.decode("ascii", "replace").split("\n")
    if lines[0] != "0":
        if lines[0].isdigit():
            raise UnsupportedFormatError(path, f"has version {lines[0]}, known is 0")
        raise CorruptFileError(path, 0, "the first line is no version number")
    return _parse_epochs(path, lines)


def _parse_epochs(path: str, lines: list[str]) -> list[EpochStart]:
    try:
        count = int(lines[1])
        epochs = [EpochStart(*map(int, line.split(" "))) for line in lines[2 : 2 + count]]
    except (ValueError, TypeError, IndexError) as error:
        raise CorruptFileError(path, 2, f"is no list of epochs: {error}") from error
    rising = all(a < b for a, b in pairwise(epochs))
    in_range = all(0 <= e.epoch <= INT32_MAX and e.start_offset >= 0 for e in epochs)
    if len(epochs) != count or not rising or not in_range or lines[2 + count :] not in ([""], []):
        raise CorruptFileError(path, 2, f"the {count} entries it announces are not what follows")
    return epochs


def end_offset_for_epoch(
    epochs: list[EpochStart], epoch: int, *, end_offset: int
) -> tuple[int, int]:
    """Return the greatest known epoch at or below `epoch` and the offset where it ends.

    (-1, -1) for an epoch that is newer than all; an epoch older than all ends where the first
    begins. Kafka's rules for OffsetForLeaderEpoch.
    """
    assert end_offset >= 0
    newer = next((entry for entry in epochs if entry.epoch > epoch), None)
    older = [entry for entry in epochs if entry.epoch <= epoch]
    if newer is None:
        if older and older[-1].epoch == epoch:
            return epoch, end_offset
        return UNDEFINED_EPOCH, UNDEFINED_OFFSET
    return (older[-1].epoch if older else epoch), newer.start_offset


def write_log_start(files: Files, directory: str, offset: int) -> None:
    """Write the log start offset; durable once this returns.

    Raises:
        OSError: the old one, if any, is still in force.
    """
    assert 0 <= offset <= INT64_MAX
    path = f"{directory}/{LOG_START_NAME}"
    write_state(files, path, _OFFSET.pack(offset), version=_LOG_START_VERSION)


def read_log_start(files: Files, directory: str) -> int:
    """Return the log start offset, 0 if none was ever set.

    Raises:
        CorruptFileError, UnsupportedFormatError: the file cannot be used.
    """
    path = f"{directory}/{LOG_START_NAME}"
    with contextlib.suppress(FileNotFoundError):
        _, payload = read_state(
            files, path, limit_bytes=_OFFSET.size, newest_version=_LOG_START_VERSION
        )
        if len(payload) != _OFFSET.size:
            raise CorruptFileError(path, 0, f"has {len(payload)} bytes of payload, not 8")
        (offset,) = _OFFSET.unpack(payload)
        if offset < 0:
            raise CorruptFileError(path, 0, f"the offset {offset} is negative")
        return int(offset)
    return 0


def _replace(files: Files, directory: str, name: str, data: bytes) -> None:
    path = f"{directory}/{name}"
    temp = path + TEMP_SUFFIX
    file = files.create_or_truncate(temp)
    files.write_at(file, 0, [data])
    files.sync(file)
    files.rename(temp, path)
    files.sync_directory(directory)
