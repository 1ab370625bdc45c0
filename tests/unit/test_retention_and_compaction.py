"""Retention in the middle of a round of compaction of the same partition, on real logs.

The moments: the round has its order and has read nothing; it has written all and nothing is
committed; between two steps of its commit.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import trio
import trio.testing

from logd.broker import compaction_round
from logd.broker.cleaning import CleaningFailedError, OnProgress
from logd.broker.compaction_round import NotCompactedError, RoundCutShortError, Rounds
from logd.broker.partition import Partition
from logd.errors import LogdError, SegmentsChangedError
from logd.policy.compaction import NotDue
from logd.record.build import encode_batch
from logd.storage.clean_order import CleanOrder, CleanResult
from logd.storage.cleaner import clean
from logd.units import GIB, MIB
from tests.unit.compaction_rig import Row, rows_in
from tests.unit.retention_rig import LIMIT_MS, RetentionRig
from tests.unit.scheduler_rig import nothing_coded

SETTINGS = {"cleanup_policy": "compact,delete", "segment_bytes": "500"}
"""A segment for each batch of four, and no two of them fit into one."""

MOMENTS = ("ordered", "written", "committing")

CUT_SHORT = (SegmentsChangedError, NotCompactedError, RoundCutShortError)
"""How a round may end that something came between."""

Meanwhile = Callable[[], Awaitable[None]]


class Given(NamedTuple):
    """A record that was appended; due: its time is over when retention looks."""

    row: Row
    due: bool


class Both:
    """A partition, its retention, and rounds in which a test can do something at a moment."""

    def __init__(self, directory: str, chance: random.Random) -> None:
        self.rig = RetentionRig(directory)
        self.rig.disk.checked(GIB)
        self.chance = chance
        self.partition: Partition = self.rig.opened(**SETTINGS)
        self.given: list[Given] = []
        self.moment = ""
        self.meanwhile: Meanwhile = _nothing
        self._rounds = Rounds(
            cast("Any", SimpleNamespace(settings=_server_settings())),
            self.rig.services,
            self,
            bound=lambda partition: partition.high_watermark,
            coded=nothing_coded(),
            now_ms=self.rig.clock.now_ms,
        )
        self._nursery: trio.Nursery | None = None
        self.rig.offload.before = self._before

    def append(self, count: int, *, age_ms: int) -> None:
        """Append so many batches of four records of random keys, some of them tombstones."""
        for _ in range(count):
            self.rig.turn.now_ms = self.rig.clock.now_ms()
            at_ms = self.rig.clock.now_ms() - age_ms
            pairs = [
                (b"%70d" % self.chance.randrange(9), self.chance.choice((b"v", None)))
                for _ in range(4)
            ]
            batch = encode_batch([(key, value, [], at_ms) for key, value in pairs])
            base = self.partition.high_watermark
            self.partition.intake.append(batch, 0, len(batch), waiter=_Deaf(), wants_sync=True)
            self.rig.settle()
            self.given += [
                Given(Row(base + at, key, value, at_ms), age_ms >= LIMIT_MS)
                for at, (key, value) in enumerate(pairs)
            ]

    async def compact(self) -> CleanResult | NotDue:
        """Do a round; `meanwhile` happens at its moment, once."""
        error: Exception | None = None
        outcome: CleanResult | NotDue | None = None
        async with trio.open_nursery() as self._nursery:
            try:
                outcome = await self._rounds.run(
                    self.partition, on_demand=True, on_progress=lambda _: None
                )
            except LogdError as raised:  # Raised here, it would leave the nursery in a group.
                error = raised
        self.rig.settle()
        if error is not None:
            raise error
        assert outcome is not None
        return outcome

    def begin(self, work: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Let something happen beside the round."""
        assert self._nursery is not None
        self._nursery.start_soon(work, *arguments)

    async def _at(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""
            await self.meanwhile()

    async def _before(self, kind: str) -> None:
        """Begin at the first step of the commit what is then in between two of them."""
        if kind == "write" and self.moment == "committing":
            self.moment = ""
            self.begin(self.meanwhile)

    async def clean(
        self,
        order: CleanOrder,
        *,
        memory_bytes: int,
        is_asked_for: bool,
        on_progress: OnProgress,
    ) -> CleanResult:
        """Carry out a round here and now."""
        assert memory_bytes > 0
        await self._at("ordered")
        try:
            result = clean(self.rig.files, order, on_progress=on_progress, pace=lambda _: None)
        except FileNotFoundError as error:
            raise CleaningFailedError("gone", str(error)) from error
        await self._at("written")
        return result

    # --- what must be true at the end ------------------------------------------------------------

    def check(self) -> None:
        """Nothing young is lost but what a later record supersedes, nothing old is back."""
        log = self.partition.log
        start = log.log_start_offset
        rows = rows_in(log)
        by_offset = {given.row.offset: given.row for given in self.given}
        newest = {given.row.key: given.row for given in self.given}
        due = {given.row.offset for given in self.given if given.due}
        assert all(by_offset[row.offset] == row for row in rows)
        assert rows == sorted(set(rows))
        left = {row.offset for row in rows}
        assert left >= {row.offset for row in newest.values() if row.offset >= start}
        # Below the log start there may have been young ones, too, which later ones superseded.
        assert left >= {row.offset for row in newest.values() if row.offset not in due}
        names = os.listdir(log.directory)
        assert not [name for name in names if name.endswith((".cleaned", ".tmp"))]
        assert "replacement" not in names
        sizes = [
            os.path.getsize(f"{log.directory}/{name}") for name in names if name.endswith(".log")
        ]
        assert sum(sizes) == log.size_bytes

    def due_rows(self) -> list[Row]:
        """Return what retention has left of what it was to delete."""
        due = {given.row for given in self.given if given.due}
        return [row for row in rows_in(self.partition.log) if row in due]

    def check_removals(self) -> None:
        """What is to be removed is no part of the log, each file once, and all that was renamed."""
        before = rows_in(self.partition.log)
        for path in (path for paths, _ in self.rig.later for path in paths):
            assert path.endswith(".deleted")
            os.unlink(path)
        assert rows_in(self.partition.log) == before
        assert not [name for name in os.listdir(self.rig.directory + "/t-0") if ".del" in name]

    def check_restart(self) -> None:
        """A start after a crash finds the same."""
        before = rows_in(self.partition.log), self.partition.log.log_start_offset
        again = RetentionRig(self.rig.directory).opened(**SETTINGS)
        assert (rows_in(again.log), again.log.log_start_offset) == before


class _Deaf:
    """A producer that does not listen."""

    append_time_ms = -1

    def appended(self, base_offset: int) -> None:
        assert base_offset >= 0

    def refused(self, error: LogdError) -> None:
        raise error


async def _nothing() -> None:
    """Nothing happens meanwhile."""


def _server_settings() -> SimpleNamespace:
    return SimpleNamespace(
        log_cleaner_threads=1,
        log_cleaner_dedupe_buffer_size=16 * MIB,
        log_cleaner_memory_max_bytes=None,
        log_cleaner_coded_max_bytes=2**32,
        log_cleaner_io_max_bytes_per_second=2.0**63,
    )


def filled(directory: str, chance: random.Random) -> Both:
    """Half of the segments are due, and all of them have something to lose."""
    both = Both(directory, chance)
    both.append(6, age_ms=LIMIT_MS)
    both.append(6, age_ms=0)
    return both


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_look_of_retention_in_a_round(
    directory: str, rng: random.Random, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is due goes at once and once, the round comes to nothing or goes on with the rest, and
    the next one finds nothing amiss."""
    monkeypatch.setattr(compaction_round, "SEGMENTS_PER_COMMIT", 1)
    both = filled(directory, rng)
    both.moment = moment
    both.meanwhile = both.rig.retention.run_round
    if moment == "committing":
        with contextlib.suppress(SegmentsChangedError):
            assert isinstance(await both.compact(), CleanResult)
    else:
        with pytest.raises(SegmentsChangedError):
            await both.compact()
    both.check()
    assert not both.due_rows()
    if moment != "committing":
        assert both.partition.log_start_offset == 24
    both.append(2, age_ms=0)
    assert isinstance(await both.compact(), CleanResult)
    both.check()
    assert not both.due_rows()
    assert not both.rig.problems()
    both.check_removals()
    both.check_restart()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("what", ["delete-records", "policy", "retired"])
async def test_whatever_else_happens_in_a_round(
    directory: str, rng: random.Random, moment: str, what: str
) -> None:
    """Deletions, another policy, the end of the topic: no round removes more than it may."""
    both = filled(directory, rng)
    start = rng.randrange(1, 47)

    async def meanwhile() -> None:
        if what == "delete-records":
            both.given = [given._replace(due=given.row.offset < start) for given in both.given]
            await both.partition.delete_records(start)
        elif what == "policy":
            both.rig.alter(**{**SETTINGS, "cleanup_policy": "delete"})
        else:
            both.begin(both.partition.retire, "the topic was deleted")
            await trio.testing.wait_all_tasks_blocked()

    both.moment, both.meanwhile = moment, meanwhile
    before = {row.key: row for row in rows_in(both.partition.log)}
    with contextlib.suppress(*CUT_SHORT):
        await both.compact()
    if what == "retired":
        after = RetentionRig(directory).opened(**SETTINGS)
        assert {row.key: row for row in rows_in(after.log)} == before
        return
    both.check()
    if what == "delete-records":
        assert both.partition.log_start_offset == start
    both.check_removals()
    both.check_restart()


async def test_any_number_of_rounds_and_looks(
    directory: str, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends, time, rounds, looks and deletions, at any moments: the same holds behind each."""
    monkeypatch.setattr(compaction_round, "SEGMENTS_PER_COMMIT", 2)
    both = Both(directory, rng)

    async def meanwhile() -> None:
        if rng.random() < 0.7:
            await both.rig.retention.run_round()
        else:
            await both.partition.delete_records(
                rng.randint(both.partition.log_start_offset, both.partition.high_watermark)
            )
            start = both.partition.log_start_offset
            both.given = [
                given._replace(due=given.due or given.row.offset < start) for given in both.given
            ]

    for _ in range(12):
        both.append(rng.randrange(1, 8), age_ms=0)
        both.rig.clock.pass_ms(rng.choice((10, 4000, LIMIT_MS)))
        now_ms = both.rig.clock.now_ms()
        both.given = [
            given._replace(due=given.due or now_ms - given.row.timestamp_ms >= LIMIT_MS)
            for given in both.given
        ]
        both.moment, both.meanwhile = rng.choice(MOMENTS), meanwhile
        with contextlib.suppress(*CUT_SHORT):
            await both.compact()
        both.check()
    both.check_removals()
    both.check_restart()
