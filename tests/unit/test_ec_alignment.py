"""Buffers for devices: they begin at pages, and are used again when nobody has a view of them."""

from __future__ import annotations

import ctypes

import pytest

from ec.alignment import (
    ALIGNMENT_BYTES,
    HUGE_PAGE_BYTES,
    LONG_BYTES,
    aligned_buffer,
    is_aligned,
    memory_bytes,
    recycled_buffer,
    recycling,
)

SIZE = 64 * 1024


def test_a_buffer_with_a_view_is_not_used_again() -> None:
    """Be it of a part, or of a part of that."""
    with recycling(10 * SIZE):
        part = recycled_buffer(SIZE)[100:200][5:6]
        part[0] = 7
        others = [recycled_buffer(SIZE) for _ in range(3)]
        for other in others:
            other[:] = bytes(SIZE)
        assert part[0] == 7


def test_a_buffer_without_views_is_used_again() -> None:
    """The same memory, where it was."""
    with recycling(10 * SIZE):
        buffer = recycled_buffer(SIZE)
        assert is_aligned(buffer)
        buffer[:4] = b"mine"
        del buffer
        assert bytes(recycled_buffer(SIZE)[:4]) == b"mine"


def test_no_more_is_kept_than_the_limit() -> None:
    """Buffers above it are as good, and outlive what is kept."""
    with recycling(SIZE // 2):
        buffers = [recycled_buffer(SIZE) for _ in range(2)]
        for number, buffer in enumerate(buffers):
            buffer[:] = bytes([number]) * SIZE
    assert [set(buffer) for buffer in buffers] == [{0}, {1}]


@pytest.mark.parametrize("size", [0, 1, 4096, LONG_BYTES - 1, LONG_BYTES, 2**21, 5 * 2**20 + 7])
def test_a_buffer_has_its_length_and_begins_at_a_page_and_a_long_one_at_a_huge_page(
    size: int,
) -> None:
    """Zeroed or not, from the system or used again."""
    with recycling(2 * memory_bytes(size)):
        for buffer in (aligned_buffer(size), aligned_buffer(size, zeroed=False),
                       recycled_buffer(size), recycled_buffer(size)):  # fmt: skip
            assert len(buffer) == size
            assert is_aligned(buffer) or not size
            if size >= LONG_BYTES:
                address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
                assert address % HUGE_PAGE_BYTES == 0
            buffer[-1:] = b"x" if size else b""  # Its last byte is ours.


def test_a_zeroed_buffer_is_all_zeros_wherever_its_memory_was_before() -> None:
    """Memory of buffers that are gone is likely to be the same."""
    for size in (4096, HUGE_PAGE_BYTES + 1):
        for _ in range(3):
            buffer = aligned_buffer(size)
            assert not any(buffer)
            buffer[:] = b"\xff" * size
            del buffer


@pytest.mark.parametrize("size", [0, 4096, LONG_BYTES, 5 * 2**20 + 7])
def test_a_buffer_that_may_be_kept_takes_no_more_memory_than_it_is_long(size: int) -> None:
    """But for the way to the first page; so do recycled ones while nobody recycles."""
    for buffer in (aligned_buffer(size, huge=False), recycled_buffer(size)):
        assert len(buffer) == size
        assert is_aligned(buffer) or not size
        assert isinstance(buffer.obj, bytearray)
        assert len(buffer.obj) <= size + ALIGNMENT_BYTES
