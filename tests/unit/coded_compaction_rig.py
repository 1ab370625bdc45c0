"""A compacted, coded log for tests: real rounds over real logs and catalog, nodes in memory.

What was appended is kept in a list, what must be left of it follows from a dict: of each key the
last record. `check` holds the log against that, whatever became of its segments.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import trio

from logd.broker.compaction_round import Rounds
from logd.broker.partition import Partition
from logd.broker.round_gate import RoundGate
from logd.cold.compacting import CodedCompaction
from logd.cold.life import ColdLife
from logd.config import ServerSettings, load_server_settings
from logd.policy.compaction import NotDue
from logd.record.batch import read_header
from logd.record.records import iterate
from logd.storage.clean_order import CleanOrder, CleanResult, Progress
from logd.storage.cleaner import clean
from logd.storage.log import LogSettings
from tests.unit.compaction_rig import Pair, Row, keyed_batch
from tests.unit.life_rig import ColdRig, SimPartition
from tests.unit.log_builder import append

SEGMENT_BYTES = 6000
KEYS = 12


class CompactingPartition(SimPartition):
    """A partition that a round can have to itself."""

    def __init__(self, partition: SimPartition) -> None:
        super().__init__(partition.log, partition.settings)
        self.round = RoundGate()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Nobody else writes here."""
        yield


class CodedRig(ColdRig):
    """See the module.

    Attributes:
        given: all records, in the order of their offsets.
        free_bytes: above the reserve.
        phases: what rounds told of their way.
        coded_bytes_max: log.cleaner.coded.max.bytes, where a test sets it.
    """

    log_settings = LogSettings(
        segment_bytes=SEGMENT_BYTES, index_interval_bytes=512, is_compacted=True
    )

    def __init__(self, directory: str, *, names: str = "abcdef", seed: int = 1) -> None:
        super().__init__(directory, names=names, seed=seed)
        self.given: list[Row] = []
        self.free_bytes = 2**40
        self.phases: list[Progress] = []
        self.before_clean: Callable[[], None] = lambda: None
        self.coded_bytes_max: int | None = None
        self._rounds: Rounds | None = None

    async def begin(self, **changes: Any) -> None:
        """Make the topic, empty; nothing is coded by itself before it was compacted."""
        values: dict[str, Any] = {
            "cleanup_policy": ("compact",),
            "segment_bytes": SEGMENT_BYTES,
            "delete_retention_ms": 1000,
        }
        await self.start(segments=0, **(values | changes))
        self.partition = CompactingPartition(self.partition)

    async def restart(self) -> None:
        """As the rig's."""
        await super().restart()
        self.partition = CompactingPartition(self.partition)

    async def open_tier(self) -> None:
        """As the rig's."""
        self._rounds = None
        await super().open_tier()

    def note_originals(self) -> None:
        """Segments change; the records are what is compared."""

    def hot(self) -> list[int]:
        """Base offsets of sealed segments that have a .log, as the log sees it."""
        items = self.log.segment_list.items[:-1]
        return [segment.base_offset for segment in items if segment.released is None]

    # --- records ----------------------------------------------------------------------------------

    def put(self, *pairs: Pair) -> None:
        """Append a batch."""
        base = self.log.end_offset
        at_ms = self.clock.now_ms()
        append(self.log, keyed_batch(pairs, timestamp_ms=at_ms))
        self.given += [
            Row(base + at, key, value, at_ms + at) for at, (key, value) in enumerate(pairs)
        ]

    def put_segments(self, count: int, *, keys: int = KEYS, tombstones: float = 0.1) -> None:
        """Append random pairs until so many segments more are sealed; seal the last one."""
        before = len(self.log.segment_list.items)
        while len(self.log.segment_list.items) < before + count:
            self.put(*(self._pair(keys, tombstones) for _ in range(4)))
        self.seal()

    def _pair(self, keys: int, tombstones: float) -> Pair:
        key = b"key-%d" % self.rng.randrange(keys)
        is_tombstone = self.rng.random() < tombstones
        return key, None if is_tombstone else self.rng.randbytes(150)

    def seal(self) -> None:
        """Begin a new segment if the active one has anything."""
        if self.log.segment_list.active.size:
            self.log.roll_now()

    async def rows(self) -> list[Row]:
        """Return all records from the log start on, hot or cold, each segment as it is read."""
        found: list[Row] = []
        for base_offset in [segment.base_offset for segment in self.log.segment_list.items]:
            # Anew each time: it may be released while another one is read.
            segment = self.log.segment_list.with_base(base_offset)
            assert segment is not None
            if segment.released is None:
                data = self.hot_bytes(segment.base_offset)
            else:
                generation = self.live(segment.base_offset)
                assert generation is not None, f"{segment} is neither hot nor cold"
                assert generation.key.base_offset == segment.base_offset
                assert generation.next_offset <= segment.end_bound
                data = await self.cold_bytes(generation)
            rows = list(_rows(data))
            assert all(segment.base_offset <= row.offset < segment.end_bound for row in rows)
            found += rows
        return [row for row in found if row.offset >= self.log.log_start_offset]

    async def check(self, *, is_clean: bool = False) -> None:
        """Each record is one that was appended, in order; of each key the last one is there.

        A key whose last record is a tombstone has that one, or none at all: nothing comes back.

        Args:
            is_clean: and nothing else but the active segment.
        """
        rows = await self.rows()
        offsets = [row.offset for row in rows]
        assert offsets == sorted(set(offsets))
        given = {row.offset: row for row in self.given}
        for row in rows:
            known = given[row.offset]
            assert (row.key, row.value) == (known.key, known.value)
        # What was deleted by its offset may have been the last one; then there is none.
        last = {row.key: row for row in self.given if row.offset >= self.log.log_start_offset}
        found = {row.key: row for row in rows}
        assert found.keys() <= last.keys()
        for key, row in last.items():
            if row.value is None and key not in found:
                continue
            assert found[key].offset == row.offset, f"{key!r} is not what it was last"
        if is_clean:
            sealed = [row for row in rows if row.offset < self.log.active_base]
            assert len({row.key for row in sealed}) == len(sealed)

    # --- rounds -----------------------------------------------------------------------------------

    @property
    def rounds(self) -> Rounds:
        """What carries out rounds, until a restart."""
        if self._rounds is None:
            self._rounds = self._made_rounds()
        return self._rounds

    def _made_rounds(self) -> Rounds:
        config = load_server_settings(file=None, environment={}, flags={})
        services = SimpleNamespace(
            clock=self.clock, offload=self.offload, files=self.files,
            disk=_Disk(self),
            unlink_later=self.unlink,
        )  # fmt: skip

        async def life() -> ColdLife:
            return self.life

        return Rounds(
            cast("Any", _Settings(self, config.settings)),
            cast("Any", services),
            self,
            coded=CodedCompaction(self.tier, life),
            bound=lambda partition: partition.high_watermark,
            now_ms=self.clock.now_ms,
        )

    async def compact(self) -> CleanResult | NotDue:
        """Carry out a round, as if somebody had asked for it."""
        return await self.rounds.run(
            cast("Partition", self.partition), on_demand=True, on_progress=self.phases.append
        )

    async def clean(
        self,
        order: CleanOrder,
        *,
        memory_bytes: int,
        is_asked_for: bool,
        on_progress: Callable[[Progress], None],
    ) -> CleanResult:
        """Do what the process would; the order and the result go through JSON."""
        assert memory_bytes > 0
        await trio.lowlevel.checkpoint()
        self.before_clean()
        self.step("clean")
        again = CleanOrder.from_json(order.to_json())
        result = clean(self.files, again, on_progress=on_progress, pace=lambda _: None)
        return CleanResult.from_json(result.to_json())


class _Disk:
    """What is free as the test says now."""

    reserve_bytes = 0

    def __init__(self, rig: CodedRig) -> None:
        self._rig = rig

    @property
    def free_bytes(self) -> int:
        return self._rig.free_bytes


class _Settings:
    """The defaults, but for what the test says now."""

    def __init__(self, rig: CodedRig, defaults: ServerSettings) -> None:
        self._rig = rig
        self._defaults = defaults

    @property
    def settings(self) -> ServerSettings:
        limit = self._rig.coded_bytes_max
        if limit is None:
            return self._defaults
        return replace(self._defaults, log_cleaner_coded_max_bytes=limit)


def _rows(data: bytes) -> list[Row]:
    rows: list[Row] = []
    at = 0
    while at < len(data):
        header = read_header(data, at)
        assert at + header.size <= len(data)
        rows += [
            Row(record.offset, record.key, record.value, record.timestamp_ms)
            for record in iterate(data[at : at + header.size])
        ]
        at += header.size
    return rows
