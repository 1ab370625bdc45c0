"""Row G: compaction, in bytes of source per second of CPU, and the memory of its process."""

from __future__ import annotations

from typing import Any, Final

from bench.cleaning import Shape, remove_log
from bench.measurement import Measurement, Window
from bench.process import run_job
from bench.runner import JOB_TIMEOUT_S, Run
from bench.suites.shapes import GIB, MIB

CEILING: Final = "parse and rebuild by the record library"
ZSTD: Final = 4
# Name, bytes of a record, keys in turn, codec, parts of a GiB: ten million records take a minute to
# write. Where the options ask for small fills, there are fewer.
SHAPES: Final = (
    ("1 KiB records", 1024, True, 0, 1),
    ("100-byte records", 100, True, 0, 4),
    ("100-byte records, random keys", 100, False, 0, 4),
    ("1 KiB records, zstd", 1024, True, ZSTD, 1),
)


def compact_rows(run: Run) -> list[Measurement]:
    """Row G: a round over a log of 100,000 keys, all of it dirty; written files are synced."""
    rows = []
    for name, record_bytes, in_turn, codec, parts in SHAPES:
        shape = Shape(
            str(run.directory / "compact"),
            total_bytes=max(min(run.options.fill_bytes, GIB) // parts, MIB),
            record_bytes=record_bytes,
            in_turn=in_turn,
            codec=codec,
        )
        rows += _rows(run, name, shape)
    return rows


def _rows(run: Run, name: str, shape: Shape) -> list[Measurement]:
    spec: dict[str, Any] = {key: getattr(shape, key) for key in Shape.__slots__}
    run.options.progress(f"writing a log of {name}")
    try:
        log = run_job("write-log", spec, timeout_s=JOB_TIMEOUT_S)
        job = {"directory": shape.directory, "segments": log["segments"]}
        peaks: list[int] = []

        def window(which: str) -> Window:
            answer = run_job(which, job, timeout_s=JOB_TIMEOUT_S)
            if which == "compact-log":
                peaks.append(answer["memory_bytes"])
            # By content, so that a codec's row compares with the others.
            value = log["content_bytes"] / answer["cpu_s"] / 1e6
            return Window(value, bytes=answer["bytes"], seconds=answer["seconds"],
                          server_cpu_s=answer["cpu_s"])  # fmt: skip

        speed = run.row(
            f"compact {name}",
            "MB/s of CPU",
            lambda: window("compact-log"),
            ceiling=lambda _: window("rebuild-log"),
            ceiling_name=CEILING,
            conditions={
                "keys": shape.keys,
                "records": log["records"],
                "content_bytes": log["content_bytes"],
                "log_bytes": sum(size for _, _, size in log["segments"]),
            },
        )
        memory = run.row(
            f"memory of compaction, {name}",
            "MB",
            lambda: Window(max(peaks) / 1e6),
            repetitions=1,
            conditions={"note": "peak of its process, the map of keys included"},
        )
        return [speed, memory]
    finally:
        remove_log(shape.directory)
