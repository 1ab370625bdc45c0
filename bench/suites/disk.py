"""The bare device: what page cache, fdatasync and processor give to a loop without a server."""

from __future__ import annotations

from collections.abc import Callable

from bench.measurement import Measurement, Window
from bench.runner import Run, as_megabytes, as_requests
from bench.suites.shapes import KIB, MIB, ROUND_ROBIN_PARTITIONS, SYNC_THREADS


def disk_rows(run: Run) -> list[Measurement]:
    """What the device, the page cache and the processor give to a bare loop."""
    place = str(run.directory)
    run.prime()
    rows = [
        run.row(f"write {name} to the page cache", "MB/s", _job(run, "write-only", place, size))
        for name, size in (("1 MiB", MIB), ("64 KiB", 64 * KIB), ("4 KiB", 4 * KIB))
    ]
    rows += [
        run.row(f"write {name} and fdatasync", "MB/s", _job(run, "write-and-sync", place, size))
        for name, size in (("1 MiB", MIB), ("16 KiB", 16 * KIB))
    ]
    sync = _job(run, "write-and-sync", place, 4 * KIB, as_requests)
    rows.append(run.row("fdatasync of 4 KiB", "syncs/s", sync))
    rows.append(
        run.row(
            f"{SYNC_THREADS} threads syncing {ROUND_ROBIN_PARTITIONS} files of 16 KiB", "syncs/s",
            lambda: as_requests(
                run.job("round-robin", directory=place, bytes=16 * KIB,
                        files=ROUND_ROBIN_PARTITIONS, threads=SYNC_THREADS)
            ),
        )
    )  # fmt: skip
    rows.append(run.row("CRC-32C of 64 KiB", "MB/s", _job(run, "checksum", place, 64 * KIB)))
    return rows


def _job(
    run: Run, job: str, place: str, size: int, value: Callable[[Window], Window] = as_megabytes
) -> Callable[[], Window]:
    return lambda: value(run.job(job, directory=place, bytes=size))
