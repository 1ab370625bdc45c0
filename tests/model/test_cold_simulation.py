"""A segment stays readable, whatever happens in whatever order: the real decisions and the real
catalog, with a hot file, nodes and chunks that are only noted down.

Hypothesis codes, aborts, releases, thaws, codes again, deletes, moves chunks, loses chunks, stops
before or after any commit, restarts, and puts foreign chunks on nodes. What is done to files and
chunks is what the decisions allow and no more. After each step:

* the segment is readable from its hot file or from k intact chunks of one live generation, unless
  somebody asked for its deletion;
* no chunk was removed that a record did not name at that moment, and no foreign one at all;
* at most one generation is live.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from logd.errors import ColdStateError
from logd.policy.cold.leases import Leases, Work
from logd.policy.cold.proof import (
    ChunkCheck,
    HotCopy,
    Proof,
    ReleaseCheck,
    ReleaseTerms,
    data_chunk_to_decode,
)
from logd.policy.cold.removal import ChunkName, Fate, chunks_to_remove, judge_chunk
from logd.policy.cold.states import StartAction, on_start
from logd.policy.cold.values import LIVE, REMOVABLE, ColdState, Generation, SegmentKey, StorageNode
from logd.policy.cold.values import Profile as ProfileOf
from logd.storage.catalog import SqliteCatalog
from logd.storage.cold_catalog import Commit, EncodePlan
from tests.unit.storage_faults import StoppedError

KEY = SegmentKey(b"t" * 16, 0, 0)
PROFILE = ProfileOf(2, 1)
NODES = tuple("abcd")
TERMS = ReleaseTerms(grace_ms=2, hot_retention_ms=0)
SELDOM = st.integers(0, 9).map(lambda number: number == 7)
STOPS = st.sampled_from([*[None] * 6, "before", "after"])


class ColdMachine(RuleBasedStateMachine):
    """One segment, its catalog, and what lies on disks."""

    @initialize(depth=st.sampled_from([0, 1, 2, 2, 3, 3, 4, 4]))
    def create(self, depth: int) -> None:
        """A segment that is hot (0), coded (1), released (2), coded anew beside its hot file (3) or
        without one (4).
        """
        self.directory = tempfile.mkdtemp()
        self.hot = True
        self.chunks: dict[ChunkName, bool] = {}  # Whether each is intact.
        self.foreign: set[ChunkName] = set()
        self.quarantined: set[ChunkName] = set()
        self.lost: set[str] = set()  # Encodings that lost all they may.
        self.deletion_asked = False
        self.now_ms = 1000
        self.uuid = 0
        self.stop_at: str | None = None
        self.leases = Leases()
        self.encoder: Any = None
        self.open()
        self.catalog.create_topic("topic", KEY.topic_id, 1, {})
        for at, name in enumerate(NODES):
            node = StorageNode(name=name, place=f"/{name}", identity=f"{at:032x}")
            self.catalog.cold.add_node(node)
        if depth >= 1:
            self.encode("abc")
        if depth == 2:
            self.released()
        if depth >= 3:
            self.encode("bcd")
        if depth == 4:
            self.hot = False

    def encode(self, nodes: str) -> None:
        """Code the segment without any trouble."""
        self.plan_on(None, list(nodes))
        self.write_chunks(3, None)
        self.commit_now(None)

    def released(self) -> None:
        """Release it without any trouble."""
        self.now_ms += TERMS.grace_ms
        self.release_now(None, unlinks=True)
        assert not self.hot

    def open(self) -> None:
        """Open the catalog as a start does."""

        def observer(event: str) -> None:
            if self.stop_at is not None and event.startswith(self.stop_at):
                raise StoppedError(event)

        self.catalog = SqliteCatalog.open(f"{self.directory}/catalog.sqlite", "cluster", observer)
        # Processes die here, power does not fail: without syncs there is time for more examples.
        self.catalog._database.connection.execute("PRAGMA synchronous = OFF")
        self.cold = self.catalog.cold

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "directory"):
            self.catalog.close()
            shutil.rmtree(self.directory)

    # --- what the rules share ---------------------------------------------------------------------

    def find(self, *states: ColdState) -> Generation | None:
        """Return the newest generation in one of the states."""
        return next((each for each in reversed(self.records()) if each.state in states), None)

    def records(self) -> list[Generation]:
        """Return all records, without stopping."""
        stop_at, self.stop_at = self.stop_at, None
        found = self.cold.generations()
        self.stop_at = stop_at
        return found

    def move(self, stop: str | None, call: Callable[[], object]) -> bool:
        """Do a transaction, perhaps stopped around its commit; return whether to go on after it."""
        self.stop_at = stop
        try:
            call()
        except ColdStateError:
            return False
        except StoppedError:
            self.restart()
            return False
        finally:
            self.stop_at = None
        return True

    def checks(self, generation: Generation) -> tuple[ChunkCheck, ...]:
        """Read all chunks from their devices."""
        return tuple(
            ChunkCheck(index, node, self.chunks.get(self.name(generation, index, node), False))
            for index, node in generation.held.items()
        )

    def name(self, generation: Generation, index: int, node: str) -> ChunkName:
        return ChunkName(KEY, generation.number, generation.encoding, index, node)

    def good(self, generation: Generation) -> int:
        """Return how many of a generation's chunks are intact and in their place."""
        return sum(check.is_right for check in self.checks(generation))

    def remove(self, chunk: ChunkName) -> None:
        """Remove a chunk, and hold the removal against the records of this moment."""
        record = next((r for r in self.records() if r.encoding == chunk.encoding), None)
        assert record is not None, f"{chunk} went unexplained"
        assert record.number == chunk.number
        leaving = {(at.index, at.node) for at in record.placements if at.is_leaving}
        assert record.state in REMOVABLE or (chunk.index, chunk.node) in leaving
        assert chunk not in self.foreign
        self.chunks.pop(chunk, None)

    def restart(self) -> None:
        """The process died; a start does what it must."""
        self.catalog.close()
        self.leases, self.encoder, self.stop_at = Leases(), None, None
        self.now_ms += 1
        self.open()
        for generation in self.records():
            action = on_start(generation, has_hot_log=self.hot)
            if action is StartAction.ABORT:
                self.cold.abort(generation.encoding, now_ms=self.now_ms)
            elif action is StartAction.REMOVE_HOT and all(
                check.is_right for check in self.checks(generation)
            ) and not generation.missing:  # fmt: skip
                self.hot = False

    # --- rules ------------------------------------------------------------------------------------

    @rule(stop=STOPS, nodes=st.permutations(NODES))
    def plan(self, stop: str | None, nodes: list[str]) -> None:
        """An encoder begins; its source is the hot file."""
        self.plan_on(stop, nodes)

    def plan_on(self, stop: str | None, nodes: list[str]) -> None:
        if self.encoder is not None or not self.hot or self.deletion_asked:
            return
        lease = self.leases.take(Work.ENCODE, [KEY])
        if lease is None:
            return
        self.uuid += 1
        plan = EncodePlan(
            key=KEY, encoding=f"{self.uuid:032x}", profile=PROFILE, next_offset=10,
            source_bytes=100, nodes=tuple(nodes[:3]),
        )  # fmt: skip
        if self.move(stop, lambda: self.cold.plan(plan, now_ms=self.now_ms)):
            self.encoder = (lease, plan.encoding)
        elif lease in list(self.leases):
            self.leases.give_back(lease)

    @rule(
        stop=STOPS,
        nodes=st.permutations(NODES),
        count=st.sampled_from([0, 1, 2, 3, 3, 3]),
        bad=st.sampled_from([None, None, 0, 1, 2]),
        waits=st.booleans(),
    )
    def encode_and_release(
        self, stop: str | None, nodes: list[str], count: int, bad: int | None, waits: bool
    ) -> None:
        """All of it without a break: other steps come between less often than they might."""
        self.plan_on(None, nodes)
        if self.encoder is not None:
            self.write_chunks(count, bad)
            self.commit_now(stop)
        if waits:
            self.now_ms += TERMS.grace_ms
        self.release_now(stop, unlinks=True)

    @precondition(lambda self: self.encoder is not None)
    @rule(count=st.integers(1, 3), bad=st.sampled_from([None, None, None, 0, 1, 2]))
    def write(self, count: int, bad: int | None) -> None:
        """Chunks are written, perhaps not all, and once in a while one is not what was sent."""
        self.write_chunks(count, bad)

    def write_chunks(self, count: int, bad: int | None) -> None:
        planned = self.find(ColdState.PLANNED)
        assert planned is not None
        for index in range(count):
            self.chunks[self.name(planned, index, planned.held[index])] = index != bad

    @precondition(lambda self: self.encoder is not None)
    @rule(stop=STOPS)
    def commit(self, stop: str | None) -> None:
        """The encoder asks for its commit, with what it can show: too early as well."""
        self.commit_now(stop)

    def commit_now(self, stop: str | None) -> None:
        lease, encoding = self.encoder
        planned = self.find(ColdState.PLANNED)
        assert planned is not None
        proof = Proof(self.checks(planned), data_chunk_to_decode(planned), True)
        live = [each.encoding for each in self.records() if each.state in LIVE]
        if self.move(stop, lambda: self.cold.commit(
            [Commit(encoding, b"m", proof)], superseded=live, now_ms=self.now_ms)):  # fmt: skip
            self.leases.give_back(lease)
            self.encoder = None

    @precondition(lambda self: self.encoder is not None)
    @rule(stop=STOPS, sure=SELDOM)
    def abort(self, stop: str | None, sure: bool) -> None:
        """The encoder gives up."""
        lease, encoding = self.encoder
        if not sure:
            return
        if self.move(stop, lambda: self.cold.abort(encoding, now_ms=self.now_ms)):
            self.leases.give_back(lease)
            self.encoder = None

    @rule(stop=STOPS, unlinks=st.sampled_from([True, True, False]))
    def release(self, stop: str | None, unlinks: bool) -> None:
        """The tier checks a committed segment and lets the hot file go; or stops before."""
        self.release_now(stop, unlinks=unlinks)

    def release_now(self, stop: str | None, *, unlinks: bool) -> None:
        found = self.find(ColdState.COMMITTED)
        lease = self.leases.take(Work.RELEASE, [KEY]) if found is not None else None
        if found is None or lease is None:
            return
        now_ms = self.now_ms
        check = ReleaseCheck(checks=self.checks(found), began_ms=now_ms, ended_ms=now_ms)
        done = self.move(
            stop, lambda: self.cold.release(found.encoding, check, TERMS, now_ms=now_ms)
        )
        if done and unlinks:
            self.hot = False
        elif done:
            self.restart()
        if lease in list(self.leases):
            self.leases.give_back(lease)

    @rule(stop=STOPS)
    def thaw(self, stop: str | None) -> None:
        """The hot file is written again, whole, before the record says so."""
        found = self.find(ColdState.RELEASED)
        if found is None or self.good(found) < PROFILE.k or KEY in self.leases:
            return
        self.hot = True
        copy = HotCopy(100, True, True)
        self.move(stop, lambda: self.cold.thaw(found.encoding, copy, now_ms=self.now_ms))

    @rule(stop=STOPS)
    def end_hold(self, stop: str | None) -> None:
        """People ask for a thawed segment to be coded again."""
        found = self.find(ColdState.COMMITTED)
        if found is not None:
            self.move(stop, lambda: self.cold.end_hold(found.encoding))

    @rule(stop=STOPS)
    def drop_superseded(self, stop: str | None) -> None:
        """The chunks of an older encoding are to go."""
        found = self.find(ColdState.SUPERSEDED)
        if found is not None:
            self.move(stop, lambda: self.cold.drop_superseded(
                found.encoding, has_hot_log=self.hot, now_ms=self.now_ms))  # fmt: skip

    @rule(stop=STOPS, node=st.sampled_from(NODES), index=st.integers(0, 2))
    def move_chunk(self, stop: str | None, node: str, index: int) -> None:
        """A chunk is copied to another node, read back, and only then has its place there."""
        found = self.find(*LIVE)
        if found is None or index not in found.held or node in found.held.values():
            return
        if not self.chunks.get(self.name(found, index, found.held[index])) or KEY in self.leases:
            return
        self.chunks[self.name(found, index, node)] = True
        self.move(stop, lambda: self.cold.place_chunk(found.encoding, index=index, node=node))

    @rule(stop=STOPS, away=st.sampled_from((*NODES, "")))
    def sweep(self, stop: str | None, away: str) -> None:
        """What is recorded as going goes, from the nodes that are there, one by one."""
        for chunk in chunks_to_remove(self.records()):
            if chunk.node == away:
                continue
            self.remove(chunk)
            if not self.move(stop, lambda chunk=chunk: self.cold.chunk_removed(
                chunk.encoding, index=chunk.index, node=chunk.node) or True):  # fmt: skip
                return

    @rule()
    def inventory(self) -> None:
        """Nodes list what they have; each chunk is kept, removed or put aside."""
        records = {each.encoding: each for each in self.records()}
        for chunk in sorted(self.chunks):
            fate = judge_chunk(chunk, records).fate
            if fate is Fate.REMOVE:
                self.remove(chunk)
            elif fate is Fate.TRIM:
                held = records[chunk.encoding].held[chunk.index]
                if KEY not in self.leases and self.chunks.get(replace(chunk, node=held)):
                    assert chunk not in self.foreign
                    del self.chunks[chunk]
            elif fate is Fate.QUARANTINE:
                self.quarantined.add(chunk)
                del self.chunks[chunk]

    @rule(number=st.integers(1, 3), node=st.sampled_from(NODES), uuid=st.integers(900, 901))
    def foreign_chunk(self, number: int, node: str, uuid: int) -> None:
        """Somebody's chunk turns up: an old generation, a restored disk."""
        chunk = ChunkName(KEY, number, f"{uuid:032x}", 0, node)
        if chunk not in self.quarantined:
            self.foreign.add(chunk)
            self.chunks[chunk] = True

    @rule(index=st.integers(0, 2))
    def lose(self, index: int) -> None:
        """A chunk of a live set goes bad; no more of one set than it may lose."""
        found = self.find(*LIVE)
        if found is None or self.good(found) < PROFILE.chunks or found.encoding in self.lost:
            return
        self.lost.add(found.encoding)
        self.chunks[self.name(found, index, found.held[index])] = False

    @rule()
    def repair(self) -> None:
        """What was lost is made again from the others, or from the hot file."""
        found = self.find(*LIVE)
        if found is not None and self.good(found) >= PROFILE.k and KEY not in self.leases:
            for index, node in found.held.items():
                self.chunks[self.name(found, index, node)] = True
            self.lost.discard(found.encoding)

    @rule(sure=SELDOM)
    def kill(self, sure: bool) -> None:
        """The process dies between two steps."""
        if sure:
            self.restart()

    @rule(stop=STOPS, sure=SELDOM)
    def delete(self, stop: str | None, sure: bool) -> None:
        """Retention reaches the segment, now and then; the hot file goes too."""
        if not sure or KEY in self.leases:
            return
        self.deletion_asked = True
        if self.move(stop, lambda: self.cold.delete_segments([KEY], now_ms=self.now_ms)):
            self.hot = False

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def time_passes(self) -> None:
        """A millisecond a step."""
        self.now_ms += 1

    @invariant()
    def is_readable(self) -> None:
        """From the hot file, or from k chunks of one live generation."""
        live = [each for each in self.records() if each.state in LIVE]
        assert len(live) <= 1
        if not self.deletion_asked:
            assert self.hot or any(self.good(each) >= PROFILE.k for each in live), live

    @invariant()
    def nothing_foreign_went(self) -> None:
        """What no record explains is on its node, or in quarantine."""
        assert all(chunk in self.chunks or chunk in self.quarantined for chunk in self.foreign)


TestColdMachine = ColdMachine.TestCase
TestColdMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
