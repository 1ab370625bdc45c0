"""Compacted logs for tests: filled with keyed records, compacted, read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from logd.policy.compaction import CompactionPlan, CompactionRules, NotDue, plan_compaction
from logd.record.batch import HEADER_BYTES, BatchHeader, read_header
from logd.record.records import BatchBuilder, iterate
from logd.storage.clean_order import CleanLimits, CleanOrder, CleanResult
from logd.storage.cleaner import clean
from logd.storage.log import Log, LogSettings
from logd.units import DAY_MS, INT64_MAX
from tests.unit.log_builder import append

COMPACTED = LogSettings(segment_bytes=2000, index_interval_bytes=200, is_compacted=True)
RULES = CompactionRules(
    min_cleanable_dirty_ratio=0.0,
    max_compaction_lag_ms=INT64_MAX,
    segment_bytes=2000,
    segment_index_bytes=10_000,
    index_interval_bytes=200,
)
NOW_MS = 1_000_000

Pair = tuple[bytes | None, bytes | None]


class Row(NamedTuple):
    """A record as a consumer sees it."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int


def keyed_batch(
    pairs: Sequence[Pair], *, timestamp_ms: int = 5000, codec: int = 0, **fields: int
) -> bytearray:
    """Return a batch of records with keys; the times rise by 1 ms."""
    builder = BatchBuilder()
    for number, (key, value) in enumerate(pairs):
        builder.append(key, value, timestamp_ms=timestamp_ms + number)
    return builder.build(codec=codec, **fields)


def append_pairs(log: Log, *pairs: Pair, codec: int = 0, timestamp_ms: int = 5000) -> None:
    """Append one batch, written and synced."""
    append(log, keyed_batch(pairs, codec=codec, timestamp_ms=timestamp_ms), now_ms=NOW_MS)


def plan(
    log: Log, *, now_ms: int = NOW_MS, rules: CompactionRules = RULES, on_demand: bool = True
) -> CompactionPlan | NotDue:
    """Plan a round, as if somebody had asked for it."""
    facts = log.compaction_facts(bound_offset=log.synced_offset)
    return plan_compaction(facts, rules, now_ms=now_ms, on_demand=on_demand)


def order_round(
    log: Log,
    *,
    attempt: int = 1,
    now_ms: int = NOW_MS,
    rules: CompactionRules = RULES,
    limits: CleanLimits | None = None,
) -> CleanOrder | None:
    """Return the order for a round; None where there is nothing to do."""
    planned = plan(log, now_ms=now_ms, rules=rules)
    if isinstance(planned, NotDue):
        return None
    limits = limits or CleanLimits(delete_retention_ms=DAY_MS)
    return log.clean_order(planned, attempt=attempt, now_ms=now_ms, limits=limits)


def run_round(order: CleanOrder, log: Log) -> CleanResult:
    """Run a round as the cleaner's process would: its order and result go through JSON."""
    result = clean(
        log.files,
        CleanOrder.from_json(order.to_json()),
        on_progress=lambda _: None,
        pace=lambda _: None,
    )
    return CleanResult.from_json(result.to_json())


def compact(
    log: Log,
    *,
    attempt: int = 1,
    now_ms: int = NOW_MS,
    rules: CompactionRules = RULES,
    limits: CleanLimits | None = None,
    rolls: bool = True,
) -> CleanResult | None:
    """Roll, run a round, put it in place, unlink what is old; None if nothing was to do."""
    if rolls and log.segment_list.active.size:
        log.roll_now()
    order = order_round(log, attempt=attempt, now_ms=now_ms, rules=rules, limits=limits)
    if order is None:
        return None
    result = run_round(order, log)
    for path in log.replace_segments(order, result).unlink_paths:
        log.files.unlink(path)
    return result


def batches_in(log: Log, *, start: int | None = None) -> list[tuple[BatchHeader, bytes]]:
    """Return all batches from the log start on, as a consumer fetches them."""
    found = []
    offset = log.log_start_offset if start is None else start
    end = log.synced_offset
    while offset < end:
        piece = log.try_read(offset, max_bytes=1000, below=end)
        if piece is None:
            piece = log.read(offset, max_bytes=1000, below=end)
        if piece.size == 0:
            break
        data = log.files.read_at(piece.file, piece.position, piece.size)
        at = 0
        while at < len(data):
            header = read_header(data, at)
            assert at + HEADER_BYTES <= at + header.size <= len(data)
            found.append((header, data[at : at + header.size]))
            at += header.size
            assert header.next_offset > offset
            offset = header.next_offset
    return found


def rows_in(log: Log) -> list[Row]:
    """Return all records from the log start on."""
    return [
        Row(record.offset, record.key, record.value, record.timestamp_ms)
        for _, data in batches_in(log)
        for record in iterate(data)
        if record.offset >= log.log_start_offset
    ]
