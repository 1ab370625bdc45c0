"""Logs with released segments: opened, recovered, checked, and their oldest records deleted."""

from __future__ import annotations

import os
from itertools import combinations

import pytest

from logd.errors import (
    CorruptFileError,
    DamagedRangeError,
    SegmentsChangedError,
)
from logd.policy.compaction import CompactionRules, NotDue, plan_compaction
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.clean_order import CleanLimits, CleanResult, Totals
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import (
    append,
    batch_of,
    make_log,
    overwrite,
    segment_path,
)
from tests.unit.released_rig import (
    Chunks,
    filled,
    log_bytes,
    open_again,
    recover_again,
    released,
    sealed_bases,
)

FIRST, MIDDLE, LAST = 0, 2, -1


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_set_of_released_segments_opens(directory: str, count: int) -> None:
    """After a clean stop and after a crash, whichever segments are released, nothing is damage."""
    chunks = Chunks()
    log = filled(directory)
    expected = chunks.read_all(log)
    clean = log.close()
    everything = sealed_bases(log)
    log, _ = recover_again(directory, chunks)
    known = {base: chunks.encode(log, base) for base in everything}
    clean = log.close()
    for absent in list(combinations(everything, count))[:12]:
        for base in absent:
            os.rename(segment_path(directory, base), f"{directory}/{base}")
        chunks.released = {base: known[base] for base in absent}
        log = open_again(directory, clean, chunks)
        assert chunks.read_all(log) == expected
        assert log.size_bytes == log_bytes(directory)
        log, report = recover_again(directory, chunks)
        assert (report.lines(), log.damaged) == ([], [])
        assert chunks.read_all(log) == expected
        assert log.size_bytes == log_bytes(directory)
        assert log.released_bytes == sum(known[base].size_bytes for base in absent)
        log.let_go()
        for base in absent:
            os.rename(f"{directory}/{base}", segment_path(directory, base))


def test_a_log_that_is_there_is_used(directory: str) -> None:
    """The catalog says RELEASED, the .log is there: a crash came in between. It is hot."""
    chunks = Chunks()
    log = filled(directory)
    for base in sealed_bases(log):
        chunks.released[base] = chunks.encode(log, base)
    clean = log.close()
    log = open_again(directory, clean, chunks)
    assert log.released_bytes == 0
    assert [each.base_offset for each in log.sealed_segments()] == sealed_bases(log)
    log, report = recover_again(directory, chunks)
    assert report.lines() == []
    assert log.released_bytes == 0
    assert log.size_bytes == log_bytes(directory)


def test_a_log_that_nobody_explains_is_missed(directory: str) -> None:
    """Without the catalog's word an absent .log is no clean stop, and damage where it is walked."""
    chunks = Chunks()
    log = released(directory, [MIDDLE], chunks)
    base = sealed_bases(log)[MIDDLE]
    end, expected = log.segment_list.find(base).end_bound, chunks.read_all(log)
    clean = log.close()
    with pytest.raises(CorruptFileError, match="segments are known"):
        open_again(directory, clean, Chunks())
    for name in os.listdir(f"{directory}/t-0"):
        if name.endswith(".producers"):
            os.unlink(f"{directory}/t-0/{name}")
    log, report = recover_again(directory, Chunks())
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(base, end)]
    with pytest.raises(DamagedRangeError):
        log.read(base, max_bytes=1, below=log.written_offset)
    # The catalog is back: nothing is damaged any more.
    log, report = recover_again(directory, chunks)
    assert (report.damaged, log.damaged) == ([], [])
    assert chunks.read_all(log) == expected


def test_records_behind_a_released_segment_are_missed(directory: str) -> None:
    """A hole behind a released segment is damage, wherever recovery begins to walk."""
    chunks = Chunks()
    log = released(directory, [1], chunks)
    lost = sealed_bases(log)[2]
    end = log.segment_list.find(lost).end_bound
    log.let_go()
    os.unlink(segment_path(directory, lost))
    log, report = recover_again(directory, chunks)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(lost, end)]
    _, report = recover_again(directory, chunks)
    assert report.damaged == []


def test_the_active_segment_is_made_anew_behind_a_released_one(directory: str) -> None:
    """All sealed segments released and the active one lost: what the journal knew of is damage."""
    chunks = Chunks()
    log = filled(directory)
    for base in sealed_bases(log):
        chunks.release(log, base)
    point = append(log, batch_of())
    assert point is not None
    active, end = log.active_base, log.written_offset
    log.let_go()
    os.unlink(segment_path(directory, active))
    log, report = recover_again(directory, chunks, point=point)
    assert [(d.first_offset, d.next_offset) for d in report.damaged] == [(active, end)]
    assert log.end_offset == end
    append(log, batch_of())
    log.close()


def test_what_lies_below_the_log_start_is_forgotten(directory: str) -> None:
    """Released segments wholly below the log start are not part of the log, whoever names them."""
    chunks = Chunks()
    log = released(directory, [0, 1, 2], chunks)
    bound = sealed_bases(log)[2] + 1
    assert log.delete_before(bound).segment_count == 2
    assert log.log_start_offset == bound
    expected = chunks.read_all(log)
    assert expected[0][0] <= bound
    log = open_again(directory, log.close(), chunks)
    assert sealed_bases(log)[0] == sorted(chunks.released)[2]
    assert chunks.read_all(log) == expected
    log, report = recover_again(directory, chunks)
    assert report.damaged == []
    assert chunks.read_all(log) == expected


def test_producers_that_went_on_in_a_released_segment_are_unknown(directory: str) -> None:
    """Without a checkpoint nobody knows where they ended: no old sequence is taken for the last."""
    chunks = Chunks()
    log = make_log(directory)
    for number in range(3):
        batch = batch_of(producer_id=5, producer_epoch=0, base_sequence=number)
        append(log, batch)
        if number < 2:
            log.roll_now()
    chunks.release(log, 1)
    log.let_go()
    for name in os.listdir(f"{directory}/t-0"):
        if name.endswith(".producers"):
            os.unlink(f"{directory}/t-0/{name}")
    log, _ = recover_again(directory, chunks)
    assert [entry.last_sequence for entry in log.producers.entries()] == [2]
    append(log, batch_of())
    log.roll_now()
    chunks.release(log, 2)
    log.let_go()
    for name in os.listdir(f"{directory}/t-0"):
        if name.endswith(".producers"):
            os.unlink(f"{directory}/t-0/{name}")
    log, _ = recover_again(directory, chunks)
    assert log.producers.entries() == []


# --- forgetting -----------------------------------------------------------------------------------


def test_retention_counts_a_released_segment_as_its_source(directory: str) -> None:
    """Facts, and the two numbers: what is on the disk, and what retention.bytes counts."""
    chunks = Chunks()
    log = filled(directory)
    before, total = log.oldest_segments(), log.size_bytes
    chunks.release(log, sealed_bases(log)[0])
    chunks.release(log, sealed_bases(log)[2])
    assert log.oldest_segments() == before
    assert log.total_bytes == total
    assert log.size_bytes == log_bytes(directory) < total
    assert [info.state for info in log.segments()][:3] == ["released", "sealed", "released"]
    log = open_again(directory, log.close(), chunks)
    assert (log.total_bytes, log.size_bytes) == (total, log_bytes(directory))
    assert log.oldest_segments() == before
    described = log.segments()
    assert sum(info.size_bytes for info in described) == total
    assert described[0].last_timestamp_ms == before[0].max_timestamp_ms
    assert described[0].first_timestamp_ms == 5000
    result = log.delete_before(sealed_bases(log)[1])
    assert (result.segment_count, result.size_bytes) == (1, before[0].size_bytes)
    assert {path.rpartition(".")[0].rpartition(".")[2] for path in result.unlink_paths} == {
        "index",
        "timeindex",
    }
    assert log.total_bytes == total - before[0].size_bytes


def test_a_segment_without_timestamps_counts_by_its_index(directory: str) -> None:
    """No record has a time: the time of sealing stands for it, as for a hot one; then nothing."""
    log = make_log(directory)
    chunks = Chunks()
    append(log, batch_of(timestamp_ms=-1))
    log.roll_now()
    chunks.release(log, 0)
    os.utime(segment_path(directory, 0, ".timeindex"), (77, 77))
    assert log.oldest_segments()[0].max_timestamp_ms == 77_000
    os.unlink(segment_path(directory, 0, ".timeindex"))
    assert log.oldest_segments()[0].max_timestamp_ms == -1


def test_a_round_takes_released_segments_and_never_replaces_them(directory: str) -> None:
    """They count like hot ones, so that no tombstone outlives them; but first they are thawed."""
    chunks = Chunks()
    hot = released(directory, [], chunks)
    expected = hot.compaction_facts(bound_offset=hot.written_offset)
    os.mkdir(f"{directory}/other")
    log = released(f"{directory}/other", [0, 1], chunks)
    facts = log.compaction_facts(bound_offset=log.written_offset)
    assert [each.size_bytes for each in facts.segments] == [
        each.size_bytes for each in expected.segments
    ]
    rules = CompactionRules(
        max_compaction_lag_ms=1, segment_bytes=2000, segment_index_bytes=4096,
        index_interval_bytes=200,
    )  # fmt: skip
    plan = plan_compaction(facts, rules, now_ms=10**13, on_demand=True)
    assert not isinstance(plan, NotDue)
    assert plan.groups[0][0].base_offset == log.segment_list.items[0].base_offset
    order = log.clean_order(plan, attempt=1, now_ms=1, limits=CleanLimits())
    nothing = Totals(0, 0, 0)
    result = CleanResult(
        attempt=1, groups=(), before=nothing, after=nothing, next_horizon_ms=None, fitted=True,
        first_uncleaned_offset=plan.end_offset, read_bytes=0, written_bytes=0, keys=0,
    )  # fmt: skip
    with pytest.raises(SegmentsChangedError):
        log.replace_segments(order, result)


def test_check_finds_nothing_wrong_with_released_segments(directory: str) -> None:
    """`logd check` knows that their .log is rightly absent, and looks at their indexes."""
    chunks = Chunks()
    log = released(directory, [0, 2], chunks)
    clean = log.close()
    coded = tuple((each.base_offset, each.next_offset) for each in chunks.catalog)

    def check(coded: tuple[tuple[int, int], ...] = coded) -> CheckReport:
        report = CheckReport(directory)
        expected = Expected(clean=clean, coded=coded)
        check_partition(FastFiles(), f"{directory}/t-0", expected, report)
        return report

    report = check()
    assert (report.damage, report.notes) == ([], [])
    assert check(coded[:1]).is_damaged
    path = segment_path(directory, coded[1][0], ".index")
    overwrite(path, 0, b"\x7f\xff\xff\xff")
    report = check()
    assert not report.is_damaged
    assert [note.path for note in report.notes] == [path]
    os.unlink(path)
    assert [note.path for note in check().notes] == [path]
