"""Small files that are replaced as a whole and are either the old or the new one after a crash.

    position  size  field
    0         6     magic: the letters "logdst"
    6         2     version of this envelope, 1
    8         4     version of the payload, as the caller numbers it
    12        4     payload length
    16        8     XXH3-64 of the bytes 0 to 15 followed by the payload
    24        …     payload, to the end of the file

All numbers are big-endian. A replacement is written beside the file under its name plus `.tmp`,
synced, renamed over it, and the directory is synced. So the name always leads to a whole version,
and after `write_state` returned it leads to the new one whatever happens. A `.tmp` found later is
what a crash left: it is never read, and the next write empties it.

Every byte of the file is covered: magic, versions and length by being checked, the rest by the
checksum.
"""

from __future__ import annotations

import contextlib
import os.path
import struct
from typing import Final, NamedTuple

import xxhash

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage.files import Files
from logd.storage.layout import TEMP_SUFFIX
from logd.units import INT32_MAX

MAGIC: Final = b"logdst"
ENVELOPE_VERSION: Final = 1
HEADER: Final = struct.Struct(">6sHIIQ")
HEADER_BYTES: Final = 24
_CHECKSUM_AT: Final = 16
_CHECKSUM: Final = struct.Struct(">Q")
assert HEADER.size == HEADER_BYTES
assert _CHECKSUM_AT + _CHECKSUM.size == HEADER_BYTES


class State(NamedTuple):
    """What a state file holds."""

    version: int
    payload: bytes


def encode_state(payload: bytes, *, version: int) -> bytes:
    """Return the bytes of a state file."""
    assert 0 <= version <= INT32_MAX
    assert len(payload) <= INT32_MAX
    start = HEADER.pack(MAGIC, ENVELOPE_VERSION, version, len(payload), 0)[:_CHECKSUM_AT]
    return start + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(start + payload)) + payload


def decode_state(data: bytes, *, path: str, newest_version: int = INT32_MAX) -> State:
    """Return the version and payload in the bytes of a state file.

    Args:
        path: named in errors, not read.
        newest_version: the newest payload version that the caller knows.

    Raises:
        CorruptFileError: too short, other magic, wrong length, or the checksum does not fit.
        UnsupportedFormatError: intact, but the envelope or the payload is of a newer version.
    """
    assert newest_version >= 0
    if len(data) < HEADER_BYTES:
        raise CorruptFileError(path, len(data), f"ends within the {HEADER_BYTES} bytes of header")
    magic, envelope, version, size, checksum = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptFileError(path, 0, "is no state file of logd: other magic")
    if envelope != ENVELOPE_VERSION:
        raise UnsupportedFormatError(path, f"has envelope version {envelope}, known is 1")
    if size != len(data) - HEADER_BYTES:
        found = len(data) - HEADER_BYTES
        raise CorruptFileError(path, 12, f"says {size} bytes of payload, has {found}")
    payload = data[HEADER_BYTES:]
    if xxhash.xxh3_64_intdigest(data[:_CHECKSUM_AT] + payload) != checksum:
        raise CorruptFileError(path, _CHECKSUM_AT, "the checksum does not fit")
    if version > newest_version:
        reason = f"has format version {version}, this server knows {newest_version} and older"
        raise UnsupportedFormatError(path, reason)
    return State(version, payload)


def read_state(
    files: Files, path: str, *, limit_bytes: int, newest_version: int = INT32_MAX
) -> State:
    """Return the version and payload of a state file of at most `limit_bytes` of payload.

    Raises:
        FileNotFoundError: there is none. CorruptFileError, UnsupportedFormatError: as
        `decode_state`; longer than the limit is corrupt. OSError: it cannot be read.
    """
    assert 0 <= limit_bytes <= INT32_MAX
    data = files.read_whole(path, limit_bytes=limit_bytes + HEADER_BYTES)
    if len(data) > limit_bytes + HEADER_BYTES:
        raise CorruptFileError(path, limit_bytes + HEADER_BYTES, "is longer than it may be")
    return decode_state(data, path=path, newest_version=newest_version)


def write_state(files: Files, path: str, payload: bytes, *, version: int) -> None:
    """Replace the state file, or make it.

    Durability: once this returns, the new version is what a reader finds, after any crash. If it
    raises or the machine stops, a reader finds the old version or the new one, whole.

    Raises:
        OSError: as the file system gave it.
    """
    temp = path + TEMP_SUFFIX
    assert os.path.basename(path)
    data = encode_state(payload, version=version)
    try:
        file = files.create_or_truncate(temp)
        files.write_at(file, 0, [data])
        files.sync(file)
        files.rename(temp, path)
    except OSError:
        # Best effort: on a full disk the half-written file would hold space that somebody needs.
        with contextlib.suppress(OSError):
            files.unlink(temp)
        raise
    files.sync_directory(os.path.dirname(path) or ".")


def remove_state(files: Files, path: str) -> None:
    """Remove the state file if it is there; durable once this returns.

    Raises:
        OSError: as the file system gave it; the file may be there or not.
    """
    assert os.path.basename(path)
    with contextlib.suppress(FileNotFoundError):
        files.unlink(path)
    # Also when it was gone already: an earlier removal may not have reached the device.
    files.sync_directory(os.path.dirname(path) or ".")
