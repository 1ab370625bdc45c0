"""Kafka's dump tool on segments that we compacted: it reads every record and follows every index.

The log has all codecs, idempotent producers, tombstones with horizons, headers without records, and
times that do not only rise; it went through several rounds.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from logd.record.batch import DELETE_HORIZON_BIT
from logd.storage.log import LogSettings
from logd.units import DAY_MS
from tests.interop.java_tools import JavaTools, UnavailableError, find_tools
from tests.unit.compaction_rig import NOW_MS, Pair, Row, batches_in, compact, keyed_batch, rows_in
from tests.unit.log_builder import append, make_log

pytestmark = pytest.mark.interop

DUMP = "kafka.tools.DumpLogSegments"
SETTINGS = LogSettings(segment_bytes=20_000, index_interval_bytes=500, is_compacted=True)
RECORD = re.compile(
    r"^\| offset: (\d+) CreateTime: (-?\d+) .* key: (\S+)(?: payload: (.*))?$", re.MULTILINE
)
BATCH = re.compile(
    r"^baseOffset: \d+ lastOffset: (\d+) count: (\d+) .* isvalid: (\w+)$", re.MULTILINE
)


@pytest.fixture(scope="module")
def java() -> JavaTools:
    try:
        return find_tools()
    except UnavailableError as reason:
        pytest.skip(str(reason))


@dataclass(frozen=True, slots=True)
class Compacted:
    """A log's directory, and what we read in it."""

    directory: Path
    rows: list[Row]
    ends: list[tuple[int, int]]

    def files(self, ending: str) -> list[Path]:
        return sorted(self.directory.glob(f"*.{ending}"))


def random_pairs(rng: random.Random) -> list[Pair]:
    return [
        (b"key-%03d" % rng.randrange(300), rng.choice([None, b"v", b"v" * rng.randrange(90)]))
        for _ in range(rng.randint(1, 12))
    ]


@pytest.fixture(scope="module")
def compacted(java: JavaTools, tmp_path_factory: pytest.TempPathFactory) -> Compacted:
    """Three rounds over some thousand records; the last segment is empty."""
    root = tmp_path_factory.mktemp("compacted")
    rng = random.Random("compacted")
    log = make_log(str(root), settings=SETTINGS)
    sequences = [0, 0, 0]

    def stamped(pairs: list[Pair], producer: int) -> bytearray:
        fields: dict[str, int] = {}
        if producer < len(sequences):
            sequence = sequences[producer]
            fields = {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence}
            sequences[producer] += len(pairs)
        time_ms = NOW_MS + rng.randrange(10**6)
        return keyed_batch(pairs, codec=rng.randrange(5), timestamp_ms=time_ms, **fields)

    for attempt in range(3):
        for _ in range(150):
            pairs = random_pairs(rng)
            append(log, stamped(pairs, rng.randrange(6)), now_ms=NOW_MS)
        # The last batch of a producer whose only record the next one supersedes: a header stays.
        append(log, stamped([(b"key-000", b"old")], 0), now_ms=NOW_MS)
        append(log, stamped([(b"key-000", b"last")] * 2, 5), now_ms=NOW_MS)
        log.roll_now()
        assert compact(log, attempt=attempt, now_ms=NOW_MS + attempt * DAY_MS) is not None
    headers = [header for header, _ in batches_in(log)]
    assert any(header.count == 0 for header in headers)
    assert any(header.attributes & DELETE_HORIZON_BIT for header in headers)
    rows = rows_in(log)
    log.close()
    ends = [(header.last_offset, header.count) for header in headers]
    return Compacted(root / "t-0", rows, ends)


def dump(java: JavaTools, files: list[Path], *options: str) -> tuple[str, str]:
    return java.run_both(DUMP, *options, "--files", ",".join(map(str, files)))


def test_kafka_reads_every_record_that_stayed(java: JavaTools, compacted: Compacted) -> None:
    """Offsets, times, keys and values, batch ends and CRCs, headers without records included."""
    text, complaints = dump(java, compacted.files("log"), "--print-data-log", "--deep-iteration")
    # It says so of every log that lacks offsets, its own compacted ones as well.
    gaps = re.compile(r"Non-consecutive offsets in \S+\.log|  \d+ is followed by \d+")
    assert all(gaps.fullmatch(line) for line in complaints.splitlines()), complaints
    found = [
        (int(offset), int(time_ms), key.encode(), None if value is None else value.encode())
        for offset, time_ms, key, value in (match.groups() for match in RECORD.finditer(text))
    ]
    expected = [(row.offset, row.timestamp_ms, row.key, row.value) for row in compacted.rows]
    assert [(o, t, k, v or None) for o, t, k, v in found] == [
        (o, t, k, v or None) for o, t, k, v in expected
    ]
    batches = BATCH.findall(text)
    assert [(int(last), int(count)) for last, count, _ in batches] == compacted.ends
    assert {valid for _, _, valid in batches} == {"true"}


def test_kafka_finds_its_way_by_the_new_indexes(java: JavaTools, compacted: Compacted) -> None:
    """Each entry of both indexes is held against the log beside it; none is complained of."""
    indexes = [*compacted.files("index"), *compacted.files("timeindex")]
    text, complaints = dump(java, indexes)
    assert complaints == ""
    assert "Mismatch" not in text
    assert len(re.findall(r"^offset: \d+ position: \d+$", text, re.MULTILINE)) > 20
    text, complaints = dump(java, indexes, "--index-sanity-check")
    assert complaints == ""
    fine = re.findall(r"index (?:passed sanity check|is empty)\.$", text, re.MULTILINE)
    assert len(fine) == len(indexes)
