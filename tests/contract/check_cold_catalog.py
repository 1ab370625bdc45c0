"""What the cold part of every catalog must do, and values that its tests share.

A test module subclasses `ColdCatalogContract` and says in `make` how its catalog comes to be.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from logd.errors import ColdStateError, NodeRefusedError
from logd.policy.cold.proof import (
    ChunkCheck,
    HotCopy,
    Proof,
    ReleaseCheck,
    ReleaseTerms,
    data_chunk_to_decode,
)
from logd.policy.cold.values import (
    ColdState,
    Generation,
    Gone,
    NodeState,
    Placement,
    Profile,
    SegmentKey,
    StorageNode,
)
from logd.storage.catalog import SqliteCatalog
from logd.storage.cold_catalog import ColdCatalog, Commit, EncodePlan

TOPIC = b"t" * 16
OTHER = b"o" * 16
NODES = tuple(
    StorageNode(name=f"n{at}", place=f"/disks/{at}", identity=f"{at:032x}", rack=f"r{at % 2}")
    for at in range(4)
)
PROFILE = Profile(2, 1)
TERMS = ReleaseTerms(grace_ms=100, hot_retention_ms=0)


def encoding(number: int) -> str:
    """Return the uuid of a test's encoding."""
    return f"{number:032x}"


def plan_of(
    number: int, *, base: int = 0, end: int = 10, topic: bytes = TOPIC, nodes: str = "012"
) -> EncodePlan:
    """Return a plan for offsets of partition 0; `nodes` are the digits of their names."""
    return EncodePlan(
        key=SegmentKey(topic, 0, base), encoding=encoding(number), profile=PROFILE,
        next_offset=end, source_bytes=1000, min_timestamp_ms=1, max_timestamp_ms=2,
        nodes=tuple(f"n{digit}" for digit in nodes),
    )  # fmt: skip


def proof_of(generation: Generation) -> Proof:
    """Return the proof that allows a commit."""
    checks = tuple(ChunkCheck(index, node, True) for index, node in generation.held.items())
    return Proof(checks, data_chunk_to_decode(generation), True)


def check_of(generation: Generation, *, now_ms: int) -> ReleaseCheck:
    """Return the check that allows a release now."""
    return ReleaseCheck(checks=proof_of(generation).checks, began_ms=now_ms, ended_ms=now_ms)


def find(cold: ColdCatalog, number: int) -> Generation | None:
    """Return the generation of a test's encoding."""
    return next((each for each in cold.generations() if each.encoding == encoding(number)), None)


def state_of(cold: ColdCatalog, number: int) -> ColdState:
    """Return the state of a test's encoding; GONE where there is none."""
    found = find(cold, number)
    return ColdState.GONE if found is None else found.state


def commit(cold: ColdCatalog, number: int, *, superseded: tuple[int, ...] = ()) -> Generation:
    """Commit a planned encoding at 1000 ms."""
    found = find(cold, number)
    assert found is not None
    cold.commit(
        [Commit(found.encoding, b"manifest", proof_of(found))],
        superseded=[encoding(each) for each in superseded],
        now_ms=1000,
    )
    return replace(found, state=ColdState.COMMITTED, changed_ms=1000)


def release(cold: ColdCatalog, number: int, *, now_ms: int = 5000) -> None:
    """Release a committed encoding."""
    found = find(cold, number)
    assert found is not None
    cold.release(found.encoding, check_of(found, now_ms=now_ms), TERMS, now_ms=now_ms)


class ColdCatalogContract:
    """The tests; `catalog` has the live topic TOPIC and four nodes, n0 to n3."""

    def make(self, directory: str) -> SqliteCatalog:
        """Return a new, empty catalog of cluster "cluster"."""
        raise AssertionError("each implementation has its own")

    @pytest.fixture
    def catalog(self, directory: str) -> SqliteCatalog:
        """A catalog with a topic and nodes."""
        catalog = self.make(directory)
        catalog.create_topic("topic", TOPIC, 3, {})
        for node in NODES:
            catalog.cold.add_node(node)
        return catalog

    @pytest.fixture
    def cold(self, catalog: SqliteCatalog) -> ColdCatalog:
        """Its cold part."""
        return catalog.cold

    def test_nodes_come_back_as_they_were_added(self, cold: ColdCatalog) -> None:
        """By name, with all they have; a change replaces place, rack and state."""
        assert cold.nodes() == list(NODES)
        moved = replace(NODES[1], place="http://h:1", rack=None, state=NodeState.DRAINING)
        cold.change_node(moved)
        assert cold.nodes() == [NODES[0], moved, *NODES[2:]]

    def test_another_disk_takes_a_node_s_name(self, cold: ColdCatalog) -> None:
        """Its chunks keep their places; what was to be removed there is gone with the old disk."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.place_chunk(encoding(1), index=0, node="n3")
        new = replace(NODES[0], place="/new", identity="e" * 32)
        cold.replace_node(new)
        assert cold.nodes() == [new, *NODES[1:]]
        found = find(cold, 1)
        assert found is not None
        assert found.held == {0: "n3", 1: "n1", 2: "n2"}
        assert not found.leaving_nodes
        cold.replace_node(replace(NODES[1], identity="d" * 32))
        found = find(cold, 1)
        assert found is not None
        assert found.held[1] == "n1"
        for refused in (
            replace(new, name="stranger"),
            replace(NODES[2], place="/new"),
            replace(NODES[2], identity="e" * 32),
        ):
            with pytest.raises(NodeRefusedError):
                cold.replace_node(refused)

    @pytest.mark.parametrize("field", ["name", "place", "identity"])
    def test_a_node_is_there_once(self, cold: ColdCatalog, field: str) -> None:
        """Name, place and identity are one node's each; nothing changes where they are not."""
        new = StorageNode(name="new", place="/new", identity="f" * 32)
        taken = replace(new, **{field: getattr(NODES[0], field)})
        with pytest.raises(NodeRefusedError, match=taken.name):
            cold.add_node(taken)
        assert cold.nodes() == list(NODES)

    def test_another_disk_under_a_nodes_name_is_not_changed_to(self, cold: ColdCatalog) -> None:
        """A node is its identity; who comes with another one is refused, and so is a stranger."""
        for node in (replace(NODES[0], identity="f" * 32), replace(NODES[0], name="stranger")):
            with pytest.raises(NodeRefusedError):
                cold.change_node(node)
        with pytest.raises(NodeRefusedError):
            cold.change_node(replace(NODES[0], place=NODES[1].place))
        assert cold.nodes() == list(NODES)

    def test_single_generations_are_found(self, cold: ColdCatalog) -> None:
        """As they are among all, in the order asked for; what there is not is left out."""
        for number in (1, 2, 3):
            cold.plan(plan_of(number, base=10 * number, end=10 * number + 10), now_ms=0)
        first, second, third = cold.generations()
        asked = [third.encoding, encoding(9), first.encoding]
        assert cold.find(asked) == [third, first]
        assert cold.find([second.encoding]) == [second]
        assert cold.find([]) == []

    def test_the_way_of_a_segment(self, cold: ColdCatalog) -> None:
        """Planned, committed, released, thawed, released, deleted, gone: as recorded each time."""
        planned = cold.plan(plan_of(1), now_ms=7)
        assert cold.generations() == [planned]
        assert (planned.number, planned.state, planned.changed_ms) == (1, ColdState.PLANNED, 7)
        assert planned.held == {0: "n0", 1: "n1", 2: "n2"}
        assert cold.manifest(encoding(1)) is None
        assert cold.generations() == [planned]
        committed = commit(cold, 1)
        assert cold.generations() == [committed]
        assert cold.manifest(encoding(1)) == b"manifest"
        release(cold, 1, now_ms=1100)
        assert state_of(cold, 1) is ColdState.RELEASED
        cold.thaw(encoding(1), HotCopy(1000, True, True), now_ms=2000)
        thawed = find(cold, 1)
        assert thawed is not None
        assert (thawed.state, thawed.is_held, thawed.changed_ms) == (
            ColdState.COMMITTED, True, 2000,
        )  # fmt: skip
        cold.end_hold(encoding(1))
        release(cold, 1, now_ms=2100)
        cold.delete_segments([SegmentKey(TOPIC, 0, 0)], now_ms=3000)
        assert state_of(cold, 1) is ColdState.DELETING
        for index, is_last in ((2, False), (0, False), (1, True)):
            assert cold.chunk_removed(encoding(1), index=index, node=f"n{index}") is is_last
        assert cold.generations() == []
        assert cold.manifest(encoding(1)) is None
        assert not cold.chunk_removed(encoding(1), index=1, node="n1")

    def test_each_change_is_counted(self, catalog: SqliteCatalog) -> None:
        """The sequence grows with every move, and with nothing else."""
        cold = catalog.cold
        seen = [cold.sequence()]
        cold.plan(plan_of(1), now_ms=0)
        seen.append(cold.sequence())
        commit(cold, 1)
        seen.append(cold.sequence())
        catalog.mark_deleting(TOPIC)
        seen.append(cold.sequence())
        cold.chunk_removed(encoding(1), index=0, node="n0")
        seen.append(cold.sequence())
        assert seen == sorted(set(seen))
        cold.generations()
        cold.nodes()
        cold.manifest(encoding(1))
        catalog.create_topic("other", OTHER, 1, {})
        with pytest.raises(ColdStateError):
            cold.plan(plan_of(1), now_ms=0)
        assert cold.sequence() == seen[-1]

    def test_a_number_is_given_once(self, cold: ColdCatalog) -> None:
        """After an abort, even when its chunks are gone, the next number is higher."""
        cold.plan(plan_of(1), now_ms=0)
        cold.abort(encoding(1), now_ms=0)
        assert cold.plan(plan_of(2), now_ms=0).number == 2
        cold.abort(encoding(2), now_ms=0)
        for number in (1, 2):
            for index in range(3):
                cold.chunk_removed(encoding(number), index=index, node=f"n{index}")
        assert cold.generations() == []
        assert cold.plan(plan_of(3), now_ms=0).number == 3

    def test_a_wider_segment_is_numbered_above_those_in_it(self, cold: ColdCatalog) -> None:
        """So that the chunks alone tell which came last."""
        for number, base in ((1, 0), (2, 10), (3, 20)):
            cold.plan(plan_of(number, base=base, end=base + 10), now_ms=0)
            commit(cold, number)
        cold.plan(plan_of(4, base=10, end=20), now_ms=0)
        commit(cold, 4, superseded=(2,))
        assert cold.plan(plan_of(5, base=0, end=20), now_ms=0).number == 3
        assert cold.plan(plan_of(6, base=20, end=30), now_ms=0).number == 2

    def test_one_plan_a_segment(self, cold: ColdCatalog) -> None:
        """Two encoders of one segment do not both get a record; nor does one encoding twice."""
        cold.plan(plan_of(1), now_ms=0)
        with pytest.raises(ColdStateError):
            cold.plan(plan_of(2), now_ms=0)
        with pytest.raises(ColdStateError):
            cold.plan(plan_of(1, base=50, end=60), now_ms=0)
        assert len(cold.generations()) == 1

    def test_no_plan_for_what_is_not_there(self, catalog: SqliteCatalog) -> None:
        """Topics that are unknown or being deleted, and unknown nodes, are refused."""
        with pytest.raises(ColdStateError):
            catalog.cold.plan(plan_of(1, topic=OTHER), now_ms=0)
        with pytest.raises(ColdStateError):
            catalog.cold.plan(plan_of(1, nodes="019"), now_ms=0)
        catalog.mark_deleting(TOPIC)
        with pytest.raises(ColdStateError, match="not live"):
            catalog.cold.plan(plan_of(1), now_ms=0)
        assert catalog.cold.generations() == []

    def test_nothing_commits_unproved(self, cold: ColdCatalog) -> None:
        """A wrong chunk, a missing one, another node's, the wrong decode: still planned."""
        planned = cold.plan(plan_of(1), now_ms=0)
        good = proof_of(planned)
        bad = [
            replace(good, checks=good.checks[1:]),
            replace(good, checks=(replace(good.checks[0], is_right=False), *good.checks[1:])),
            replace(good, checks=(replace(good.checks[0], node="n3"), *good.checks[1:])),
            replace(good, decode_is_equal=False),
            replace(good, decoded_without=good.decoded_without + 1),
        ]
        for proof in bad:
            with pytest.raises(ColdStateError):
                cold.commit([Commit(encoding(1), b"manifest", proof)], now_ms=1)
        assert cold.generations() == [planned]

    def test_a_chunk_that_moved_after_the_check_stops_the_release(self, cold: ColdCatalog) -> None:
        """The check is held against the places of the moment that is recorded."""
        cold.plan(plan_of(1), now_ms=0)
        committed = commit(cold, 1)
        check = check_of(committed, now_ms=5000)
        cold.place_chunk(encoding(1), index=1, node="n3")
        with pytest.raises(ColdStateError, match="1 on n3"):
            cold.release(encoding(1), check, TERMS, now_ms=5000)
        assert state_of(cold, 1) is ColdState.COMMITTED

    def test_a_release_needs_its_time_and_its_nodes(self, cold: ColdCatalog) -> None:
        """Before the grace is over, with an old check, or with a node that is away: refused."""
        cold.plan(plan_of(1), now_ms=0)
        committed = commit(cold, 1)
        for check, now_ms in (
            (check_of(committed, now_ms=1099), 1099),
            (check_of(committed, now_ms=1099), 1200),
            (check_of(committed, now_ms=1100), 1100 + 60_001),
            (replace(check_of(committed, now_ms=1100), nodes_not_live=("n0",)), 1100),
        ):
            with pytest.raises(ColdStateError):
                cold.release(encoding(1), check, TERMS, now_ms=now_ms)
        cold.release(encoding(1), check_of(committed, now_ms=1100), TERMS, now_ms=1100)

    def test_a_thawed_segment_is_held(self, cold: ColdCatalog) -> None:
        """A bad copy is not recorded; a good one stays until its time, or until it is let go."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        release(cold, 1)
        for copy in (HotCopy(999, True, True), HotCopy(1000, False, True), HotCopy(1000, True, 0)):
            with pytest.raises(ColdStateError):
                cold.thaw(encoding(1), copy, now_ms=6000)
        cold.thaw(encoding(1), HotCopy(1000, True, True), now_ms=6000)
        with pytest.raises(ColdStateError, match="held"):
            release(cold, 1, now_ms=10**9)
        cold.end_hold(encoding(1))
        release(cold, 1, now_ms=10**9)

    def test_coded_again(self, cold: ColdCatalog) -> None:
        """The old generation gives way in the step that commits the new one, and goes when the new
        one is released; until then its chunks stay.
        """
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.plan(plan_of(2, nodes="312"), now_ms=0)
        with pytest.raises(ColdStateError):
            commit(cold, 2)
        assert (state_of(cold, 1), state_of(cold, 2)) == (ColdState.COMMITTED, ColdState.PLANNED)
        commit(cold, 2, superseded=(1,))
        assert (state_of(cold, 1), state_of(cold, 2)) == (ColdState.SUPERSEDED, ColdState.COMMITTED)
        with pytest.raises(ColdStateError, match="not proved again"):
            cold.drop_superseded(encoding(1), has_hot_log=False, now_ms=0)
        release(cold, 2)
        cold.drop_superseded(encoding(1), has_hot_log=False, now_ms=0)
        assert state_of(cold, 1) is ColdState.DELETING

    def test_two_segments_become_one(self, cold: ColdCatalog) -> None:
        """What compaction will do: overlaps are refused until both are superseded."""
        for number, base in ((1, 0), (2, 10)):
            cold.plan(plan_of(number, base=base, end=base + 10), now_ms=0)
            commit(cold, number)
        cold.plan(plan_of(3, base=0, end=20), now_ms=0)
        with pytest.raises(ColdStateError, match="has its offsets"):
            commit(cold, 3, superseded=(1,))
        commit(cold, 3, superseded=(1, 2))
        assert [each.state for each in cold.generations()] == [
            ColdState.SUPERSEDED, ColdState.COMMITTED, ColdState.SUPERSEDED,
        ]  # fmt: skip
        cold.drop_superseded(encoding(2), has_hot_log=True, now_ms=0)

    def test_a_deleted_topic_takes_its_chunks_along(self, catalog: SqliteCatalog) -> None:
        """Marked in the same step; the topic is remembered until the last chunk is gone."""
        cold = catalog.cold
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.plan(plan_of(2, base=10, end=20), now_ms=0)
        catalog.mark_deleting(TOPIC)
        assert (state_of(cold, 1), state_of(cold, 2)) == (ColdState.DELETING, ColdState.ABORTED)
        catalog.mark_deleting(TOPIC)
        catalog.create_topic("topic", OTHER, 1, {})
        catalog.forget_topic(TOPIC)
        assert [row.topic_id for row in catalog.topics()] == [OTHER, TOPIC]
        for number in (1, 2):
            for index in range(3):
                cold.chunk_removed(encoding(number), index=index, node=f"n{index}")
        catalog.forget_topic(TOPIC)
        assert [row.topic_id for row in catalog.topics()] == [OTHER]

    def test_a_chunk_moves(self, cold: ColdCatalog) -> None:
        """The old copy is leaving until its node says that it is gone; it may come back."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.place_chunk(encoding(1), index=1, node="n3")
        moved = find(cold, 1)
        assert moved is not None
        assert moved.placements == (
            Placement(0, "n0"), Placement(1, "n1", True), Placement(1, "n3"), Placement(2, "n2"),
        )  # fmt: skip
        with pytest.raises(ColdStateError):
            cold.place_chunk(encoding(1), index=0, node="n3")
        with pytest.raises(ColdStateError, match="not to be removed"):
            cold.chunk_removed(encoding(1), index=1, node="n3")
        cold.place_chunk(encoding(1), index=1, node="n1")
        cold.chunk_removed(encoding(1), index=1, node="n3")
        back = find(cold, 1)
        assert back is not None
        assert back.held == {0: "n0", 1: "n1", 2: "n2"}
        assert len(back.placements) == 3

    def test_chunks_of_what_goes_are_not_moved(self, cold: ColdCatalog) -> None:
        """Nor is there a place for a chunk, or a generation, that does not exist."""
        cold.plan(plan_of(1), now_ms=0)
        with pytest.raises(ColdStateError):
            cold.place_chunk(encoding(1), index=3, node="n3")
        with pytest.raises(ColdStateError):
            cold.place_chunk(encoding(1), index=1, node="stranger")
        with pytest.raises(ColdStateError):
            cold.place_chunk(encoding(9), index=1, node="n3")
        cold.abort(encoding(1), now_ms=0)
        with pytest.raises(ColdStateError):
            cold.place_chunk(encoding(1), index=1, node="n3")

    def test_a_node_is_renamed_with_its_places(self, cold: ColdCatalog) -> None:
        """Every placement follows, of whatever state; a wrong name or identity is refused."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.place_chunk(encoding(1), index=0, node="n3")
        before = {node.name: node for node in cold.nodes()}
        sequence = cold.sequence()
        cold.rename_node("n0", replace(before["n0"], name="x", place="/elsewhere"))
        assert cold.sequence() == sequence + 1
        assert [node.name for node in cold.nodes()] == ["n1", "n2", "n3", "x"]
        [generation] = cold.generations()
        places = {(at.index, at.node, at.is_leaving) for at in generation.placements}
        assert places == {(0, "x", True), (0, "n3", False), (1, "n1", False), (2, "n2", False)}
        for old, record in (
            ("x", replace(before["n0"], name="n1")),
            ("n0", replace(before["n0"], name="y")),
            ("x", replace(before["n1"], name="y")),
        ):
            with pytest.raises(NodeRefusedError):
                cold.rename_node(old, record)
        assert [node.name for node in cold.nodes()] == ["n1", "n2", "n3", "x"]

    def test_a_node_with_chunks_is_not_removed(self, cold: ColdCatalog) -> None:
        """Where it only has what was to be removed, that is given up; then generations are gone."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.place_chunk(encoding(1), index=1, node="n3")
        with pytest.raises(NodeRefusedError, match="1 chunks"):
            cold.remove_node("n0")
        cold.remove_node("n1")
        with pytest.raises(NodeRefusedError):
            cold.remove_node("n1")
        cold.delete_segments([SegmentKey(TOPIC, 0, 0)], now_ms=0)
        for name in ("n0", "n2", "n3"):
            cold.remove_node(name)
        assert cold.generations() == []
        assert cold.nodes() == []

    def test_grace_begins_anew_where_the_clock_was_ahead(self, cold: ColdCatalog) -> None:
        """Of what is committed, and only back: what was committed before now had its grace."""
        cold.plan(plan_of(1), now_ms=0)
        with pytest.raises(ColdStateError):
            cold.begin_grace(encoding(1), now_ms=0)
        committed_ms = commit(cold, 1).changed_ms
        with pytest.raises(ColdStateError):
            cold.begin_grace(encoding(1), now_ms=committed_ms)
        cold.begin_grace(encoding(1), now_ms=committed_ms - 1)
        found = find(cold, 1)
        assert found is not None
        assert (found.state, found.changed_ms) == (ColdState.COMMITTED, committed_ms - 1)

    def test_what_is_gone_is_remembered(self, cold: ColdCatalog) -> None:
        """What was aborted or deleted, by whatever its last chunk went; nothing before that."""
        cold.plan(plan_of(1), now_ms=0)
        cold.abort(encoding(1), now_ms=0)
        for index in range(3):
            assert cold.gone(encoding(1)) is None
            cold.chunk_removed(encoding(1), index=index, node=f"n{index}")
        assert cold.gone(encoding(1)) == Gone(SegmentKey(TOPIC, 0, 0), 1)
        cold.plan(plan_of(2, base=10, end=20), now_ms=0)
        commit(cold, 2)
        cold.delete_segments([SegmentKey(TOPIC, 0, 10)], now_ms=0)
        for name in ("n0", "n1", "n2"):
            assert cold.gone(encoding(2)) is None
            cold.remove_node(name)
        assert cold.gone(encoding(2)) == Gone(SegmentKey(TOPIC, 0, 10), 1)
        assert cold.gone(encoding(3)) is None

    def test_retention_takes_all_generations(self, cold: ColdCatalog) -> None:
        """Of the segments named, whatever their state; others stay, unknown ones are no error."""
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.plan(plan_of(2), now_ms=0)
        cold.plan(plan_of(3, base=10, end=20), now_ms=0)
        keys = [SegmentKey(TOPIC, 0, 0), SegmentKey(TOPIC, 0, 77)]
        cold.delete_segments(keys, now_ms=0)
        cold.delete_segments(keys, now_ms=0)
        assert [state_of(cold, number) for number in (1, 2, 3)] == [
            ColdState.DELETING, ColdState.ABORTED, ColdState.PLANNED,
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "call",
        [
            lambda cold: cold.abort(encoding(1), now_ms=0),
            lambda cold: release(cold, 1, now_ms=10**6),
            lambda cold: cold.thaw(encoding(1), HotCopy(1000, True, True), now_ms=0),
            lambda cold: cold.drop_superseded(encoding(1), has_hot_log=True, now_ms=0),
            lambda cold: commit(cold, 1),
        ],
    )
    def test_a_move_out_of_turn_is_refused(self, cold: ColdCatalog, call: object) -> None:
        """What is DELETING does not come back by any of the moves; unknown ones are refused."""
        assert callable(call)
        cold.plan(plan_of(1), now_ms=0)
        commit(cold, 1)
        cold.delete_segments([SegmentKey(TOPIC, 0, 0)], now_ms=0)
        with pytest.raises(ColdStateError):
            call(cold)
        assert state_of(cold, 1) is ColdState.DELETING

    def test_restoring_what_was_found(self, cold: ColdCatalog, tmp_path: object) -> None:
        """An empty catalog takes nodes and generations over; one that knows something refuses."""
        with pytest.raises(ColdStateError):
            cold.restore(NODES, [], sequence=9, now_ms=0)
        for node in NODES:
            cold.remove_node(node.name)
        found = Generation(
            key=SegmentKey(TOPIC, 0, 0), number=5, encoding=encoding(1), profile=PROFILE,
            next_offset=10, source_bytes=7, state=ColdState.RELEASED,
            placements=(Placement(0, "n0"), Placement(2, "n1")),
        )  # fmt: skip
        clash = replace(found, key=SegmentKey(TOPIC, 0, 9), encoding=encoding(2), next_offset=20)
        both = [(found, b"manifest"), (clash, b"manifest")]
        with pytest.raises(ColdStateError, match="has its offsets"):
            cold.restore(NODES, both, sequence=900, now_ms=77)
        assert cold.nodes() == []
        cold.restore(NODES, both[:1], sequence=900, now_ms=77)
        assert cold.generations() == [replace(found, changed_ms=77)]
        assert cold.sequence() >= 900
        assert cold.plan(plan_of(3), now_ms=0).number == 6
