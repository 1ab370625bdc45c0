"""Our batches against the record builders and parsers of aiokafka and kafka-python, both ways."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka.record import default_records as aiokafka_records

from logd.record import batch, records
from logd.record.build import NewRecord, encode_batch

with warnings.catch_warnings():
    # kafka-python loads its schemas at import, by a function that Python 3.11 calls outdated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.record import default_records as kafka_records

T0_MS = 1_700_000_000_000
LIBRARIES = {"aiokafka": aiokafka_records, "kafka-python": kafka_records}
# kafka-python has snappy and LZ4 only with packages that nothing else here needs.
PAIRS = [
    *(("aiokafka", codec) for codec in range(5)),
    *(("kafka-python", codec) for codec in (0, 1, 4)),
]

CASES: dict[str, list[NewRecord]] = {
    "one": [(b"key", b"value" * 50, [], T0_MS)],
    "nulls": [(None, None, [], T0_MS)] * 70,
    "headers": [(b"k", b"v" * 200, [("a", b"1"), ("a", None), ("", b""), ("ü", b"\0")], T0_MS)],
    "times": [(b"k", b"v" * 20, [], T0_MS + delta) for delta in (0, 1, -1, 10**9, -(10**9))],
    "many": [(b"k%d" % n, b"v" * (n % 300), [], T0_MS + n) for n in range(3000)],
    "large": [(b"k" * 70_000, b"v" * 300_000, [("h" * 300, b"w" * 300)], T0_MS)],
    "no time": [(b"k", b"v" * 100, [], -1)] * 3,
}


def build(library: str, cases: Iterable[NewRecord], codec: int) -> bytes:
    builder = LIBRARIES[library].DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=2**24,
    )  # fmt: skip
    for offset, (key, value, headers, timestamp_ms) in enumerate(cases):
        added = builder.append(
            offset, timestamp=timestamp_ms, key=key, value=value, headers=list(headers)
        )
        assert added is not None
    return bytes(builder.build())


def as_rows(parsed: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(r.offset, r.key, r.value, [(k, v) for k, v in r.headers]) for r in parsed]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("case", CASES)
def test_uncompressed_batches_are_the_same_bytes(library: str, case: str) -> None:
    """Two independent builders and ours agree on every byte, CRC included; only the leader epoch,
    which is the server's to set, is -1 for one and 0 for the other."""
    epoch = {"aiokafka": -1, "kafka-python": 0}[library]
    assert encode_batch(CASES[case], leader_epoch=epoch) == build(library, CASES[case], 0)


@pytest.mark.parametrize(("library", "codec"), PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_we_read_what_they_write(library: str, codec: int, case: str) -> None:
    """Their batches pass our checks, and our records are theirs."""
    data = build(library, CASES[case], codec)
    batch.check_appendable(data, 0, len(data), max_message_bytes=len(data))
    records.check_records(data)
    theirs = list(LIBRARIES[library].DefaultRecordBatch(data))
    ours = list(records.iterate(data))
    assert as_rows(ours) == as_rows(theirs)
    assert [r.timestamp_ms for r in ours] == [r.timestamp for r in theirs]


@pytest.mark.parametrize(("library", "codec"), PAIRS)
@pytest.mark.parametrize("case", CASES)
def test_they_read_what_we_write(library: str, codec: int, case: str) -> None:
    """Our batches, placed in a log, mean the same to them, in every codec."""
    data = encode_batch(CASES[case], codec=codec)
    batch.set_place(data, 0, base_offset=500, leader_epoch=1)
    reader = LIBRARIES[library].DefaultRecordBatch(bytes(data))
    assert reader.validate_crc()
    theirs = list(reader)
    assert as_rows(theirs) == as_rows(records.iterate(data))
    assert [r.timestamp for r in theirs] == [row[3] for row in CASES[case]]
