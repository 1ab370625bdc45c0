"""The machine's own telemetry, compacted: of each process, exactly its last sample remains.

Each line of /proc/PID/stat, keyed by PID, a thousand times over, of the newest processes: they are
the ones that change and end, and a machine may have any number. A process that ended gets a
tombstone, as does one that newer ones supersede.
"""

from __future__ import annotations

import os
from pathlib import Path

from logd.record.compression import ZSTD
from logd.storage.log import LogSettings
from logd.units import DAY_MS, KIB, MIB
from tests.unit.compaction_rig import NOW_MS, Pair, compact, keyed_batch, rows_in
from tests.unit.log_builder import append, make_log, recover_log

SAMPLES = 1000
PROCESSES_MAX = 40
ROUNDS_EVERY = 250
SETTINGS = LogSettings(segment_bytes=256 * KIB, is_compacted=True)


def sample() -> dict[bytes, bytes]:
    """Return the stat line of each of the newest processes, by PID."""
    found = {}
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    for pid in pids[-PROCESSES_MAX:]:
        try:
            found[b"%d" % pid] = Path("/proc", str(pid), "stat").read_bytes()
        except OSError:
            continue  # It ended just now.
    return found


def test_exactly_the_last_sample_of_each_process_remains(directory: str) -> None:
    """Sampled a thousand times, compacted in between and at the end, then recovered."""
    log = make_log(directory, settings=SETTINGS)
    last: dict[bytes, bytes | None] = {}
    alive: dict[bytes, bytes] = {}
    sent = 0
    for number in range(1, SAMPLES + 1):
        found = sample()
        pairs: list[Pair] = [*found.items(), *((pid, None) for pid in alive.keys() - found.keys())]
        alive = found
        last.update(pairs)
        sent += len(pairs)
        codec = ZSTD if number % 2 else 0
        append(log, keyed_batch(pairs, codec=codec, timestamp_ms=NOW_MS + number), now_ms=NOW_MS)
        if number % ROUNDS_EVERY == 0:
            result = compact(log, attempt=number)
            assert result is not None
            assert result.fitted
    assert sent > SAMPLES
    assert {row.key: row.value for row in rows_in(log)} == last
    assert len(rows_in(log)) == len(last)
    append(log, keyed_batch([(b"0", b"none has this pid")]), now_ms=NOW_MS)
    compact(log, attempt=SAMPLES + 1, now_ms=NOW_MS + DAY_MS)
    recovered, report = recover_log(directory, settings=SETTINGS)
    assert not report.damaged
    running = {pid: line for pid, line in last.items() if line is not None}
    assert {row.key: row.value for row in rows_in(recovered)} == {
        **running,
        b"0": b"none has this pid",
    }
    assert recovered.size_bytes < MIB
