"""Batches put together again from some of their records."""

from __future__ import annotations

import random

import pytest

from logd.errors import CorruptRecordsError
from logd.record.batch import (
    DELETE_HORIZON_BIT,
    HEADER_BYTES,
    LOG_APPEND_TIME_BIT,
    BatchHeader,
    has_valid_crc,
    read_header,
    set_log_append_time,
)
from logd.record.compression import CODEC_NAMES, decompress
from logd.record.keys import read_keys
from logd.record.records import BatchBuilder, Record, check_records, iterate
from logd.record.survivors import delete_horizon_ms, empty_batch, rebuild_batch
from logd.record.timestamps import latest_timestamp_ms
from logd.record.varint import write_varint
from logd.units import INT64_MAX

Cuts = list[tuple[int, int]]


def opened(batch: bytes | bytearray) -> tuple[BatchHeader, bytes, Cuts]:
    """Return header, content and where each record lies in it."""
    header = read_header(batch)
    content = decompress(header.codec, batch[HEADER_BYTES:], limit_bytes=1 << 20)
    found = read_keys(
        content,
        0,
        len(content),
        header.count,
        last_delta=header.last_offset_delta,
        want_starts=True,
    )
    return header, content, list(zip(found.starts, [*found.starts[1:], found.end], strict=True))


def records_of(batch: bytes | bytearray) -> list[Record]:
    """Return the records, after all that can be checked was checked."""
    header = read_header(batch)
    assert has_valid_crc(batch, 0, header)
    assert header.size == len(batch)
    check_records(batch)
    return list(iterate(batch))


@pytest.mark.parametrize("codec", range(len(CODEC_NAMES)))
@pytest.mark.parametrize("horizon_ms", [None, 0, 2**50])
def test_exactly_the_chosen_records_stay(codec: int, horizon_ms: int | None) -> None:
    """Any choice, any codec, with or without a horizon: offsets, times, all bytes as before."""
    rng = random.Random(codec)
    builder = BatchBuilder()
    for number in range(50):
        value = None if number % 9 == 0 else rng.randbytes(number)
        builder.append(b"%d" % (number % 7), value, [("h", b"v")] * (number % 3),
                       timestamp_ms=1000 + rng.randrange(5000))  # fmt: skip
    batch = builder.build(base_offset=77, codec=codec, leader_epoch=1)
    header, content, cuts = opened(batch)
    before = records_of(batch)
    for _ in range(20):
        chosen = sorted(rng.sample(range(50), rng.randrange(1, 51)))
        rebuilt = rebuild_batch(header, content, [cuts[at] for at in chosen], horizon_ms=horizon_ms)
        assert records_of(rebuilt) == [before[at] for at in chosen]
        after = read_header(rebuilt)
        assert after.codec == codec
        assert after.last_offset == header.last_offset
        assert delete_horizon_ms(after) == horizon_ms
        assert after.max_timestamp == max(before[at].timestamp_ms for at in chosen)


def test_log_append_time_stays_the_time_of_all_records() -> None:
    """Where the server set the time, the header has it, and cutting does not change it."""
    builder = BatchBuilder()
    builder.append(b"a", b"1", timestamp_ms=5)
    builder.append(b"b", b"2", timestamp_ms=9)
    batch = builder.build()
    set_log_append_time(batch, 0, len(batch), now_ms=4242)
    header, content, cuts = opened(batch)
    rebuilt = rebuild_batch(header, content, cuts[:1], horizon_ms=10_000)
    after = read_header(rebuilt)
    assert after.attributes & (LOG_APPEND_TIME_BIT | DELETE_HORIZON_BIT) == 0x48
    assert [record.timestamp_ms for record in iterate(rebuilt)] == [4242]
    assert read_header(empty_batch(after)).max_timestamp == 4242


def test_a_max_timestamp_that_was_never_set_stays_so() -> None:
    """Some producers leave the max timestamp at -1; the first record's stands for it."""
    builder = BatchBuilder()
    builder.append(b"a", b"1", timestamp_ms=500)
    builder.append(b"b", b"2", timestamp_ms=900)
    header, content, cuts = opened(builder.build())
    header = header._replace(max_timestamp=-1)
    rebuilt = read_header(rebuild_batch(header, content, cuts[1:]))
    assert rebuilt.max_timestamp == -1
    assert latest_timestamp_ms(rebuilt) == 500
    assert read_header(empty_batch(header)).max_timestamp == 500


def test_the_horizon_is_never_taken_for_a_records_time() -> None:
    """With a horizon in its place, the base timestamp says nothing about records."""
    builder = BatchBuilder()
    builder.append(b"a", None, timestamp_ms=-1)
    header, content, cuts = opened(builder.build())
    rebuilt = read_header(rebuild_batch(header, content, cuts, horizon_ms=9999))
    assert latest_timestamp_ms(rebuilt) == -1


def test_a_time_that_does_not_fit_is_refused() -> None:
    """A delta that would pass 64 bits when it is moved is corrupt, and no assertion."""
    body = bytearray(1)
    write_varint(body, INT64_MAX)
    for value in (0, 0, 0, 0):
        write_varint(body, value)
    content = bytearray()
    write_varint(content, len(body))
    content += body
    header = read_header(BatchBuilder().build())._replace(base_timestamp=1000, count=1)
    with pytest.raises(CorruptRecordsError):
        rebuild_batch(header, bytes(content), [(0, len(content))], horizon_ms=5)
