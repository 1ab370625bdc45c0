"""The map of keys: what it knows, and that it takes no more memory than it says."""

from __future__ import annotations

import tracemalloc

import pytest

from logd.storage.key_map import KeyMap


def test_a_key_leads_to_its_last_batch() -> None:
    """The last one counts; records without a key do not."""
    keys = KeyMap(limit_bytes=1000)
    keys.add([b"a", b"b", None, b"a"], 0)
    keys.add([None, None], 4)
    keys.add([b"b", b"", b"b"], 6)
    assert len(keys) == 3
    assert keys.count_by_batch() == {0: 1, 6: 2}
    assert keys.last_of([b"a", b"b", None, b"a"], 0) == [3]
    assert keys.last_of([b"b", b"", b"b"], 6) == [1, 2]
    assert keys.last_of([None, None], 4) == []


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
            keys.add(batch, 10_000 + start)
            batch.clear()
            _, peak = tracemalloc.get_traced_memory()
            slack = 10_000 + 100 * batch_keys  # The batch itself, and its tuples.
            assert peak - before <= keys.size_bytes + slack
        counts = keys.count_by_batch()
        assert keys.last_of([], 9_999) == []  # From now on the keys are listed by batch as well.
        used, _ = tracemalloc.get_traced_memory()
        assert sum(counts.values()) == len(keys)
        assert keys.size_bytes / 2.5 < used - before <= keys.size_bytes + 10_000
    finally:
        tracemalloc.stop()


def test_a_full_map_says_so() -> None:
    """What the caller keeps beside it counts as well."""
    keys = KeyMap(limit_bytes=1000)
    assert not keys.is_full
    keys.add([b"a"], 0)
    assert not keys.is_full
    keys.count_bytes(1000)
    assert keys.is_full
