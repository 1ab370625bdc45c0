"""Notes of long batches: a round that steps over what it drops does what one without notes does."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from logd.record.batch import BatchHeader, read_header
from logd.storage import clean_notes
from logd.storage.clean_notes import BatchNotes, DroppedRun
from logd.storage.clean_order import CleanLimits, CleanOrder, CleanResult, SourceSegment
from logd.storage.cleaner import clean
from logd.storage.files import Files
from logd.storage.log import Log
from tests.unit.compaction_rig import COMPACTED, NOW_MS, append_pairs, keyed_batch, order_round
from tests.unit.log_builder import make_log

SEGMENT = SourceSegment(base_offset=0, end_offset=1000, log_bytes=100_000_000)


@pytest.fixture(autouse=True)
def _short_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_notes, "LONG_BATCH_BYTES", 0)


def header(base_offset: int, *, records: int = 2) -> BatchHeader:
    """Return the header of a batch of so many records."""
    return read_header(keyed_batch([(b"k", b"v")] * records))._replace(base_offset=base_offset)


def note(notes: BatchNotes, offsets: list[int], segment: SourceSegment = SEGMENT) -> list[int]:
    """Note batches of two records at these offsets, one behind the other; return where they lie."""
    places = []
    position = 0
    for offset in offsets:
        notes.add(segment, position, header(offset))
        places.append(position)
        position += header(offset).size
    return [*places, position]


def test_dropped_neighbours_are_one_run() -> None:
    """Batches of which nothing stays are one run as far as they follow each other."""
    notes = BatchNotes({0}, ())
    places = note(notes, [0, 2, 4, 6, 8])
    assert list(notes.dropped(SEGMENT, {4: 1})) == [
        DroppedRun(places[0], places[2], 3, 4),
        DroppedRun(places[3], places[5], 9, 4),
    ]
    assert not list(notes.dropped(SEGMENT, {0: 1, 2: 2, 4: 1, 6: 1, 8: 1}))


def test_what_may_leave_a_trace_is_not_noted() -> None:
    """A segment's last batch, one of a live producer, and one that is not copied are read again."""
    size = header(0).size
    notes = BatchNotes({0}, {3})
    note(notes, [0, 2, 4], SEGMENT._replace(log_bytes=3 * size))
    notes.add(SEGMENT._replace(base_offset=500), 0, header(500))
    assert list(notes.dropped(SEGMENT, {})) == [DroppedRun(0, size, 1, 2)]
    assert not list(notes.dropped(SEGMENT._replace(base_offset=500), {}))


def test_the_last_one_is_forgotten() -> None:
    """The batch behind which a round ends early is forgotten; any other offset changes nothing."""
    notes = BatchNotes({0}, ())
    places = note(notes, [0, 2])
    notes.forget(0)
    assert list(notes.dropped(SEGMENT, {})) == [DroppedRun(0, places[2], 3, 4)]
    notes.forget(2)
    assert list(notes.dropped(SEGMENT, {})) == [DroppedRun(0, places[1], 1, 2)]


def test_notes_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more batches are noted than NOTES_MAX."""
    monkeypatch.setattr(clean_notes, "NOTES_MAX", 2)
    notes = BatchNotes({0}, ())
    places = note(notes, [0, 2, 4])
    assert list(notes.dropped(SEGMENT, {})) == [DroppedRun(0, places[2], 3, 4)]


# --- whole rounds ---------------------------------------------------------------------------------


def fill(log: Log, rng: random.Random) -> None:
    """Append some hundred batches of few keys, with tombstones, and seal them."""
    for _ in range(300):
        pairs = [
            (b"key-%d" % rng.randrange(40), rng.choice((None, b"v", b"v" * 60)) if at else b"v")
            for at in range(rng.choice((1, 1, 3, 8)) if rng.random() < 0.9 else 1)
        ]
        append_pairs(log, *pairs, codec=rng.choice((0, 0, 4)))
    log.roll_now()


def outcome(order: CleanOrder, attempt: int) -> tuple[CleanResult, list[bytes]]:
    """Run a round; return its result, costs apart, and the bytes of all files that it wrote."""
    result = clean(
        Files(), replace(order, attempt=attempt), on_progress=lambda _: None, pace=lambda _: None
    )
    paths = sorted(Path(order.directory).glob(f"*.{attempt}.*.cleaned"))
    return replace(result, attempt=0, read_bytes=0), [path.read_bytes() for path in paths]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["plain", "full map", "groups kept", "a part", "producers"])
def test_a_round_with_notes_does_the_same(
    tmp_path: Path, seed: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With notes and without a round writes the same bytes, and tells the same of them."""
    log = make_log(str(tmp_path), settings=COMPACTED)
    fill(log, random.Random(f"{seed}"))
    limits = CleanLimits(key_map_bytes=3500 if kind == "full map" else 1 << 20)
    order = order_round(log, now_ms=NOW_MS, limits=limits)
    assert order is not None
    if kind == "groups kept":
        order = replace(order, keeps_groups=True)
    if kind == "a part":
        order = replace(order, keeps_groups=True, part=(1, len(order.groups)))
    if kind == "producers":
        ends = range(order.segments[0].base_offset, order.end_offset)
        order = replace(order, producer_last_offsets=tuple(ends[::3]))
    with_notes = outcome(order, 1)
    monkeypatch.setattr(clean_notes, "NOTES_MAX", 0)
    assert with_notes == outcome(order, 2)
    assert with_notes[0].fitted == (kind != "full map")
    assert with_notes[0].after.records < with_notes[0].before.records
