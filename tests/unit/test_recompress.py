"""Segments compressed anew: `logd.record.recompress` and `logd.storage.recompress`."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.errors import CorruptFileError, DiskFullError
from logd.record import batch
from logd.record.batch import LOG_APPEND_TIME_BIT, has_valid_crc, read_header
from logd.record.build import set_crc
from logd.record.compression import CODEC_NAMES, ZSTD
from logd.record.recompress import Recompressor
from logd.record.records import encode_batch, iterate
from logd.storage.files import Buffer, OpenFile
from logd.storage.index_bytes import IndexBytes
from logd.storage.recompress import (
    STAGING_SUFFIX,
    RecompressedSource,
    RecompressOrder,
    recompress,
)
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import make_log, recover_log, reopen
from tests.unit.storage_faults import FaultyFiles, StoppedError

CODECS = range(len(CODEC_NAMES))
TEXT = b"the same words again and again, " * 40


class Batches:
    """A segment in memory: a source for `recompress`."""

    def __init__(self, batches: Sequence[bytes | bytearray], *, base_offset: int = 0) -> None:
        self.data = b"".join(batches)
        self.base_offset = base_offset
        self.next_offset = read_header(batches[-1]).next_offset
        self.size_bytes = len(self.data)
        self.min_timestamp_ms, self.max_timestamp_ms = 5000, 9000

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the buffer."""
        found = self.data[position : position + len(buffer)]
        buffer[: len(found)] = found
        return len(found)


def order(directory: str, **changes: int) -> RecompressOrder:
    """Return an order with small indexes' intervals."""
    given: dict[str, int] = {"level": 3, "reserve_bytes": 0, "index_interval_bytes": 300, **changes}
    return RecompressOrder(directory=directory, **given)


def make(
    count: int, codec: int, *, value: bytes = TEXT, base_offset: int = 0, records: int = 3
) -> list[bytearray]:
    """Return batches of three records each."""
    return [
        encode_batch(
            [(b"k%d" % n, value + b"%d" % n, [("h", b"v")], 5000 + n)] * records,
            base_offset=base_offset + 3 * n,
            codec=codec,
            producer_id=77,
            producer_epoch=1,
            base_sequence=3 * n,
        )
        for n in range(count)
    ]


def run(source: Batches, directory: str, **changes: int) -> RecompressedSource:
    """Recompress; something must shrink."""
    made = recompress(FastFiles(), source, order(directory, **changes))
    assert made is not None
    return made


def read_all(source: RecompressedSource) -> bytes:
    """Return all bytes of the staging file."""
    buffer = bytearray(source.size_bytes)
    assert source.read_into(0, buffer) == source.size_bytes
    return bytes(buffer)


def split(data: bytes) -> list[bytes]:
    """Return the batches that lie one behind the other."""
    found = []
    while data:
        size = read_header(data).size
        found.append(data[:size])
        data = data[size:]
    return found


# --- One batch ------------------------------------------------------------------------------------


@given(
    codec=st.sampled_from(CODECS),
    level=st.sampled_from([-5, 1, 3, 9, 19]),
    rows=st.lists(
        st.tuples(
            st.none() | st.binary(max_size=20),
            st.none() | st.binary(max_size=40).map(lambda word: word * 50),
            st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=2),
            st.integers(0, 2**40),
        ),
        min_size=1,
        max_size=20,
    ),
    append_time=st.booleans(),
)
@settings(max_examples=150)
def test_records_stay_whatever_the_codec(
    codec: int,
    level: int,
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]],
    append_time: bool,
) -> None:
    """Records in, records out; of the header only length, codec and CRC may differ."""
    data = encode_batch(
        rows, base_offset=9, leader_epoch=4, codec=codec, producer_id=5, producer_epoch=6,
        base_sequence=7, attributes=LOG_APPEND_TIME_BIT if append_time else 0,
    )  # fmt: skip
    header = read_header(data)
    made = Recompressor(level=level, content_bytes_max=2**20).shrink(header, memoryview(data))
    if made is None:
        return
    after = read_header(made)
    assert len(made) == after.size < len(data)
    assert after.codec == ZSTD
    assert has_valid_crc(made, 0, after)
    assert list(iterate(bytes(made))) == list(iterate(bytes(data)))
    assert after._replace(length=0, crc=0, attributes=0) == header._replace(
        length=0, crc=0, attributes=0
    )
    assert after.attributes & ~batch.CODEC_MASK == header.attributes & ~batch.CODEC_MASK


@pytest.mark.parametrize("codec", [0, 1, 2, 3])
def test_a_batch_that_can_shrink_does(codec: int) -> None:
    """Of each codec that there is to improve on."""
    data = make(1, codec, value=random.Random(1).randbytes(100) + TEXT * 30)[0]
    made = Recompressor(level=19, content_bytes_max=2**20).shrink(
        read_header(data), memoryview(data)
    )
    assert made is not None


@pytest.mark.parametrize("why", ["zstd", "noise", "broken", "large", "control", "empty"])
def test_batches_that_must_stay_are_left_alone(why: str) -> None:
    """Zstd already, no gain, no stream of its codec, too much content, not a producer's, empty."""
    value = random.Random(1).randbytes(500) if why == "noise" else TEXT
    data = make(1, {"zstd": ZSTD, "broken": 1}.get(why, 0), value=value, records=1)[0]
    if why == "broken":
        data[70:90] = bytes(20)
    if why == "control":
        struct.pack_into(">h", data, 21, batch.CONTROL_BIT)
    if why == "empty":
        struct.pack_into(">i", data, 57, 0)
    set_crc(data)
    limit = 100 if why == "large" else 2**20
    made = Recompressor(level=3, content_bytes_max=limit).shrink(
        read_header(data), memoryview(data)
    )
    assert made is None


# --- A segment ------------------------------------------------------------------------------------


def test_a_segment_of_all_codecs_is_the_same_log(directory: str, rng: random.Random) -> None:
    """Every record of every batch, offsets and producers included; positions are new."""
    batches: list[bytearray] = []
    for codec in (0, 1, 2, 3, 4, 0, 3):
        at = read_header(batches[-1]).next_offset if batches else 100
        value = TEXT if rng.random() < 0.7 else rng.randbytes(200)
        batches += make(rng.randrange(1, 30), codec, value=value, base_offset=at)
    source = Batches(batches, base_offset=100)
    made = run(source, directory)
    after = split(read_all(made))
    assert len(after) == len(batches) == made.shrunk + made.copied
    for old, new in zip(batches, after, strict=True):
        assert new == bytes(old) or read_header(new).codec == ZSTD
        assert list(iterate(new)) == list(iterate(bytes(old)))
    assert made.size_bytes < source.size_bytes
    assert (made.base_offset, made.next_offset) == (100, source.next_offset)
    assert os.listdir(directory) == []


def test_its_indexes_and_boundaries_are_of_the_new_positions(directory: str) -> None:
    """As an index built from the new bytes; every window names the batches that begin in it."""
    made = run(Batches(make(60, 0)), directory)
    built = IndexBytes(base_offset=0, index_bytes_max=10**6, index_interval_bytes=300)
    starts, at = [], 0
    for each in split(read_all(made)):
        built.add(read_header(each), at, len(each))
        starts.append((at, read_header(each).base_offset))
        at += len(each)
    assert made.indexes() == built.finish()
    assert len(made.indexes()[0]) > 80
    for low in range(0, made.size_bytes, 97):
        high = low + 700
        assert made.batches_near(low, high) == [s for s in starts if low <= s[0] < high]
        assert (
            made.batches_near(low, made.size_bytes, limit=1)
            == [s for s in starts if s[0] >= low][:1]
        )


def test_batches_longer_than_a_window_pass(directory: str) -> None:
    """One of 5 MiB between small ones."""
    batches = make(2, 0)
    batches += make(1, 0, value=TEXT * 1300, base_offset=6)
    batches += make(2, 0, base_offset=9)
    made = run(Batches(batches), directory)
    assert [list(iterate(each)) for each in split(read_all(made))] == [
        list(iterate(bytes(each))) for each in batches
    ]


def test_nothing_to_gain_is_none(directory: str) -> None:
    """The segment itself is coded then, and no space is held."""
    source = Batches(make(20, ZSTD))
    assert recompress(FastFiles(), source, order(directory)) is None
    assert os.listdir(directory) == []


@pytest.mark.parametrize("at", [5, 16, 30, 61, 200, -1])
def test_damage_is_named_and_leaves_nothing(directory: str, at: int) -> None:
    """A bad batch is never recompressed into a good one."""
    source = Batches(make(5, 0))
    data = bytearray(source.data)
    data[at] ^= 0x40
    source.data = bytes(data)
    with pytest.raises(CorruptFileError):
        recompress(FastFiles(), source, order(directory))
    assert os.listdir(directory) == []


class LittleSpace(FastFiles):
    """A file system whose free space shrinks as it is written to."""

    def __init__(self, free_bytes: int) -> None:
        self.free = free_bytes

    def free_bytes(self, path: str) -> int:
        """What is left."""
        return self.free

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
        """Take it away."""
        self.free -= sum(map(len, buffers))
        assert self.free >= 4000
        return super().write_at(file, position, buffers)


def test_the_reserve_is_kept(directory: str) -> None:
    """It is refused before a byte that would touch it, at the start or in the middle."""
    noise = random.Random(3).randbytes(900_000)
    batches = make(9, 0)
    for n in range(4):
        batches += make(1, 0, value=noise, base_offset=27 + 3 * n, records=1)
    for free in (4100, 2_000_000, 3_000_000):
        with pytest.raises(DiskFullError, match="must leave 4000"):
            recompress(LittleSpace(free), Batches(batches), order(directory, reserve_bytes=4000))
    assert os.listdir(directory) == []


class EnoughError(Exception):
    """Whoever waits for it has had enough."""


def test_what_progress_raises_ends_it_and_leaves_nothing(directory: str) -> None:
    """So a stop need not wait for a gigabyte."""

    def stop(_: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        recompress(FastFiles(), Batches(make(5, 0)), order(directory), on_progress=stop)
    assert os.listdir(directory) == []


# --- Crashes --------------------------------------------------------------------------------------


def test_a_stop_anywhere_leaves_at_most_a_file_that_the_start_removes(directory: str) -> None:
    """At every call of the file system: the log opens as before, and the staging file is gone."""
    log = make_log(directory)
    partition = f"{directory}/t-0"
    clean = log.close()
    seen = 0
    for stop in range(40):
        try:
            recompress(FaultyFiles(stop_before=stop), Batches(make(30, 0)), order(partition))
        except StoppedError:
            left = [name for name in os.listdir(partition) if name.endswith(STAGING_SUFFIX)]
            seen += len(left)
            reopened = recover_log(directory)[0] if stop % 2 else reopen(directory, clean)
            assert not any(name.endswith(".tmp") for name in os.listdir(partition))
            reopened.close()
            continue
        break
    else:
        raise AssertionError("it never came to its end")
    assert seen >= 1
