"""A compacted log shows exactly what a dict in the test says, whatever was done to it.

Hypothesis appends (keys, tombstones, records without a key, all codecs, idempotent producers),
rolls, compacts (with lags, bounds, small key maps, a clock that goes back), deletes, checkpoints,
restarts cleanly and by recovery. The model knows records, keys and horizons, and no segment, batch
format or file. After each step the log must agree with it, from every offset, and `check` must find
nothing.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from logd.policy.compaction import CompactionRules, NotDue, plan_compaction
from logd.record.batch import read_header
from logd.storage.check_partition import Expected, check_partition
from logd.storage.check_report import CheckReport
from logd.storage.clean_order import CleanLimits
from logd.storage.clean_steps import steps_of
from logd.storage.files import Files
from logd.storage.log import LogSettings
from logd.units import INT64_MAX, KIB
from tests.crash.lying_disk import FastFiles
from tests.model.compaction_model import Model
from tests.unit.compaction_rig import Pair, Row, batches_in, keyed_batch, rows_in, run_round
from tests.unit.log_builder import append, make_log, recover_log, reopen

KEYS = [b"", b"a", b"bb", b"c" * 70, b"one length 1", b"one length 2"]
PRODUCERS = 3
RETENTION_MS = 50

VALUES = [b"", b"one", b"v" * 100]

seeds = st.integers(0, 2**32)
counts = st.integers(1, 8)


def random_batches(seed: int, count: int) -> list[tuple[list[Pair], int, int]]:
    """Return (pairs, codec, producer, below 0 for none); drawn one by one they would be slow."""
    rng = random.Random(seed)
    return [
        (
            [
                (
                    rng.choice(KEYS) if rng.random() < 0.9 else None,
                    rng.choice(VALUES) if rng.random() < 0.7 else None,
                )
                for _ in range(rng.randint(1, rng.choice((1, 3, 12))))
            ],
            rng.choice((0, 0, 0, 1, 2, 3, 4)),
            rng.randrange(-2, PRODUCERS),
        )
        for _ in range(count)
    ]


class CompactionMachine(RuleBasedStateMachine):
    """The log, and the model that it must equal."""

    @initialize(
        segment_bytes=st.sampled_from([300, 1000, 20_000]),
        index_interval_bytes=st.sampled_from([0, 150, 4096]),
    )
    def create(self, segment_bytes: int, index_interval_bytes: int) -> None:
        """Begin with an empty log."""
        self.directory = tempfile.mkdtemp()
        self.settings = LogSettings(
            segment_bytes=segment_bytes,
            index_interval_bytes=index_interval_bytes,
            segment_index_bytes=2000,
            is_compacted=True,
        )
        self.files = FastFiles()
        self.log = make_log(self.directory, settings=self.settings, files=self.files)
        self.model = Model(retention_ms=RETENTION_MS)
        self.sequences = [0] * PRODUCERS
        self.now_ms = 10_000
        self.attempt = 0
        # Up to where there may be gaps, and up to where the log knows that.
        self.gaps_end = self.known_end = 0

    def teardown(self) -> None:
        """Remove the log."""
        if hasattr(self, "directory"):
            shutil.rmtree(self.directory)

    # --- what changes the log --------------------------------------------------------------------

    @rule(seed=seeds, count=counts, timestamp_ms=st.integers(0, 40))
    def append(self, seed: int, count: int, timestamp_ms: int) -> None:
        """Append batches."""
        for pairs, codec, producer in random_batches(seed, count):
            fields: dict[str, int] = {}
            if producer >= 0:
                sequence = self.sequences[producer]
                fields = {"producer_id": producer, "producer_epoch": 0, "base_sequence": sequence}
                self.sequences[producer] += len(pairs)
            batch = keyed_batch(pairs, codec=codec, timestamp_ms=timestamp_ms, **fields)
            if producer >= 0:
                assert self.log.producers.check(read_header(batch)) is None
            base = self.log.end_offset
            append(self.log, batch, now_ms=self.now_ms)
            self.model.append(
                [
                    Row(base + number, key, value, timestamp_ms + number)
                    for number, (key, value) in enumerate(pairs)
                ]
            )

    def _roll(self) -> None:
        if self.log.segment_list.active.size:
            self.log.roll_now()  # After a start it only opens the segment.

    @rule(
        lag_ms=st.sampled_from([0, 0, 0, 10_000 - 20]),
        bound=st.sampled_from([1.0, 1.0, 0.5]),
        map_bytes=st.sampled_from([1, 700, 10 * KIB, 1 << 20, 1 << 20]),
        merge_bytes=st.sampled_from([1, 700, 10**9]),
        on_demand=st.booleans(),
        rolls=st.booleans(),
    )
    def compact(
        self,
        lag_ms: int,
        bound: float,
        map_bytes: int,
        merge_bytes: int,
        on_demand: bool,
        rolls: bool,
    ) -> None:
        """Do a round as the policy plans it."""
        if rolls:
            self._roll()
        self._compact(lag_ms, bound, map_bytes, merge_bytes, on_demand)

    @rule(seed=seeds, count=counts, timestamp_ms=st.integers(0, 40), later_ms=st.integers(0, 60))
    def append_and_compact(self, seed: int, count: int, timestamp_ms: int, later_ms: int) -> None:
        """What a topic's life consists of."""
        self.append(seed, count, timestamp_ms)
        self._roll()
        self.now_ms += later_ms
        self._compact(0, 1.0, 1 << 20, 700, True)

    def _compact(
        self, lag_ms: int, bound: float, map_bytes: int, merge_bytes: int, on_demand: bool
    ) -> None:
        rules = CompactionRules(
            min_cleanable_dirty_ratio=0.2,
            min_compaction_lag_ms=lag_ms,
            max_compaction_lag_ms=INT64_MAX,
            segment_bytes=merge_bytes,
            segment_index_bytes=2000,
            index_interval_bytes=self.settings.index_interval_bytes,
        )
        facts = self.log.compaction_facts(bound_offset=int(self.log.synced_offset * bound))
        plan = plan_compaction(facts, rules, now_ms=self.now_ms, on_demand=on_demand)
        if isinstance(plan, NotDue):
            return
        self.attempt += 1
        limits = CleanLimits(delete_retention_ms=RETENTION_MS, key_map_bytes=map_bytes)
        order = self.log.clean_order(plan, attempt=self.attempt, now_ms=self.now_ms, limits=limits)
        result = run_round(order, self.log)
        steps = steps_of(
            order,
            result,
            segments_max=1 + self.attempt % 3,
            known_horizon_ms=facts.next_horizon_ms,
        )
        for step_order, step in steps:
            for path in self.log.replace_segments(step_order, step).unlink_paths:
                self.files.unlink(path)
        end = result.first_uncleaned_offset
        self.known_end = end
        self.gaps_end = max(self.gaps_end, end)
        assert order.first_dirty_offset <= end <= order.end_offset
        assert (end == order.end_offset) == result.fitted
        assert result.fitted or end > order.first_dirty_offset
        self.model.compact(first_dirty=order.first_dirty_offset, end=end, now_ms=self.now_ms)
        waiting = [
            self.model.horizons[self.model.batch_of[offset]]
            for offset, row in self.model.rows.items()
            if offset < end and row.value is None
        ]
        assert result.next_horizon_ms == min(waiting, default=None)

    @rule(part=st.floats(0, 1))
    def delete_before(self, part: float) -> None:
        """Delete the oldest records."""
        offset = int(self.log.synced_offset * part)
        for path in self.log.delete_before(offset).unlink_paths:
            self.files.unlink(path)
        self.model.start = max(self.model.start, offset)
        first = self.log.segment_list.bases[0]
        self.model.rows = {at: row for at, row in self.model.rows.items() if at >= first}

    # --- restarts --------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["checkpoint", "restart", "roll"]), by_ms=st.integers(-100, 100))
    def go_on(self, what: str, by_ms: int) -> None:
        """Time passes, or is set back; a checkpoint, a clean restart, or a roll."""
        self.now_ms += by_ms
        if what == "checkpoint":
            self.log.checkpoint()
        elif what == "roll":
            self._roll()
        else:
            clean = self.log.close()
            self.log = reopen(self.directory, clean, settings=self.settings, files=self.files)

    @rule(
        same_boot=st.booleans(),
        without_snapshots=st.booleans(),
        without_state=st.booleans(),
        compacted=st.booleans(),
    )
    def crash(
        self, same_boot: bool, without_snapshots: bool, without_state: bool, compacted: bool
    ) -> None:
        """Recover; perhaps without snapshots, without what is known of rounds, as another topic."""
        directory = f"{self.directory}/t-0"
        for name in os.listdir(directory):
            if (without_snapshots and name.endswith(".producers")) or (
                without_state and name == "compaction"
            ):
                os.unlink(f"{directory}/{name}")
        # Whoever loses the state and compacts the topic no more is told of damage that is none.
        if without_state:
            self.known_end = 0
        compacted |= self.known_end < self.gaps_end
        changed = dataclasses.replace(self.settings, is_compacted=compacted)
        self.log, report = recover_log(
            self.directory, settings=changed, files=self.files, same_boot=same_boot
        )
        assert not report.damaged, report.lines()
        assert not report.cuts

    # --- what must hold --------------------------------------------------------------------------

    @invariant()
    def shows_what_the_model_says(self) -> None:
        """A consumer that reads everything sees the model's records and no others."""
        if hasattr(self, "log"):
            assert rows_in(self.log) == self.model.visible()

    @invariant()
    def nobody_waits_in_a_hole(self) -> None:
        """From every offset a reader gets on to the log's end."""
        if not hasattr(self, "log"):
            return
        end = self.log.synced_offset
        for offset in range(self.model.start, end, max(end // 7, 1)):
            batches = batches_in(self.log, start=offset)
            assert batches[-1][0].next_offset == end, f"from {offset}"
        assert self.log.log_start_offset == self.model.start

    @invariant()
    def times_are_found(self) -> None:
        """The first record at or after a time is the model's."""
        if not hasattr(self, "log"):
            return
        end = self.log.synced_offset
        for timestamp_ms in (0, 5, 20, 50):
            expected = next(
                (row for row in self.model.visible() if row.timestamp_ms >= timestamp_ms), None
            )
            found = self.log.offset_for_timestamp(timestamp_ms, below=end)
            assert (found and found[0]) == (expected and expected.offset)

    @invariant()
    def producers_go_on(self) -> None:
        """The last sequence of each producer is known, and a batch that says it is in the log."""
        if not hasattr(self, "log"):
            return
        known = {entry.producer_id: entry for entry in self.log.producers.entries()}
        ends = {(header.producer_id, header.last_offset) for header, _ in batches_in(self.log)}
        for producer, sequence in enumerate(self.sequences):
            if sequence and producer in known:
                assert known[producer].last_sequence == sequence - 1
                last_offset = known[producer].last_offset
                assert last_offset < self.model.start or (producer, last_offset) in ends

    @invariant()
    def check_finds_nothing(self) -> None:
        """The files agree with each other, and no byte is counted twice."""
        if not hasattr(self, "log"):
            return
        directory = f"{self.directory}/t-0"
        report = CheckReport(directory)
        check_partition(Files(), directory, Expected(may_have_gaps=True), report)
        assert not report.damage, report.damage
        names = os.listdir(directory)
        sizes = [os.path.getsize(f"{directory}/{name}") for name in names if name.endswith(".log")]
        assert sum(sizes) == self.log.size_bytes
        assert not [
            name for name in names if name.endswith((".cleaned", ".deleted", "replacement"))
        ]


CompactionMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=20)
TestCompaction = CompactionMachine.TestCase
