"""Walk the batches of a .log file: headers, CRCs, and the search for the next batch behind damage.

Memory is bounded: headers are read through a window, and a batch larger than the window is checked
piece by piece. Nothing here is changed, and nothing is decided: what does not fit raises
CorruptFileError, which names file and position, and the caller says what that means.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

from logd.errors import CorruptFileError
from logd.record.batch import (
    CRC_START,
    HEADER_BYTES,
    LENGTH_OVERHEAD_BYTES,
    MAGIC,
    BatchHeader,
    is_plausible,
    read_header,
)
from logd.record.crc32c import crc32c
from logd.storage.files import Files, OpenFile
from logd.units import INT32_MAX, KIB, MIB

WINDOW_BYTES: Final = MIB
"""Read at a time while all bytes are wanted, for their CRC."""

HEADER_WINDOW_BYTES: Final = 8 * KIB
"""Read at a time while only headers are wanted: two intervals of the index."""

_MAGIC_AT: Final = 16
# A stored batch: an offset below 2^48, whatever 14 bytes, magic 2. Overlapping places count.
_CANDIDATE: Final = re.compile(rb"(?=\x00\x00[\s\S]{14}\x02)")
_OLD_MESSAGE: Final = struct.Struct(">qiIb")
_OLD_CRC_START: Final = 16


class ScannedBatch(NamedTuple):
    """A batch where the scan found it. `crc_ok` is True where the CRC was not asked for."""

    position: int
    header: BatchHeader
    crc_ok: bool


def scan_batches(
    files: Files, file: OpenFile, start: int, end: int, *, verify: bool = True
) -> Iterator[ScannedBatch]:
    """Yield the batches between two positions, the first of which must begin one.

    Args:
        end: no byte from here on is looked at.
        verify: compute CRCs; they are reported, not judged.

    Raises:
        CorruptFileError: no batch can be at that position, or it would pass `end`. What was yielded
            before stands.
        OSError: the file cannot be read.
    """
    assert 0 <= start <= end
    window = _Window(files, file, WINDOW_BYTES if verify else HEADER_WINDOW_BYTES, end)
    position = start
    while position < end:
        header = window.header_at(position)
        batch_end = position + header.size
        if batch_end > end:
            raise CorruptFileError(
                file.path, position, f"the batch ends at {batch_end}, behind the end at {end}"
            )
        crc_ok = not verify or window.crc_of(position + CRC_START, batch_end) == header.crc
        yield ScannedBatch(position, header, crc_ok)
        position = batch_end


def scan_in_order(
    files: Files,
    file: OpenFile,
    start: int,
    end: int,
    *,
    next_offset: int | None,
    end_bound: int,
    verify: bool = True,
) -> Iterator[ScannedBatch]:
    """Yield as `scan_batches`, and check that each batch is in its place.

    The CRC does not cover the base offset. So offsets must rise, and a gap (compaction leaves some)
    is believed only if the batch behind it, or the end of the segment, agrees.

    Args:
        next_offset: the offset that the first batch should have; None if not known.
        end_bound: all offsets lie below.

    Raises:
        CorruptFileError: as `scan_batches`, or a batch is not in its place.
    """
    expected = next_offset
    held: ScannedBatch | None = None
    for batch in scan_batches(files, file, start, end, verify=verify):
        base_offset = batch.header.base_offset
        if held is not None:
            assert expected is not None
            if batch.crc_ok and expected <= base_offset < held.header.next_offset:
                raise _misplaced(file, held, expected)
            yield held
            expected = held.header.next_offset
            held = None
        if batch.header.next_offset > end_bound or (
            expected is not None and base_offset < expected
        ):
            raise _misplaced(file, batch, expected)
        if expected is not None and base_offset > expected and batch.crc_ok:
            held = batch
        else:
            yield batch
            expected = batch.header.next_offset
    if held is not None:
        yield held


def _misplaced(file: OpenFile, batch: ScannedBatch, expected: int | None) -> CorruptFileError:
    header = batch.header
    return CorruptFileError(
        file.path,
        batch.position,
        f"offsets {header.base_offset} to {header.last_offset} do not belong here"
        + ("" if expected is None else f", {expected} does"),
    )


class _Window:
    """A bounded, moving copy of a part of a file."""

    __slots__ = ("_end", "_file", "_files", "_size", "data", "start")

    def __init__(self, files: Files, file: OpenFile, size: int, end: int) -> None:
        self._files = files
        self._file = file
        self._size = size
        self._end = end
        self.start = 0
        self.data = b""

    def load(self, position: int) -> int:
        """Make the window begin at `position`; return the number of bytes in it."""
        size = min(self._size, self._end - position)
        assert size >= 0
        self.data = self._files.read_at(self._file, position, size)
        self.start = position
        return len(self.data)

    def header_at(self, position: int) -> BatchHeader:
        at = position - self.start
        if at < 0 or at + HEADER_BYTES > len(self.data):
            if self.load(position) < HEADER_BYTES:
                reason = f"{len(self.data)} bytes are left, a header alone has {HEADER_BYTES}"
                raise CorruptFileError(self._file.path, position, reason)
            at = 0
        header = read_header(self.data, at)
        if not is_plausible(header):
            raise CorruptFileError(self._file.path, position, "no record batch begins here")
        return header

    def crc_of(self, start: int, end: int) -> int:
        """Return the CRC-32C of a range, moving the window along; -1 if the file ends before."""
        crc = 0
        while start < end:
            at = start - self.start
            if not 0 <= at < len(self.data) and self.load(start) == 0:
                return -1
            at = start - self.start
            piece = memoryview(self.data)[at : at + end - start]
            crc = crc32c(piece, crc)
            start += len(piece)
        return crc


def read_batch_header(files: Files, file: OpenFile, position: int, end: int) -> BatchHeader:
    """Return the plausible header at `position`.

    Raises:
        CorruptFileError: there is none, or its batch would pass `end`.
    """
    for _, header, _ in scan_batches(files, file, position, end, verify=False):
        return header
    raise CorruptFileError(file.path, position, "the file ends here")


def find_next_batch(
    files: Files, file: OpenFile, start: int, end: int, *, low_offset: int, high_offset: int
) -> ScannedBatch | None:
    """Return the first whole batch with a right CRC that begins at `start` or later, if any.

    Only batches whose offsets lie in low_offset .. high_offset count: what is left of an older log
    in reused blocks of the device is not taken for part of this one.

    Raises:
        OSError: the file cannot be read.
    """
    assert start >= 0
    assert low_offset <= high_offset
    window = _Window(files, file, WINDOW_BYTES, end)
    position = start
    while position + HEADER_BYTES <= end and window.load(position) >= HEADER_BYTES:
        for match in _CANDIDATE.finditer(window.data):
            if match.start() + HEADER_BYTES > len(window.data):
                break  # The next window begins before it.
            header = read_header(window.data, match.start())
            if not _may_be(header, low_offset, high_offset):
                continue
            found = position + match.start()
            if _is_whole(files, file, found, header, end):
                return ScannedBatch(found, header, True)
        position += max(len(window.data) - HEADER_BYTES + 1, 1)
    return None


def _may_be(header: BatchHeader, low_offset: int, high_offset: int) -> bool:
    return (
        is_plausible(header)
        and low_offset <= header.base_offset
        and header.last_offset <= high_offset
        and header.count <= header.last_offset_delta + 1
    )


def _is_whole(files: Files, file: OpenFile, position: int, header: BatchHeader, end: int) -> bool:
    batch_end = position + header.size
    if batch_end > end:
        return False
    window = _Window(files, file, WINDOW_BYTES, end)
    return window.crc_of(position + CRC_START, batch_end) == header.crc


def is_old_message(files: Files, file: OpenFile, position: int, end: int) -> bool:
    """Return whether a message of format 0 or 1, with its right CRC-32, begins at `position`.

    Kafka before 0.11 wrote such; they are intact, and not something that this server reads.
    """
    head = files.read_at(file, position, _OLD_MESSAGE.size)
    if len(head) < _OLD_MESSAGE.size:
        return False
    _, length, crc, magic = _OLD_MESSAGE.unpack(head)
    message_end = position + LENGTH_OVERHEAD_BYTES + length
    if magic not in (0, 1) or not _OLD_MESSAGE.size <= length <= WINDOW_BYTES:
        return False
    if message_end > end:
        return False
    data = files.read_at(file, position + _OLD_CRC_START, length - 4)
    return zlib.crc32(data) == int(crc)


assert (_MAGIC_AT, MAGIC) == (16, 2), "the pattern above has both in it"
assert WINDOW_BYTES <= INT32_MAX
