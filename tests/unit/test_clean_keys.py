"""The first pass of a compaction: from the tail's end, in bounded memory, as far as keys fit."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest

from logd.record.batch import read_header
from logd.storage.clean_keys import STRETCH_BYTES, TailKeys
from logd.storage.clean_order import SourceSegment
from logd.storage.clean_source import SourceReader
from logd.storage.files import Files
from logd.storage.key_map import KeyMap
from logd.units import KIB, MIB
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import keyed_batch

ZSTD = 4
SEED = 20


def write_segments(directory: str, *segments: list[bytearray]) -> list[SourceSegment]:
    """Write segments of batches that have their offsets."""
    sources = []
    for batches in segments:
        start, end = read_header(batches[0]).base_offset, read_header(batches[-1]).next_offset
        data = b"".join(batches)
        Path(directory, f"{start:020d}.log").write_bytes(data)
        sources.append(SourceSegment(start, end, len(data)))
    return sources


def tail_of(
    directory: str, segments: list[SourceSegment], key_map: KeyMap, *, first_offset: int = 0
) -> TailKeys:
    """Read the keys of a tail."""
    files: Files = FastFiles()

    def open_segment(segment: SourceSegment) -> SourceReader:
        return SourceReader(
            files, directory, segment, memory_bytes=40 * MIB, on_read=lambda _: None
        )

    tail = TailKeys(
        segments,
        first_offset=first_offset,
        end_offset=segments[-1].end_offset,
        key_map=key_map,
        open_segment=open_segment,
        on_done=lambda _: None,
    )
    tail.read()
    return tail


@pytest.mark.parametrize("value_bytes", [10, 3000])
@pytest.mark.parametrize("limit_bytes", [1 << 30, 30_000, 1])
def test_the_last_records_are_those_of_a_dict(
    directory: str, value_bytes: int, limit_bytes: int
) -> None:
    """Over many stretches and segments, also where only a part fits: what a dict says stays."""
    rng = random.Random(SEED)
    batches: list[list[bytes]] = []
    segments: list[list[bytearray]] = [[], [], []]
    tombstones = []
    offset = 0
    for number in range(90):
        keys = [b"%d" % rng.randrange(400) for _ in range(rng.randrange(1, 60))]
        if number % 7 == 0:
            tombstones.append(offset)
        pairs = [(key, None if number % 7 == 0 else b"." * value_bytes) for key in keys]
        segments[number // 30].append(keyed_batch(pairs, base_offset=offset))
        batches.append(keys)
        offset += len(keys)
    sources = write_segments(directory, *segments)
    key_map = KeyMap(limit_bytes=limit_bytes)
    tail = tail_of(directory, sources, key_map)
    rows = [key for keys in batches for key in keys][: tail.end_offset]
    last = {key: number for number, key in enumerate(rows)}
    offset = 0
    for keys in batches:
        expected = [at for at, key in enumerate(keys) if last.get(key) == offset + at]
        assert list(key_map.kept(offset)) == expected, f"seed {SEED}, offset {offset}"
        offset += len(keys)
    assert key_map.keys == set(last)
    assert list(tail.tombstone_batches) == [at for at in tombstones[::-1] if at < tail.end_offset]
    assert (tail.end_offset == offset) == (limit_bytes == 1 << 30)


def test_a_part_of_the_log_is_looked_at(directory: str) -> None:
    """Batches before the first dirty offset bring no keys, also in the tail's first segment."""
    batches = [keyed_batch([(b"%d" % at, b"1")], base_offset=at) for at in range(20)]
    key_map = KeyMap(limit_bytes=MIB)
    tail_of(directory, write_segments(directory, batches), key_map, first_offset=15)
    assert key_map.keys == {b"%d" % at for at in range(15, 20)}


def test_a_full_map_ends_between_two_batches(directory: str) -> None:
    """The tail that fits is as long as it may be: the batch that fills the map is its last."""
    batches = [keyed_batch([(b"%05d" % at, b"1")], base_offset=at) for at in range(500)]
    sources = write_segments(directory, batches[:100], batches[100:])
    limit_bytes = 40 * KIB
    tail = tail_of(directory, sources, key_map := KeyMap(limit_bytes=limit_bytes))
    assert 100 < tail.end_offset < 500
    assert key_map.is_full
    filled = KeyMap(limit_bytes=limit_bytes)
    for at in range(tail.end_offset - 1):
        assert not filled.is_full
        filled.meet([b"%05d" % at])
    assert not filled.is_full


def test_what_decompresses_to_much_is_read_in_parts(directory: str) -> None:
    """A few bytes of zstd hold a key of a MiB each: no more of them are in memory than count."""
    key = b"k" * MIB
    count = 24
    batches = [keyed_batch([(key, b"1")], codec=ZSTD, base_offset=at) for at in range(count)]
    sources = write_segments(directory, batches)
    key_map = KeyMap(limit_bytes=100 * MIB)
    tracemalloc.start()
    try:
        tail_of(directory, sources, key_map)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(key_map.kept(count - 1)) == [0]
    assert not any(key_map.kept(at) for at in range(count - 1))
    assert peak < 3 * STRETCH_BYTES + 6 * MIB
