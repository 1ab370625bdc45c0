"""Buffers that a device can read and write by itself, past the page cache.

Direct input and output (open(2), O_DIRECT) wants file positions, lengths and addresses in memory to
be multiples of the device's logical block; a page is one on every device there is. Python's own
buffers begin anywhere, so one that is a page longer is cut to begin where a page does.

Memory that is touched for the first time costs as much as reading it from a fast device: a page
fault for each 4 KiB. Whoever reads much through buffers that come and go has them recycled
(`recycling`). No buffer is ever given back by hand: one is used again when nobody has a view of it
any more, and Python knows that (a bytearray with views cannot be resized). So what a reader that
was given up on still fills, in its thread, is nobody else's.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Iterator
from threading import Lock
from typing import Final

ALIGNMENT_BYTES: Final = 4096
# Of a huge page, nearly everywhere. Where it is another one, buffers are no worse than others.
HUGE_PAGE_BYTES: Final = 2 * 1024 * 1024
# From this length on a buffer is of whole huge pages: at most twice the memory.
LONG_BYTES: Final = HUGE_PAGE_BYTES // 2
# Linux alone.
_MADV_HUGEPAGE: Final[int | None] = getattr(mmap, "MADV_HUGEPAGE", None)

_make_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_make_bytearray.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_make_bytearray.restype = ctypes.py_object
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_madvise.restype = ctypes.c_int


def aligned_buffer(size: int, *, zeroed: bool = True, huge: bool = True) -> memoryview:
    """Return a buffer that begins at a page; memory is used as it is touched.

    Args:
        zeroed: False: whatever was in that memory is in it, for who fills all of it or hands out
            none: zeroing costs as much as hashing.
        huge: False: of small pages, however long it is: for what is kept, and shall not take more
            memory than it is long.
    """
    assert size >= 0
    length = memory_bytes(size) if huge else size + ALIGNMENT_BYTES
    memory = memoryview(_make_memory(length, huge=huge))
    buffer = _cut(memory, size, _alignment(size) if huge else ALIGNMENT_BYTES)
    if zeroed and size:
        ctypes.memset(_address(buffer), 0, size)
    return buffer


def memory_bytes(size: int) -> int:
    """Return how much memory is asked for, for a buffer of that many bytes."""
    assert size >= 0
    alignment = _alignment(size)
    return size + alignment if size < LONG_BYTES else size + -size % alignment + alignment


def _alignment(size: int) -> int:
    """Return where a buffer of that many bytes begins: at multiples of this."""
    return ALIGNMENT_BYTES if size < LONG_BYTES else HUGE_PAGE_BYTES


def _make_memory(length: int, *, huge: bool = True) -> bytearray:
    """Return memory with whatever is in it: none of its pages is touched."""
    memory: bytearray = _make_bytearray(None, length)
    if huge and length >= 2 * HUGE_PAGE_BYTES and _MADV_HUGEPAGE is not None:
        address = _address(memoryview(memory))
        start = address + -address % ALIGNMENT_BYTES
        # Where it is refused the pages are small ones.
        _madvise(start, aligned_part(address + length - start), _MADV_HUGEPAGE)
    return memory


def recycled_buffer(size: int) -> memoryview:
    """Return a buffer as `aligned_buffer` does, not zeroed, of memory that was used before if there
    is any; of small pages while nobody recycles: it may be kept for long.
    """
    assert size >= 0
    memory = _recycler.take(memory_bytes(size))
    if memory is None:
        return aligned_buffer(size, zeroed=False, huge=False)
    return _cut(memory, size, _alignment(size))


@contextlib.contextmanager
def recycling(limit_bytes: int) -> Iterator[None]:
    """Keep the memory of recycled buffers meanwhile, at most so much; who else does adds to it."""
    assert limit_bytes >= 0
    _recycler.hold(limit_bytes)
    try:
        yield
    finally:
        _recycler.hold(-limit_bytes)


class _Recycler:
    """See the module. Several threads may use it at once."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._limit_bytes = 0
        self._kept: list[bytearray] = []

    def hold(self, bytes_more: int) -> None:
        """Change the limit; what is above it is let go of, by whoever has the last view of it."""
        with self._guard:
            self._limit_bytes += bytes_more
            assert self._limit_bytes >= 0
            self._shrink(self._limit_bytes)

    def take(self, length: int) -> memoryview | None:
        """Return that much memory, which nobody else has a view of; None while none is kept."""
        with self._guard:
            if not self._limit_bytes:
                return None
            for memory in self._kept:
                if len(memory) == length and _is_free(memory):
                    return memoryview(memory)
            fresh = _make_memory(length)
            if length <= self._limit_bytes:
                self._shrink(self._limit_bytes - length)
                self._kept.append(fresh)
            return memoryview(fresh)

    def _shrink(self, limit_bytes: int) -> None:
        """Let go of the oldest above a limit."""
        while sum(map(len, self._kept)) > limit_bytes:
            self._kept.pop(0)


_recycler: Final = _Recycler()


def _is_free(memory: bytearray) -> bool:
    """Return whether nobody has a view of it. It stays where it is: one byte less is no reason to
    move.
    """
    try:
        memory.pop()
    except BufferError:
        return False
    memory.append(0)
    return True


def _cut(whole: memoryview, size: int, alignment: int) -> memoryview:
    """Return so many bytes from the first place on that is a multiple."""
    skipped = -_address(whole) % alignment
    assert skipped + size <= len(whole)
    return whole[skipped : skipped + size]


def is_aligned(buffer: memoryview) -> bool:
    """Return whether a buffer begins at a page; of read-only ones that is not known: False."""
    return not buffer.readonly and len(buffer) > 0 and _address(buffer) % ALIGNMENT_BYTES == 0


def aligned_part(size: int) -> int:
    """Return the most whole pages that fit into so many bytes, in bytes."""
    assert size >= 0
    return size - size % ALIGNMENT_BYTES


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
