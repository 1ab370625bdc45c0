"""The map of keys: what it knows, and that it takes no more memory than it says."""

from __future__ import annotations

import tracemalloc

import pytest

from logd.storage.key_map import KeyMap


def test_the_last_record_of_a_key_stays() -> None:
    """Batches come from the log's end: what was met before is superseded; no key, no record."""
    keys = KeyMap(limit_bytes=1000)
    keys.add(6, [b"b", b"", b"b"])
    keys.add(4, [None, None])
    keys.add(0, [b"a", b"b", None, b"a"])
    assert keys.keys == {b"a", b"b", b""}
    assert len(keys) == 3
    assert list(keys.kept(0)) == [3]
    assert list(keys.kept(4)) == []
    assert list(keys.kept(6)) == [1, 2]


def test_all_records_of_a_batch_may_stay() -> None:
    """Also if one of them has no key, or comes twice, that is told apart."""
    keys = KeyMap(limit_bytes=1000)
    keys.add(3, [b"a", b"b", b"c"])
    keys.add(0, [b"d", None, b"d"])
    assert list(keys.kept(3)) == [0, 1, 2]
    assert list(keys.kept(0)) == [2]


def test_keys_that_are_met_take_the_same_room() -> None:
    """So a tail that fits from its begin fits from its end; and nothing of it is kept."""
    batches: list[list[bytes | None]] = [
        [b"%d" % (number % 700) for number in range(start, start + 50)]
        for start in range(0, 2000, 50)
    ]
    met, added = KeyMap(limit_bytes=1 << 30), KeyMap(limit_bytes=1 << 30)
    for batch in batches:
        met.meet(batch)
    for number, batch in reversed(list(enumerate(batches))):
        added.add(number * 50, batch)
    assert met.size_bytes == added.size_bytes
    assert met.keys == added.keys
    assert not any(met.kept(number * 50) for number in range(len(batches)))
    met.forget()
    assert (len(met), met.size_bytes) == (0, KeyMap(limit_bytes=1).size_bytes)


@pytest.mark.parametrize("batch_keys", [1, 7, 500])
@pytest.mark.parametrize("key_bytes", [8, 16, 100])
def test_the_map_takes_no_more_than_it_says(batch_keys: int, key_bytes: int) -> None:
    """At every size, while it grows, and with the counts of its batches; and not much less."""
    tracemalloc.start()
    try:
        keys = KeyMap(limit_bytes=1 << 30)
        before, _ = tracemalloc.get_traced_memory()
        for start in range(0, 12_000, batch_keys):
            batch: list[bytes | None] = [
                b"%0*d" % (key_bytes, number) for number in range(start, start + batch_keys)
            ]
            tracemalloc.reset_peak()
            keys.add(1_000_000 - start, batch)
            batch.clear()
            _, peak = tracemalloc.get_traced_memory()
            slack = 10_000 + 100 * batch_keys  # The batch itself, and its tuples.
            assert peak - before <= keys.size_bytes + slack
        used, _ = tracemalloc.get_traced_memory()
        assert keys.size_bytes / 2.5 < used - before <= keys.size_bytes + 10_000
    finally:
        tracemalloc.stop()


def test_a_full_map_says_so() -> None:
    """What the caller keeps beside it counts as well."""
    keys = KeyMap(limit_bytes=1000)
    assert not keys.is_full
    keys.add(0, [b"a"])
    assert not keys.is_full
    keys.count_bytes(1000)
    assert keys.is_full
