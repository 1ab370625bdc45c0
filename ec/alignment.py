"""Buffers that a device can read and write by itself, past the page cache.

Direct input and output (open(2), O_DIRECT) wants file positions, lengths and addresses in memory to
be multiples of the device's logical block; a page is one on every device there is. Python's own
buffers begin anywhere, so one that is a page longer is cut to begin where a page does.
"""

from __future__ import annotations

import ctypes
from typing import Final

ALIGNMENT_BYTES: Final = 4096


_make_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
_make_bytearray.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_make_bytearray.restype = ctypes.py_object


def aligned_buffer(size: int, *, zeroed: bool = True) -> memoryview:
    """Return a buffer that begins at a page; memory is used as it is touched.

    Args:
        zeroed: False: whatever was in that memory is in it, for who fills all of it or hands out
            none: zeroing costs as much as hashing.
    """
    assert size >= 0
    length = size + ALIGNMENT_BYTES
    whole = memoryview(bytearray(length) if zeroed else _make_bytearray(None, length))
    skipped = -_address(whole) % ALIGNMENT_BYTES
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
