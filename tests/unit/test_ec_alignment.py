"""Buffers for devices: they begin at pages, and are used again when nobody has a view of them."""

from __future__ import annotations

from ec.alignment import is_aligned, recycled_buffer, recycling

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
