"""Receive buffers: nothing that lives on is overwritten, and memory is bounded."""

from __future__ import annotations

from logd.net.buffers import ARENA_BYTES, POOLED_BYTES_MAX, Arena, BufferPool


def test_arena_starts_anew_in_fresh_memory_when_slices_live_on() -> None:
    """A pinned slice keeps its bytes; without pins the same memory is used again."""
    arena = Arena()
    arena.free_view()[:3] = b"abc"
    start = arena.take(3)
    kept = memoryview(arena.buffer)[start : start + 3]
    arena.restart(pinned=True)
    arena.free_view()[:3] = b"xyz"
    assert kept == b"abc"
    same = arena.buffer
    arena.take(3)
    arena.restart(pinned=False)
    assert arena.buffer is same
    assert arena.take(0) == 0


def test_arena_tells_when_it_is_low() -> None:
    """The loop empties the arena before the last piece is too small to receive into."""
    arena = Arena()
    assert not arena.is_low
    arena.take(ARENA_BYTES - 10)
    assert arena.is_low


def test_pool_reuses_after_the_turn_but_never_what_is_pinned() -> None:
    """A buffer of this turn's frame comes back when the turn is over, unless pinned."""
    pool = BufferPool(queued_bytes_max=10**9)
    first = pool.take(1000, 1000)
    pool.give_after_turn(first)
    assert pool.take(1000, 1000) is not first
    pool.reuse(pinned=False)
    assert pool.take(1000, 1000) is first
    pool.give_after_turn(first)
    pool.reuse(pinned=True)
    assert pool.take(1000, 1000) is not first


def test_pool_keeps_a_bounded_amount() -> None:
    """Unused buffers beyond the bound are given back to the system."""
    pool = BufferPool(queued_bytes_max=10**9)
    buffers = [pool.take(POOLED_BYTES_MAX // 2, 1) for _ in range(5)]
    for buffer in buffers:
        pool.give(buffer)
    again = [pool.take(POOLED_BYTES_MAX // 2, 1) for _ in range(5)]
    assert sum(any(b is old for old in buffers) for b in again) == 2


def test_exhausted_pool_lets_the_oldest_frame_go_on_and_resumes_the_others() -> None:
    """Whoever waits for memory is resumed when some comes back; the oldest never waits."""
    pool = BufferPool(queued_bytes_max=1000)
    oldest = pool.take(600, 600)
    second = pool.take(600, 600)
    assert pool.is_exhausted
    assert pool.may_grow_anyway(oldest)
    assert not pool.may_grow_anyway(second)
    resumed: list[str] = []
    pool.when_free(lambda: resumed.append("second"))
    pool.reuse(pinned=False)
    assert not resumed
    pool.give(oldest)
    pool.reuse(pinned=False)
    assert resumed == ["second"]
