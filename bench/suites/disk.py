"""The bare device: what page cache, fdatasync and processor give to a loop without a server.

Writes through fdatasync stand beside direct writes of the same size (O_DIRECT, no flush): their
ratio is what durability costs here. All sizes of one kind take turns, so that they compare. The
last row is the verdict in words (`bench.device_truth`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from bench.device_truth import SyncPoint, conclude, judge_syncs
from bench.machine import Device, device_of
from bench.measurement import Measurement, Window
from bench.process import BenchError, run_job
from bench.runner import JOB_TIMEOUT_S, Plan, Run, as_megabytes, as_requests, window_of
from bench.suites.shapes import (
    GIB,
    KIB,
    MIB,
    ROUND_ROBIN_PARTITIONS,
    SYNC_THREADS,
    counted,
    size_name,
)

CACHE_SIZES: Final = (4 * KIB, 64 * KIB, MIB)
SYNC_SIZES: Final = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
# Appends that wait for one sync together, each of a record of this length.
RECORD_BYTES: Final = KIB
GROUPS: Final = (1, 4, 16, 64, 256, 1024, 4096)
READ_FILE_BYTES: Final = 512 * MIB
READS: Final = ((MIB, False), (64 * KIB, True), (4 * KIB, True))
THREADS: Final = (1, 4, SYNC_THREADS)
FILES: Final = 100
DIRECT: Final = "direct writes, never flushed"
# The scratch files of a window, the file that is read, and what primes the cache.
SPACE_BYTES: Final = 3 * GIB


def disk_rows(run: Run) -> list[Measurement]:
    """What the device, the page cache and the processor give to a bare loop, and a verdict."""
    run.prime()
    rows = run.rows([_write(run, size) for size in CACHE_SIZES])
    device = device_of(run.directory)
    flushes_per_sync = _flushes_per_sync(run, device)
    syncs = run.rows(_sync_plans(run))
    groups = run.rows([_group(run, appends) for appends in GROUPS])
    rows += syncs + groups + _reads(run) + run.rows(_many_files(run))
    rows.append(run.row("CRC-32C of 64 KiB", "MB/s", _job(run, "checksum", 64 * KIB)))
    return [*rows, _verdict(run, device, syncs[0], groups, flushes_per_sync)]


def _job(
    run: Run, job: str, size: int, value: Callable[[Window], Window] = as_megabytes, **spec: Any
) -> Callable[[], Window]:
    return lambda: value(run.job(job, directory=str(run.directory), bytes=size, **spec))


# --- Writes ---------------------------------------------------------------------------------------


def _write(run: Run, size: int) -> Plan:
    return Plan(
        f"write {size_name(size)} to the page cache", "MB/s", _job(run, "write-only", size),
        conditions={"curve": "bytes a write", "x": size, "flush_mode": "never"},
    )  # fmt: skip


def _sync_plans(run: Run) -> list[Plan]:
    direct = _has_direct(run)
    return [_sync(run, size, direct=direct) for size in SYNC_SIZES]


def _sync(run: Run, size: int, *, direct: bool) -> Plan:
    bare = _job(run, "write-direct", size)
    return Plan(
        f"write {size_name(size)} and fdatasync", "MB/s", _job(run, "write-and-sync", size),
        ceiling=(lambda _: bare()) if direct else None,
        ceiling_name=DIRECT,
        conditions={"curve": "bytes a sync", "x": size, "flush_mode": "fdatasync after each"},
    )  # fmt: skip


def _has_direct(run: Run) -> bool:
    try:
        run.job("write-direct", directory=str(run.directory), bytes=4 * KIB, seconds=0.001)
    except BenchError as error:
        run.skipped["direct writes and reads (O_DIRECT)"] = str(error)
        return False
    return True


def _group(run: Run, appends: int) -> Plan:
    """As many appends as share a sync; a sync of them all answers them all."""
    job = _job(run, "write-and-sync", appends * RECORD_BYTES, lambda window: window,
               piece_bytes=RECORD_BYTES)  # fmt: skip

    def ours() -> Window:
        window = job()
        return as_requests(replace(window, requests=window.requests * appends))

    return Plan(
        f"group commit, {appends:,} x 1 KiB a sync",
        "appends/s", ours,
        conditions={"curve": "appends a sync", "x": appends, "flush_mode": "fdatasync after each"},
    )  # fmt: skip


# --- Reads ----------------------------------------------------------------------------------------


def _reads(run: Run) -> list[Measurement]:
    """Cold and warm, in order and at random; and to a socket."""
    path = run.directory / "read.bin"
    run.options.progress("writing a file to be read")
    try:
        run_job("make-file", {"path": str(path), "bytes": READ_FILE_BYTES},
                timeout_s=JOB_TIMEOUT_S)  # fmt: skip
        direct = "direct writes and reads (O_DIRECT)" not in run.skipped
        plans = [
            _read(run, str(path), size, at_random=at_random, cold=cold, direct=direct)
            for cold in (True, False)
            for size, at_random in READS
        ]
        return [*run.rows(plans), _sendfile(run, str(path))]
    finally:
        path.unlink(missing_ok=True)


def _read(run: Run, path: str, size: int, *, at_random: bool, cold: bool, direct: bool) -> Plan:
    shape: dict[str, Any] = {"path": path, "bytes": size, "random": at_random, "cold": cold}
    shares: dict[str, Any] = {"cache": "cold: this file's pages dropped" if cold else "warm"}

    def ours() -> Window:
        answer = run_job("read", {**shape, "seconds": run.options.seconds},
                         timeout_s=JOB_TIMEOUT_S)  # fmt: skip
        if cold and answer["cached_share"] > 0:
            shares["cache"] = f"{answer['cached_share']:.0%} of it could not be dropped"
        return as_megabytes(window_of(answer))

    return Plan(
        f"read {size_name(size)} {'at random' if at_random else 'in order'}, "
        f"{'cold' if cold else 'warm'}",
        "MB/s", ours,
        ceiling=(lambda _: as_megabytes(run.job("read-direct", **shape)))
        if direct and cold else None,
        ceiling_name="direct reads, past the page cache",
        conditions=shares,
    )  # fmt: skip


def _sendfile(run: Run, path: str) -> Measurement:
    """Warm data to a socket by sendfile, beside reading and sending it."""
    spec = {"topic": "t", "file": path, "records_bytes": MIB, "unasked": True}
    load = {"topic": "t", "max_bytes": MIB, "connections": 1, "batch_bytes": MIB,
            "batch_records": 1, "end_offset": 1}  # fmt: skip
    with (
        run.bare("serve-send", **spec) as (sending, pid),
        run.bare("serve-send", **spec, copy=True) as (copying, copy_pid),
    ):
        return run.row(
            "sendfile to a socket, warm", "MB/s",
            lambda: as_megabytes(run.job("drain", address=sending, server_pid=pid, **load)),
            ceiling=lambda _: as_megabytes(
                run.job("drain", address=copying, server_pid=copy_pid, **load)
            ),
            ceiling_name="read into memory and sent: above 1, sendfile is the faster",
        )  # fmt: skip


# --- Many files -----------------------------------------------------------------------------------


def _many_files(run: Run) -> list[Plan]:
    one = _job(run, "write-only", 64 * KIB)
    plans = [
        Plan(
            f"write 64 KiB to {FILES} files in turn", "MB/s",
            _job(run, "write-only", 64 * KIB, files=FILES),
            ceiling=lambda _: one(), ceiling_name="one file",
        )
    ]  # fmt: skip
    for threads in THREADS:
        name = counted(threads, "thread")
        plans.append(
            Plan(
                f"{name} syncing {ROUND_ROBIN_PARTITIONS} files of 16 KiB", "syncs/s",
                _job(run, "round-robin", 16 * KIB, as_requests, files=ROUND_ROBIN_PARTITIONS,
                     threads=threads),
                conditions={"curve": "threads that sync", "x": threads},
            )
        )  # fmt: skip
    return plans


# --- The verdict ----------------------------------------------------------------------------------


def _flushes_per_sync(run: Run, device: Device) -> float | None:
    """How often the device was told to flush for each sync; other programs' flushes are in it."""
    before = device.flushes()
    window = run.job("write-and-sync", directory=str(run.directory), bytes=SYNC_SIZES[0])
    after = device.flushes()
    if before is None or after is None:
        return None
    return (after - before) / max(1, window.requests)


def _verdict(
    run: Run, device: Device, sync: Measurement, groups: list[Measurement],
    flushes_per_sync: float | None,
) -> Measurement:  # fmt: skip
    # The fastest window of one thread: what is slower, other programs may have made so.
    by_bytes = max(sync.conditions["values"]) * 1e6 / SYNC_SIZES[0]
    fastest = max(by_bytes, *groups[0].conditions["values"])
    judgement, reason = judge_syncs(
        device.kind, device.write_cache, syncs_per_s=fastest, flushes_per_sync=flushes_per_sync
    )
    curve = [
        SyncPoint(appends, appends * RECORD_BYTES, row.value, row.p50_us or 0.0, row.p99_us or 0.0)
        for appends, row in zip(GROUPS, groups, strict=True)
    ]
    truth = conclude(judgement, reason, curve, record_bytes=RECORD_BYTES)
    return Measurement(
        "verdict: durable appends to expect", truth.appends_per_s, "appends/s",
        conditions={
            **run.conditions, "verdict": list(truth.words), "fdatasync": truth.judgement,
            "batch_bytes": truth.batch_bytes, "flushes_per_sync": flushes_per_sync,
        },
    )  # fmt: skip
