"""Compaction of one log, and its ceiling: the record library's bare parse and rebuild of the same
files.

What is measured is one function on files, `logd.storage.cleaner.clean`, which the server runs in a
process of its own; so this module alone of the package calls the server's code. The log is written
by bytes that are put together here.

The ceiling reads every batch once, checks its CRC-32C, decompresses it, finds every key, and puts
every batch together again from all its records: no map of keys, no decision, no file written.

Values are bytes of source per second of the process's own CPU: a shared machine's waiting is not
in them.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any, Final

from crc32c import crc32c

from logd.record.batch import CRC_START, HEADER, HEADER_BYTES, BatchHeader, read_header
from logd.record.build import encode_batch
from logd.record.compression import compress, decompress
from logd.record.keys import read_keys
from logd.record.survivors import rebuild_batch
from logd.storage.clean_order import CleanOrder, SourceSegment
from logd.storage.cleaner import clean
from logd.storage.files import Files

MIB: Final = 1024 * 1024
BATCH_BYTES: Final = 64 * 1024
SEGMENT_BYTES: Final = 128 * MIB
WINDOW_BYTES: Final = 2 * MIB
CONTENT_BYTES_MAX: Final = 16 * MIB
KEY_BYTES: Final = 16
RECORD_OVERHEAD_BYTES: Final = 8  # Lengths, deltas, attributes, number of headers.
VALUES: Final = 64  # Different ones, in turn.
T0_MS: Final = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """The log that is compacted.

    total_bytes: of content, before compression.
    record_bytes: of one record, its key of 16 bytes included.
    keys: how many there are; they come in turn, or in any order.
    codec: of its batches, as Kafka numbers them.
    """

    directory: str
    total_bytes: int
    record_bytes: int
    keys: int = 100_000
    in_turn: bool = True
    codec: int = 0

    def __post_init__(self) -> None:
        """Records must be of a length that two bytes can tell."""
        assert 64 + RECORD_OVERHEAD_BYTES < self.record_bytes < 8000


def write_log(spec: dict[str, Any]) -> dict[str, Any]:
    """Write the segments of a log.

    Returns:
        They, as (base offset, end offset, bytes); how many records, keys and bytes of content there
        are; and the sum of the offsets of each key's last record, which says what must stay.
    """
    shape = Shape(**spec)
    Path(shape.directory).mkdir()
    rng = random.Random("compaction")
    records = _Records(shape, rng)
    segments: list[tuple[int, int, int]] = []
    last_offsets: dict[int, int] = {}
    content_bytes = offset = 0
    while content_bytes < shape.total_bytes:
        base = offset
        with Path(shape.directory, f"{base:020d}.log").open("wb") as file:
            while content_bytes < shape.total_bytes and file.tell() < SEGMENT_BYTES:
                count = records.a_batch
                if shape.in_turn:
                    keys = [number % shape.keys for number in range(offset, offset + count)]
                else:
                    keys = rng.choices(range(shape.keys), k=count)
                last_offsets.update(zip(keys, range(offset, offset + count), strict=True))
                content = records.content(keys, offset)
                file.write(_batch(content, offset, count, shape.codec))
                content_bytes += len(content)
                offset += count
            segments.append((base, offset, file.tell()))
    return {"segments": segments, "records": offset, "content_bytes": content_bytes,
            "keys": len(last_offsets), "last_offsets_sum": sum(last_offsets.values())}  # fmt: skip


class _Records:
    """Puts the records of a batch together from parts that are made once: ten million take a while.

    Each is a head, which depends on its place in the batch, a key, and a value of a few.
    """

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        value_bytes = shape.record_bytes - KEY_BYTES - RECORD_OVERHEAD_BYTES
        values = [rng.randbytes(8).hex().encode() * (value_bytes // 16 + 1) for _ in range(VALUES)]
        self._tails = [_varint(value_bytes) + value[:value_bytes] + b"\0" for value in values]
        self._keys = [b"key-%012d" % key for key in range(shape.keys)]
        assert all(len(key) == KEY_BYTES for key in self._keys)
        self._heads: list[bytes] = []
        size = 0
        while size + shape.record_bytes < BATCH_BYTES:
            middle = b"\0\0" + _varint(len(self._heads)) + _varint(KEY_BYTES)
            body_bytes = len(middle) + KEY_BYTES + len(self._tails[0])
            self._heads.append(_varint(body_bytes) + middle)
            size += len(self._heads[-1]) - len(middle) + body_bytes

    @property
    def a_batch(self) -> int:
        """How many records each batch has."""
        return len(self._heads)

    def content(self, keys: Sequence[int], offset: int) -> bytes:
        """Return the records of the batch at this offset."""
        assert len(keys) == self.a_batch
        names = map(self._keys.__getitem__, keys)
        first = offset % VALUES
        tails = islice(cycle(self._tails), first, first + len(keys))
        return b"".join(chain.from_iterable(zip(self._heads, names, tails, strict=True)))


def _varint(value: int) -> bytes:
    rest = value << 1
    return bytes((rest,)) if rest < 0x80 else bytes((rest & 0x7F | 0x80, rest >> 7))


def _batch(records: bytes, offset: int, count: int, codec: int) -> bytearray:
    payload = compress(codec, records)
    length = HEADER_BYTES - 12 + len(payload)
    fields = [offset, length, 0, 2, 0, codec, count - 1, T0_MS, T0_MS, -1, -1, -1, count]
    out = bytearray(HEADER.pack(*fields)) + payload
    fields[4] = crc32c(memoryview(out)[CRC_START:])
    HEADER.pack_into(out, 0, *fields)
    return out


def batch_of(records: Sequence[tuple[bytes, bytes]], *, timestamp_ms: int) -> bytes:
    """Return a batch of records with these keys and values."""
    return bytes(encode_batch([(key, value, [], timestamp_ms) for key, value in records]))


def keyed_offsets(batch: bytes) -> Iterator[tuple[bytes | None, int]]:
    """Yield the key and the offset of each record of one batch, compressed or not."""
    header = read_header(batch)
    assert header.size == len(batch)
    content, start = batch, HEADER_BYTES
    if header.codec:
        payload = memoryview(batch)[HEADER_BYTES:]
        content, start = decompress(header.codec, payload, limit_bytes=CONTENT_BYTES_MAX), 0
    found = read_keys(content, start, len(content), header.count,
                      last_delta=header.last_offset_delta, want_starts=False)  # fmt: skip
    for key, delta in zip(found.keys, found.deltas, strict=True):
        yield key, header.base_offset + delta


def compact_log(spec: dict[str, Any]) -> dict[str, Any]:
    """Do a round over the log; remove what it wrote."""
    directory, segments = spec["directory"], [SourceSegment(*row) for row in spec["segments"]]
    order = CleanOrder(
        name="bench-0",
        directory=directory,
        attempt=1,
        groups=tuple((segment,) for segment in segments),
        first_dirty_offset=0,
        end_offset=segments[-1].end_offset,
        now_ms=T0_MS,
    )
    wall_s, cpu_s = time.monotonic(), time.process_time()
    result = clean(Files(), order, on_progress=lambda _: None, pace=lambda _: None)
    answer = _answer(order.source_bytes, wall_s, cpu_s)
    for name in os.listdir(directory):
        if name.endswith(".cleaned"):
            os.unlink(f"{directory}/{name}")
    assert result.fitted
    assert result.after.records == result.keys
    return answer


def rebuild_log(spec: dict[str, Any]) -> dict[str, Any]:
    """Parse every batch and put it together again, in memory."""
    wall_s, cpu_s = time.monotonic(), time.process_time()
    source_bytes = 0
    for base, _, size in spec["segments"]:
        fd = os.open(f"{spec['directory']}/{base:020d}.log", os.O_RDONLY)
        try:
            position = 0
            while position < size:
                position += _rebuild_window(os.pread(fd, WINDOW_BYTES, position))
        finally:
            os.close(fd)
        source_bytes += size
    return _answer(source_bytes, wall_s, cpu_s)


def _rebuild_window(data: bytes) -> int:
    """Rebuild the whole batches in `data`; return their bytes."""
    at = 0
    while at + HEADER_BYTES <= len(data):
        header = read_header(data, at)
        if at + header.size > len(data):
            break
        assert crc32c(memoryview(data)[at + CRC_START : at + header.size]) == header.crc
        _rebuild(data, at, header)
        at += header.size
    assert at
    return at


def _rebuild(data: bytes, at: int, header: BatchHeader) -> None:
    start, end = at + HEADER_BYTES, at + header.size
    content = data
    if header.codec:
        payload = memoryview(data)[start:end]
        content = decompress(header.codec, payload, limit_bytes=CONTENT_BYTES_MAX)
        start, end = 0, len(content)
    found = read_keys(
        content,
        start,
        end,
        header.count,
        last_delta=header.last_offset_delta,
        want_starts=True,
    )
    starts = found.starts
    pieces = list(zip(starts, [*starts[1:], found.end], strict=True))
    rebuilt = rebuild_batch(header, content, pieces)
    assert len(rebuilt) >= HEADER_BYTES


def _answer(source_bytes: int, wall_s: float, cpu_s: float) -> dict[str, Any]:
    return {
        "bytes": source_bytes,
        "seconds": time.monotonic() - wall_s,
        "cpu_s": time.process_time() - cpu_s,
        "memory_bytes": _peak_memory_bytes(),
    }


def _peak_memory_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def remove_log(directory: str) -> None:
    """Remove a log that `write_log` wrote."""
    shutil.rmtree(directory, ignore_errors=True)
