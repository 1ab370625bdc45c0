"""A round of compaction: what stays, what goes, in which files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from logd.errors import (
    BatchTooLargeToCompactError,
    CorruptFileError,
    DiskFullError,
    UnsupportedFormatError,
)
from logd.record.batch import CONTROL_BIT, DELETE_HORIZON_BIT, read_header
from logd.record.build import set_crc
from logd.record.records import encode_batch
from logd.storage.clean_order import (
    CleanLimits,
    CleanOrder,
    CleanResult,
    Progress,
    SourceSegment,
)
from logd.storage.cleaned_segment import unlink_cleaned
from logd.storage.cleaner import clean
from logd.storage.files import Files
from logd.storage.layout import cleaned_file_name
from logd.storage.offset_index import OffsetIndex
from logd.storage.segment_files import open_sealed, segment_paths
from logd.storage.time_index import TimeIndex
from logd.units import DAY_MS, INT32_MAX, INT64_MAX, MIB
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import (
    COMPACTED,
    NOW_MS,
    RULES,
    append_pairs,
    batches_in,
    compact,
    keyed_batch,
    order_round,
    rows_in,
    run_round,
)
from tests.unit.log_builder import append, bases, make_log, overwrite, segment_path


def ordered(directory: str, *segments: list[bytearray], **fields: int) -> CleanOrder:
    """Write segments, each a list of batches that have their offsets; return an order for them."""
    sources = []
    starts = [read_header(batches[0]).base_offset for batches in segments]
    ends = [*starts[1:], read_header(segments[-1][-1]).next_offset]
    for start, end, batches in zip(starts, ends, segments, strict=True):
        data = b"".join(batches)
        Path(directory, f"{start:020d}.log").write_bytes(data)
        sources.append(SourceSegment(start, end, len(data)))
    return CleanOrder(
        name="t-0",
        directory=directory,
        attempt=3,
        groups=tuple((source,) for source in sources),
        first_dirty_offset=fields.pop("first_dirty", starts[0]),
        end_offset=ends[-1],
        now_ms=NOW_MS,
        **fields,  # type: ignore[arg-type]  # numbers all
    )


def done(order: CleanOrder) -> CleanResult:
    return clean(FastFiles(), order, on_progress=lambda _: None, pace=lambda _: None)


# --- what stays -----------------------------------------------------------------------------------


def test_only_the_last_record_of_each_key_stays_with_its_offset(directory: str) -> None:
    """Order and offsets stay; what was superseded is gone, in one batch or over many."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", b"1"), (b"b", b"1"), (b"a", b"2"))
    append_pairs(log, (b"c", b"1"), (b"b", b"2"))
    result = compact(log)
    assert result is not None
    assert [(row.offset, row.key, row.value) for row in rows_in(log)] == [
        (2, b"a", b"2"),
        (3, b"c", b"1"),
        (4, b"b", b"2"),
    ]
    assert (result.before.records, result.after.records, result.keys) == (5, 3, 3)


def test_a_batch_in_which_all_records_stay_is_copied_byte_for_byte(directory: str) -> None:
    """No record was superseded, so nothing is decompressed or written anew."""
    kept = keyed_batch([(b"a", b"1" * 50), (b"b", b"2" * 50)], codec=4, base_offset=2)
    order = ordered(
        directory,
        [keyed_batch([(b"z", b"1")] * 2), kept, keyed_batch([(b"z", b"2")], base_offset=4)],
    )
    done(order)
    assert bytes(kept) in Path(directory, cleaned_file_name(0, 3, ".log")).read_bytes()


@pytest.mark.parametrize("key", [b"", b"k" * MIB, bytes(range(256)) * 300])
def test_keys_of_any_length_are_told_apart(directory: str, key: bytes) -> None:
    """A key of no byte, and one of a MiB, are keys like any other."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (key, b"1"), (key + b"x", b"1"), (b"other", b"1"))
    append_pairs(log, (key, b"2"))
    compact(log)
    assert {row.key: row.value for row in rows_in(log)} == {
        key: b"2",
        key + b"x": b"1",
        b"other": b"1",
    }
    assert len(rows_in(log)) == 3


def test_keys_that_differ_in_one_bit_are_two_keys(directory: str) -> None:
    """Keys are compared whole: no hash decides."""
    log = make_log(directory, settings=COMPACTED)
    keys = [b"k" * 30 + bytes([byte]) for byte in range(256)]
    append_pairs(log, *[(key, b"1") for key in keys])
    append_pairs(log, (b"k" * 30 + b"\x07", b"2"))
    compact(log)
    assert len(rows_in(log)) == 256


def test_records_without_a_key_go(directory: str) -> None:
    """They are from before the topic was compacted; no later record could ever supersede them."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (None, b"1"), (b"a", b"1"), (None, None))
    append_pairs(log, (None, b"1"))
    append_pairs(log, (b"b", b"1"))
    compact(log)
    assert [row.offset for row in rows_in(log)] == [1, 4]


# --- tombstones -----------------------------------------------------------------------------------


def test_a_tombstone_stays_for_delete_retention_ms_after_it_was_first_cleaned(
    directory: str,
) -> None:
    """The first round sets the horizon, later ones leave it, the first one behind it deletes."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"gone", b"1"), (b"stays", b"1"))
    append_pairs(log, (b"gone", None), (b"other", b"1"))
    first = compact(log, attempt=1)
    assert first is not None
    assert first.next_horizon_ms == NOW_MS + DAY_MS
    header = batches_in(log)[-1][0]
    assert header.attributes & DELETE_HORIZON_BIT
    assert header.base_timestamp == NOW_MS + DAY_MS
    append_pairs(log, (b"new", b"1"))
    second = compact(log, attempt=2, now_ms=NOW_MS + DAY_MS - 1)
    assert second is not None
    assert second.next_horizon_ms == NOW_MS + DAY_MS
    assert b"gone" in [row.key for row in rows_in(log)]
    third = compact(log, attempt=3, now_ms=NOW_MS + DAY_MS, rolls=False)
    assert third is not None
    assert third.next_horizon_ms is None
    assert [row.key for row in rows_in(log)] == [b"stays", b"other", b"new"]


def test_a_topic_of_tombstones_ends_as_one_header(directory: str) -> None:
    """Two rounds later nothing is left but the last batch's header, and readers get to the end."""
    log = make_log(directory, settings=COMPACTED)
    for number in range(30):
        append_pairs(log, *[(b"key %d" % at, None) for at in range(number % 7 + 1)])
    end = log.end_offset
    compact(log, attempt=1)
    assert len(rows_in(log)) == 7
    result = compact(log, attempt=2, now_ms=NOW_MS + DAY_MS)
    assert result is not None
    assert (result.after.records, result.after.log_bytes, result.after.segments) == (0, 61, 1)
    assert [header.next_offset for header, _ in batches_in(log)] == [end]
    assert log.log_start_offset == 0
    assert bases(directory) == [0, end]


def test_a_clock_that_goes_back_deletes_nothing_early(directory: str) -> None:
    """The horizon is a time of the wall clock: before it, tombstones stay, however it got there."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"a", None))
    compact(log, attempt=1, now_ms=NOW_MS)
    append_pairs(log, (b"b", b"1"))
    compact(log, attempt=2, now_ms=5)
    assert [row.key for row in rows_in(log)] == [b"a", b"b"]


# --- headers without records ----------------------------------------------------------------------


def test_the_last_batch_of_a_live_producer_stays_as_a_header(directory: str) -> None:
    """It says which sequence number comes next; the same batch of a dead one goes."""
    fields = {"producer_id": 7, "producer_epoch": 2, "base_sequence": 5}
    first = keyed_batch([(b"a", b"1"), (b"a", b"2")], **fields)
    second = keyed_batch([(b"a", b"3")], base_offset=2)
    third = keyed_batch([(b"a", b"4")], base_offset=3)
    order = ordered(directory, [first, second, third])
    assert done(order).after.log_bytes == len(third)
    unlink_cleaned(Files(), directory, 3)
    done(replace(order, producer_last_offsets=(1,)))
    header = read_header(Path(directory, cleaned_file_name(0, 3, ".log")).read_bytes())
    assert (header.count, header.last_offset, header.producer_id) == (0, 1, 7)
    assert (header.producer_epoch, header.base_sequence) == (2, 5)


def test_the_last_batch_of_a_round_stays_as_a_header(directory: str) -> None:
    """Also where the map was full before the end: that batch's end is where the next one begins."""
    batches = [keyed_batch([(b"%d" % at, None)], base_offset=at) for at in range(40)]
    order = ordered(directory, batches)
    one = replace(order, limits=CleanLimits(key_map_bytes=1, delete_retention_ms=0))
    result = done(one)
    assert (result.first_uncleaned_offset, result.fitted, result.keys) == (1, False, 1)


def test_a_header_that_has_done_its_service_goes(directory: str) -> None:
    """The kept header of one round is dropped by the next one."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (None, b"1"))
    compact(log, attempt=1)
    assert [header.count for header, _ in batches_in(log)] == [0]
    append_pairs(log, (b"a", b"1"))
    compact(log, attempt=2)
    assert [(header.base_offset, header.count) for header, _ in batches_in(log)] == [(1, 1)]


# --- bounded memory -------------------------------------------------------------------------------


def test_a_full_map_ends_the_round_and_the_next_one_goes_on(directory: str) -> None:
    """However small the map: each round gets further, and the end is the same."""
    log = make_log(directory, settings=COMPACTED)
    for number in range(60):
        append_pairs(log, (b"k%d" % (number % 40), b"%d" % number), (b"x%d" % number, b"1"))
    expected = {row.key: row for row in rows_in(log)}
    log.roll_now()
    ends = [0]
    for attempt in range(100):
        result = compact(log, attempt=attempt, limits=CleanLimits(key_map_bytes=2000), rolls=False)
        assert result is not None
        ends.append(result.first_uncleaned_offset)
        if result.fitted:
            break
    assert len(ends) > 4
    assert ends == sorted(set(ends))
    assert {row.key: row for row in rows_in(log)} == expected
    assert len(rows_in(log)) == len(expected)


@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_batch_that_needs_too_much_memory_is_refused_by_name(directory: str, codec: int) -> None:
    """Bytes that decompress to more, and more records than fit: one error, naming the batch."""
    large = keyed_batch([(b"a", b"0" * MIB)], codec=codec, base_offset=5)
    order = ordered(directory, [keyed_batch([(b"z", b"1")] * 5), large])
    small = replace(order, limits=CleanLimits(batch_memory_bytes=MIB // 2))
    with pytest.raises(BatchTooLargeToCompactError, match=r"offset 5 at position \d+"):
        done(small)
    assert [name for name in os.listdir(directory) if "cleaned" in name] == []
    assert done(order).keys == 2
    many = ordered(directory, [keyed_batch([(b"k%d" % at, b"") for at in range(8000)])])
    with pytest.raises(BatchTooLargeToCompactError, match="8000 records"):
        done(replace(many, limits=CleanLimits(batch_memory_bytes=MIB // 2)))


# --- segments -------------------------------------------------------------------------------------


def test_small_neighbours_become_one_segment(directory: str) -> None:
    """As many as fit segment.bytes together, and the first one's base offset is the new one's."""
    log = make_log(directory, settings=COMPACTED)
    for number in range(12):
        append_pairs(log, (b"%d" % number, b"v" * 100))
        log.roll_now()
    assert len(bases(directory)) == 13
    result = compact(log)
    assert result is not None
    assert [group.old_bases for group in result.groups] == [tuple(range(11))]
    assert bases(directory) == [0, 11, 12]
    assert [row.offset for row in rows_in(log)] == list(range(12))


def test_a_segment_that_compacts_to_nothing_disappears(directory: str) -> None:
    """Its offsets are a hole between its neighbours; readers step over it."""
    log = make_log(directory, settings=COMPACTED)
    append_pairs(log, (b"first", b"1"))
    log.roll_now()
    for _ in range(3):
        append_pairs(log, (b"same", b"1"))
        log.roll_now()
    append_pairs(log, (b"same", b"2"))
    compact(log, rules=replace(RULES, segment_bytes=1))
    assert bases(directory) == [0, 4, 5]
    assert [row.offset for row in rows_in(log)] == [0, 4]


def test_a_hole_at_the_log_start_is_kept_open(directory: str) -> None:
    """The log does not begin later because its first segments hold nothing any more."""
    log = make_log(directory, settings=COMPACTED)
    for _ in range(3):
        append_pairs(log, (b"same", b"1"))
        log.roll_now()
    append_pairs(log, (b"same", b"2"))
    result = compact(log, rules=replace(RULES, segment_bytes=1))
    assert result is not None
    assert [group.old_bases for group in result.groups] == [(0, 1, 2, 3)]
    assert bases(directory) == [0, 4]
    assert log.log_start_offset == 0
    assert batches_in(log, start=0)[0][0].base_offset == 3


def test_a_segment_in_which_nothing_changes_is_not_written(directory: str) -> None:
    """It stays under its name, byte for byte, file for file; only its neighbours are replaced."""
    log = make_log(directory, settings=COMPACTED)
    for key in (b"z", b"a", b"b", b"a"):
        append_pairs(log, (key, b"v" * 900))
        log.roll_now()
    inodes = [os.stat(segment_path(directory, base)).st_ino for base in (0, 2, 3)]
    result = compact(log, rules=replace(RULES, segment_bytes=1))
    assert result is not None
    assert [(group.old_bases, group.new) for group in result.groups] == [((1,), ())]
    assert result.written_bytes == 0
    assert [os.stat(segment_path(directory, base)).st_ino for base in (0, 2, 3)] == inodes
    assert [row.offset for row in rows_in(log)] == [0, 2, 3]


def test_offsets_too_far_apart_for_an_index_are_never_in_one_segment(directory: str) -> None:
    """2^31 and more: an empty segment keeps the log's start, the records have one of their own."""
    far = INT32_MAX + 10
    order = ordered(
        directory,
        [keyed_batch([(b"a", b"1")])],
        [keyed_batch([(b"a", b"2")], base_offset=far)],
    )
    result = done(order)
    assert [group.old_bases for group in result.groups] == [(0,)]
    assert [(new.base_offset, new.log_bytes) for new in result.groups[0].new] == [(0, 0)]
    near = ordered(
        directory,
        [keyed_batch([(b"a", b"1")])],
        [keyed_batch([(b"a", b"2")], base_offset=INT32_MAX)],
    )
    unlink_cleaned(Files(), directory, 3)
    result = done(near)
    assert [group.old_bases for group in result.groups] == [(0, INT32_MAX)]


def test_the_new_indexes_are_those_that_a_rebuild_makes(directory: str) -> None:
    """Entry for entry; an opener takes them as they are."""
    log = make_log(directory, settings=COMPACTED)
    for number in range(50):
        append_pairs(log, (b"%d" % number, b"v" * 60), (b"x", b"y"), timestamp_ms=5000 + number * 9)
    compact(log, rules=replace(RULES, segment_bytes=10**6))
    paths = segment_paths(log.directory, 0)
    files = FastFiles()
    before = [Path(path).read_bytes() for path in (paths.index, paths.time_index)]
    assert all(before)
    index = OffsetIndex.open(files, paths.index, base_offset=0, max_bytes=10**6, writable=False)
    times = TimeIndex.open(files, paths.time_index, base_offset=0, max_bytes=10**6, writable=False)
    assert (index.last_offset, times.last) == (index.last_offset, (5000 + 49 * 9 + 1, 99))
    for path in (paths.index, paths.time_index):
        os.unlink(path)
    opened = open_sealed(files, paths, base_offset=0, end_bound=100, settings=COMPACTED, damaged=())
    assert opened.index is not None
    after = [Path(path).read_bytes() for path in (paths.index, paths.time_index)]
    assert before == after


# --- refusals, budgets, progress ------------------------------------------------------------------


def test_damage_ends_the_round_and_names_its_place(directory: str) -> None:
    """A bad CRC, a wrong offset, a length that does not fit, a transaction's batch."""
    batches = [keyed_batch([(b"a", b"1" * 40)], base_offset=at) for at in range(3)]
    size = len(batches[0])
    order = ordered(directory, batches)
    path = segment_paths(directory, 0).log
    for position, data in (
        (size + 80, b"XX"),
        (size, b"\x00" * 8),
        (2 * size + 8, b"\x00\x00\x10"),
    ):
        ordered(directory, batches)
        overwrite(path, position, data)
        with pytest.raises(CorruptFileError) as caught:
            done(order)
        assert caught.value.path == path
        assert caught.value.position in (size, 2 * size)
    control = encode_batch([(b"k", b"v", [], 1)], attributes=CONTROL_BIT)
    with pytest.raises(UnsupportedFormatError):
        done(ordered(directory, [control]))
    with pytest.raises(CorruptFileError):
        done(replace(order, groups=((SourceSegment(0, 3, 3 * size + 1),),)))
    assert not [name for name in os.listdir(directory) if "cleaned" in name]


def test_records_that_cannot_be_parsed_end_the_round(directory: str) -> None:
    """A batch whose CRC is right and whose content is not: refused, never guessed at."""
    batch = keyed_batch([(b"a", b"1"), (b"b", b"2")])
    header = read_header(batch)
    lying = encode_batch([(b"k", b"v", [], 1)] * 3)
    assert read_header(lying).count != header.count
    builder = bytearray(lying)
    builder[57:61] = (2).to_bytes(4, "big")
    set_crc(builder)
    with pytest.raises(CorruptFileError, match="offset 0"):
        done(ordered(directory, [builder]))


class SmallDisk(FastFiles):
    """A file system with so many bytes free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: str) -> int:
        return self.free


def test_the_reserve_stays_free(directory: str) -> None:
    """A round that would use it is refused before it does, and leaves nothing behind."""
    order = ordered(directory, [keyed_batch([(b"a", b"1" * 5000), (b"a", b"2" * 5000)])])
    tight = replace(order, limits=CleanLimits(reserve_bytes=10_000))
    with pytest.raises(DiskFullError):
        clean(SmallDisk(14_999), tight, on_progress=lambda _: None, pace=lambda _: None)
    assert not [name for name in os.listdir(directory) if "cleaned" in name]
    clean(SmallDisk(16_000), tight, on_progress=lambda _: None, pace=lambda _: None)


def test_every_byte_read_and_written_is_paced(directory: str) -> None:
    """The budget's caller hears of all of them, and the progress ends where it should."""
    rng_batches = [
        keyed_batch([(b"%d" % (at % 9), b"v" * 30_000)], base_offset=at) for at in range(200)
    ]
    order = ordered(directory, rng_batches)
    paced: list[int] = []
    told: list[Progress] = []
    result = clean(FastFiles(), order, on_progress=told.append, pace=paced.append)
    assert sum(paced) == result.read_bytes + result.written_bytes
    assert result.read_bytes >= order.source_bytes
    assert result.written_bytes == result.after.log_bytes
    assert {step.phase for step in told} == {"keys", "copy"}
    for phase in ("keys", "copy"):
        steps = [step.done_bytes for step in told if step.phase == phase]
        assert steps == sorted(steps)
        assert order.source_bytes - MIB - 40_000 <= steps[-1] <= order.source_bytes
        assert {step.all_bytes for step in told if step.phase == phase} == {order.source_bytes}


def test_what_a_killed_round_left_is_removed_by_its_attempt(directory: str) -> None:
    """Only that attempt's files; another one's and the log's own stay."""
    left = [cleaned_file_name(0, 1, ".log"), cleaned_file_name(5, 1, ".timeindex")]
    for name in (*left, "00000000000000000000.log", cleaned_file_name(0, 11, ".log")):
        Path(directory, name).touch()
    unlink_cleaned(Files(), directory, 1)
    assert sorted(os.listdir(directory)) == [
        cleaned_file_name(0, 11, ".log"),
        "00000000000000000000.log",
    ]


def test_orders_and_results_are_the_same_behind_json(directory: str) -> None:
    """Both ways, every field; what is none is refused with one kind of error."""
    log = make_log(directory, settings=COMPACTED)
    append(log, keyed_batch([(b"a", None)], producer_id=1, producer_epoch=0, base_sequence=0))
    append_pairs(log, (b"a", b"1"))
    log.roll_now()
    order = order_round(log)
    assert order is not None
    assert order.producer_last_offsets == (0,)
    assert CleanOrder.from_json(order.to_json()) == order
    result = run_round(order, log)
    assert CleanResult.from_json(result.to_json()) == result
    for text in ("", "[]", "{}", order.to_json().replace("groups", "group"), "[" * 10_000):
        with pytest.raises(ValueError, match="no order or result"):
            CleanOrder.from_json(text)
        with pytest.raises(ValueError, match="no order or result"):
            CleanResult.from_json(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("groups", ()),
        ("groups", ((),)),
        ("groups", ((SourceSegment(0, 5, 1), SourceSegment(6, 9, 1)),)),
        ("first_dirty_offset", INT64_MAX),
        ("first_dirty_offset", -1),
        ("end_offset", 8),
        ("attempt", -1),
    ],
)
def test_an_order_that_contradicts_itself_is_none(field: str, value: object) -> None:
    """Segments that do not follow each other, offsets outside of them."""
    order = CleanOrder(
        name="t-0",
        directory="/nowhere",
        attempt=0,
        groups=((SourceSegment(0, 5, 1), SourceSegment(5, 9, 1)),),
        first_dirty_offset=0,
        end_offset=9,
        now_ms=0,
    )
    with pytest.raises(ValueError, match=r"order|segments|offset"):
        replace(order, **{field: value})  # type: ignore[arg-type]  # wrong on purpose
