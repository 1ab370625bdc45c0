"""Compaction beside Apache Kafka: both servers compact the same log, in turn.

A window is a topic of its own: filled, synced, compacted once, read back, deleted. It becomes a
compacted one when it is filled. Both sides make what they wrote durable. Filling and reading back
are not timed. Each shape of log has three rows:

* bytes of records a second, by the server's own account (Kafka's cleaner logs it; ours is that of
  `logd compact`, with the start of its process);
* the same from the outside: from the request to what anybody can see of its end. Kafka's has up to
  log.cleaner.backoff.ms in it, which is 20 ms here;
* CPU seconds a GB of the whole server, its threads and its processes.

Bytes are those of uncompressed records. Before each shape both compact a part of it, unmeasured:
a JVM compiles what it runs often.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.measurement import Window
from bench.peers.contest import Row, Session, Side, as_cpu_per_gb, compare, take_turns
from bench.peers.kafka_speaker import KafkaSpeaker
from bench.process import cpu_seconds_of_all, run_job
from bench.runner import JOB_TIMEOUT_S, as_megabytes
from bench.suites.compact import ZSTD
from bench.suites.shapes import GIB, KIB, MIB

SECTION: Final = "compaction"
KEYS: Final = 100_000
TURNS_MAX: Final = 3
WARM_SHARE: Final = 4
CONFIGS: Final = {
    "segment.bytes": str(128 * MIB),
    "retention.ms": "-1",  # The records are years old.
    "min.cleanable.dirty.ratio": "1",  # Never due by itself.
}
Start = Callable[[Path], KafkaSpeaker]


@dataclass(frozen=True, slots=True)
class LogShape:
    """A log to compact: bytes of each record, whether keys come in turn, and its codec."""

    text: str
    record_bytes: int
    in_turn: bool = True
    codec: int = 0

    def name(self, total_bytes: int) -> str:
        """As rows name it."""
        size = f"{total_bytes // GIB} GiB" if total_bytes >= GIB else f"{total_bytes // MIB} MiB"
        return f"compact {size} of {self.text}, {KEYS:,} keys"


SHAPES: Final = (
    LogShape("1 KiB records", KIB),
    LogShape("100-byte records", 100),
    LogShape("100-byte records in random order", 100, in_turn=False),
    LogShape("1 KiB records, zstd", KIB, codec=ZSTD),
)


def compactions(session: Session, peer: str, start_ours: Start, start_theirs: Start) -> None:
    """Measure all shapes that are wanted, in two servers that are gone afterwards."""
    place = session.run.directory
    total_bytes = max(min(session.run.options.fill_bytes, GIB), MIB)
    wanted = [shape for shape in SHAPES if session.wants(shape.name(total_bytes))]
    if not wanted:
        return
    names = ("compacting-ours", "compacting-theirs")
    try:
        with start_ours(place / names[0]) as ours, start_theirs(place / names[1]) as theirs:
            for shape in wanted:
                measure = partial(_rows, session, peer, (ours, theirs), shape, total_bytes)
                session.attempt(shape.name(total_bytes), measure)
    finally:
        for name in names:
            shutil.rmtree(place / name, ignore_errors=True)


def _rows(
    session: Session, peer: str, servers: tuple[KafkaSpeaker, KafkaSpeaker], shape: LogShape,
    total_bytes: int,
) -> list[Row]:  # fmt: skip
    ours, theirs = servers
    whole, part = (
        _write(session, name, shape, size)
        for name, size in (("whole", total_bytes), ("part", total_bytes // WARM_SHARE))
    )
    try:
        for server in servers:
            _window(session, server, part)
        sides = [Side("ours", partial(_window, session, ours, whole)),
                 Side("theirs", partial(_window, session, theirs, whole))]  # fmt: skip
        turns = min(TURNS_MAX, session.run.options.repetitions)
        windows = take_turns(session.run, sides, repetitions=turns)
    finally:
        for log in (whole, part):
            shutil.rmtree(log["directory"], ignore_errors=True)
    name = shape.name(total_bytes)
    rows: list[tuple[str, str, Callable[[Window], Window]]] = [
        (name, "MB/s", _as_told),
        (f"{name}, from outside", "MB/s", as_megabytes),
        (f"CPU, {name}", "s/GB", as_cpu_per_gb),
    ]
    conditions = {"records": whole["records"], "turns": turns,
                  "log_bytes": sum(size for _, _, size in whole["segments"])}  # fmt: skip
    return [
        compare(
            peer, SECTION, row, unit, [value(window) for window in windows["ours"]],
            [value(window) for window in windows["theirs"]], conditions,
        )
        for row, unit, value in rows
    ]  # fmt: skip


def _write(session: Session, name: str, shape: LogShape, total_bytes: int) -> dict[str, Any]:
    session.run.options.progress(f"writing {shape.name(total_bytes)}")
    spec = {
        "directory": str(session.run.directory / f"to-compact-{name}"),
        "total_bytes": total_bytes,
        "record_bytes": shape.record_bytes,
        "keys": KEYS,
        "in_turn": shape.in_turn,
        "codec": shape.codec,
    }
    written = run_job("write-log", spec, timeout_s=JOB_TIMEOUT_S)
    return {**written, "directory": spec["directory"]}


def _window(session: Session, server: KafkaSpeaker, log: Mapping[str, Any]) -> Window:
    """Fill a topic, compact it, and read it back."""
    with server.topic(configs=CONFIGS) as topic:
        job = {**log, "address": server.address, "topic": topic}
        run_job("append-log", job, timeout_s=JOB_TIMEOUT_S)
        os.sync()  # What filling left dirty is not the cleaner's to write.
        cpu_s = cpu_seconds_of_all(server.pid)
        compacted = server.compact(topic, log["records"])
        cpu_s = cpu_seconds_of_all(server.pid) - cpu_s
        size_mib = log["content_bytes"] / MIB
        session.run.options.progress(
            f"{server.name}: {size_mib:.0f} MiB in {compacted.own_seconds:.2f} s, "
            f"from outside {compacted.seconds:.2f} s, {cpu_s:.2f} s of CPU"
        )
        left = run_job("check-compacted", job, timeout_s=JOB_TIMEOUT_S)
    return Window(
        value=compacted.own_seconds,
        bytes=log["content_bytes"],
        seconds=compacted.seconds,
        server_cpu_s=cpu_s,
        notes={"checked_bytes": left["bytes"]},
    )


def _as_told(window: Window) -> Window:
    """Megabytes of records a second, by the server's own account: `value` is its seconds."""
    return replace(window, value=window.bytes / window.value / 1e6)
