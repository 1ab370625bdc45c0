"""What the disk rows mean, in words: how many durable appends to expect, and whether to trust them.

fdatasync promises that the bytes will survive a power cut. Whether it keeps that, nobody can see
without cutting the power; what can be seen is a rate that the device could not reach if it did:

* A hard disk writes where its platter has turned to: once a turn, 120 a second at 7,200 turns a
  minute, 250 at 15,000. (A controller with a battery is honest and faster: it says so in its data
  sheet, not here.)
* Flash is programmed in tens of microseconds at best; a drive with capacitors against power cuts
  answers from its memory, in ten to twenty. One thread that gets more than `LIMITS` a second
  waits for neither.
* A virtual disk is what its host makes of it: the same bound, and what the host promises.
* Where a device says that it has a write cache which may be lost ("write back"), each sync must
  become a flush command. The kernel counts those: many fewer than syncs means that a layer above
  the device (a mount option, a container, an emulator) keeps them back.
* A file system in memory keeps nothing.

So `suspicious` means "ask before you trust it", and `plausible` is no proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Judgement = Literal["plausible", "suspicious", "not durable", "unknown"]

# Syncs a second of one thread that nobody honest goes beyond, by kind of device.
LIMITS: Final = {"hard disk": 300.0, "solid state": 60_000.0, "virtual disk": 60_000.0}
# Fewer flushes than this a sync: they do not reach the device.
FLUSHES_PER_SYNC_MIN: Final = 0.5
# Behind the batch that gives this part of the best rate, latency grows faster than the rate.
ENOUGH: Final = 0.8


@dataclass(frozen=True, slots=True)
class SyncPoint:
    """One point of the group-commit curve: this many appends share a sync."""

    appends: int
    batch_bytes: int
    appends_per_s: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Truth:
    """What was concluded, and why."""

    judgement: Judgement
    words: tuple[str, ...]
    appends_per_s: float  # to expect of many writers, at `batch_bytes`
    batch_bytes: int


def judge_syncs(
    kind: str, write_cache: str | None, *, syncs_per_s: float, flushes_per_sync: float | None
) -> tuple[Judgement, str]:
    """Return what is to be thought of fdatasync here, and a sentence that says why.

    Args:
        syncs_per_s: the most of one thread that writes a little and syncs, again and again.
        flushes_per_sync: of the device, meanwhile; None where the kernel does not count them.
    """
    rate = f"up to {syncs_per_s:,.0f} syncs a second by one thread"
    if kind == "memory":
        return "not durable", "this is a file system in memory: nothing in it survives a power cut"
    limit = LIMITS.get(kind)
    if limit is not None and syncs_per_s > limit:
        return "suspicious", (
            f"{rate}: a {kind} cannot write and keep more than about {limit:,.0f}; something "
            "answers before the bytes are safe, unless it has a battery or capacitors"
        )
    if (
        write_cache == "write back"
        and flushes_per_sync is not None
        and flushes_per_sync < FLUSHES_PER_SYNC_MIN
    ):
        return "suspicious", (
            f"{rate}, but the device was told to flush only {flushes_per_sync:.2f} times a sync, "
            "and it says that its cache may be lost: a layer above it keeps the flushes back"
        )
    if limit is None:
        return "unknown", f"{rate}; what kind of device this is the kernel does not say"
    flushed = (
        f", {flushes_per_sync:.1f} flushes of the device a sync"
        if flushes_per_sync is not None and write_cache == "write back"
        else ", on a device that says it keeps what it has acknowledged"
        if write_cache == "write through"
        else ""
    )
    host = "; the rest is its host's promise" if kind == "virtual disk" else ""
    return "plausible", f"{rate}{flushed}: what an honest {kind} can do{host}"


def enough(curve: Sequence[SyncPoint]) -> SyncPoint:
    """Return the smallest batch that gives `ENOUGH` of the best rate of all."""
    assert curve
    best = max(point.appends_per_s for point in curve)
    return next(point for point in curve if point.appends_per_s >= best * ENOUGH)


def conclude(
    judgement: Judgement, reason: str, curve: Sequence[SyncPoint], *, record_bytes: int
) -> Truth:
    """Return the verdict on a device, from what is thought of its syncs and its curve."""
    one, best = curve[0], enough(curve)
    alone = (
        f"One writer that waits for each append: expect {one.appends_per_s:,.0f} durable appends a "
        f"second of {record_bytes:,} bytes (p50 {_time(one.p50_us)}, p99 {_time(one.p99_us)})."
    )
    more = (
        "no larger batch was tried, and one may give more"
        if best is curve[-1]
        else "larger ones gain little"
    )
    shared = (
        f"Many writers that share syncs: expect {best.appends_per_s:,.0f} a second in batches of "
        f"{_size(best.batch_bytes)} ({best.appends:,} appends a sync, p99 {_time(best.p99_us)}); "
        f"{more}."
    )
    words = (alone, shared, f"fdatasync is {judgement}: {reason}.")
    return Truth(judgement, words, best.appends_per_s, best.batch_bytes)


def _time(us: float) -> str:
    return f"{us / 1000:.3g} ms" if us >= 1000 else f"{us:.0f} us"


def _size(size_bytes: int) -> str:
    return f"{size_bytes // 2**20} MiB" if size_bytes >= 2**20 else f"{size_bytes // 2**10} KiB"
