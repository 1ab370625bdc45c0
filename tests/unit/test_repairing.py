"""Repair as it is carried out: chunks come back byte for byte, in their order, and say why not."""

from __future__ import annotations

import os

import pytest
import trio
from trio.testing import MockClock

from ec.errors import ChunkDamagedError
from logd.errors import NodeRefusedError
from logd.policy.cold.leases import Work
from logd.policy.cold.moves import Move
from logd.policy.cold.values import NodeState
from logd.policy.node_health import NodeHealth
from tests.contract.check_store import SAMPLE
from tests.unit.repair_rig import DELAY_MS, RepairRig

DEAD, LIVE, SUSPECT = NodeHealth.DEAD, NodeHealth.LIVE, NodeHealth.SUSPECT


@pytest.fixture
def rig(directory: str) -> RepairRig:
    """Seven nodes."""

    return RepairRig(directory)


async def test_a_dead_node_s_chunks_are_made_elsewhere_after_the_delay(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """One lost chunk of 4+2 is margin 1: a minute, not less; k read and one written."""
    one = rig.code("abcdef")
    async with rig.running():
        await trio.sleep(5)
        rig.nodes.set_health("b", DEAD)
        took_s = await rig.wait_for(lambda: rig.now(one.encoding).held[1] == "g")
        assert DELAY_MS / 15_000 <= took_s < DELAY_MS / 15_000 + 2
        sample = rig.samples[one.encoding]
        assert rig.nodes["g"].files[sample.ids[1].name] == sample.files[1]
        payload = len(sample.payloads[1])
        read = sum(node.read_bytes for node in rig.nodes.by_name.values())
        assert 4 * payload - 4 * 7_001 <= read <= 4 * payload + 4 * 7_001
        assert rig.nodes["g"].written_bytes == len(sample.files[1])
        # The old copy goes when its node is back, not before.
        assert sample.ids[1].name in rig.nodes["b"].files
        rig.nodes.set_health("b", LIVE)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()


async def test_margin_0_is_repaired_at_once_and_first(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Two of six lost: no delay; the other segment waits for its minute."""
    twice, once = rig.code("abcdef"), rig.code("acdefg")
    rig.nodes.set_health("b", DEAD)
    rig.nodes.set_health("g", LIVE)
    rig.lose(twice, 2)
    async with rig.running():
        took_s = await rig.wait_for(lambda: rig.now(twice.encoding).held[1] == "g")
        assert took_s < 5
        rig.nodes.set_health("b", LIVE)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()
    assert once.encoding in rig.samples


async def test_what_is_missing_or_rotten_on_a_good_node_is_made_in_place(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Both in one pass, and every finding is kept as mended."""
    one = rig.code("abcdef")
    rig.lose(one, 0)
    rig.rot(one, 5)
    rig.findings.note(
        rig.place(one, 5), ChunkDamagedError("c", region="payload", position=0, reason="rotten")
    )
    async with rig.running():
        await rig.wait_for(lambda: not rig.health.unmended() and rig.is_whole(), seconds=30)
    rig.check_whole()
    assert rig.now(one.encoding).held == one.held
    assert sorted(
        (each.place.index, each.state.value, each.mended_ms is not None)
        for each in rig.health.records()
    ) == [(0, "missing", True), (5, "corrupt", True)]


async def test_a_rotten_block_that_a_read_met_is_mended_within_ten_seconds(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """It waits for none of the delays: what is rotten does not come back by itself."""
    one = rig.code("abcdef")
    async with rig.running():
        await trio.sleep(60)  # Nobody scrubs any more.
        rig.rot(one, 1)
        rig.findings.note(
            rig.place(one, 1), ChunkDamagedError("c", region="payload", position=0, reason="rotten")
        )
        assert rig.health.unmended()
        await rig.wait_for(lambda: not rig.health.unmended() and rig.is_whole(), seconds=10)
    rig.check_whole()


async def test_a_node_that_returns_cancels_its_repair(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Dead for half a minute: nothing was made, nothing is queued."""
    one = rig.code("abcdef")
    async with rig.running():
        rig.nodes.set_health("b", DEAD)
        await trio.sleep(30)
        (item,) = rig.repairer.plan().items
        assert item.state == "delay"
        rig.nodes.set_health("b", LIVE)
        await trio.sleep(600)
    assert rig.repairer.plan().items == ()
    assert rig.now(one.encoding).held == one.held
    assert rig.nodes["g"].files == {}


async def test_a_repair_under_way_is_cancelled_when_the_node_returns(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """The half-made chunk leaves nothing."""
    one = rig.code("abcdef", size=5_000_000)
    for node in rig.nodes.by_name.values():
        node.delay_s = 3.0
    async with rig.running():
        rig.nodes.set_health("b", DEAD)
        await rig.wait_for(lambda: bool(rig.nodes["g"].writing))
        rig.nodes.set_health("b", LIVE)
        await rig.wait_for(lambda: not rig.repairer.running, seconds=60)
    assert rig.now(one.encoding).held == one.held
    rig.check_whole()


async def test_silence_and_open_breakers_are_not_repaired(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A suspect node and a refused one for an hour: nothing is made, the margins are uncertain."""
    rig.code("abcdef")
    rig.nodes.set_health("a", SUSPECT)
    rig.nodes.refused.add("b")
    async with rig.running():
        await trio.sleep(3600)
        assert rig.repairer.plan().items == ()
        counts = rig.health.counts()
        assert (counts.below_target, counts.uncertain) == (0, 1)


async def test_bad_survivors_are_found_named_and_mended(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A node dies; a survivor turns out rotten: both come back, the healthy are not blamed."""
    one = rig.code("abcdef")
    rig.rot(one, 2)
    rig.nodes.set_health("b", DEAD)
    async with rig.running():
        await rig.wait_for(lambda: rig.now(one.encoding).held[1] == "g")
        await rig.wait_for(lambda: not rig.health.unmended())
        rig.nodes.set_health("b", LIVE)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()
    assert {each.place.index for each in rig.health.records()} == {2}


async def test_a_lying_helper_is_left_out(rig: RepairRig, autojump_clock: MockClock) -> None:
    """A node that hands out another encoding's chunk under the name: found by its identity."""
    one, other = rig.code("abcdef"), rig.code("bcdefg")
    names = [rig.samples[each.encoding].ids[0].name for each in (one, other)]
    rig.nodes["a"].files[names[0]] = rig.nodes["b"].files[names[1]]
    rig.nodes.set_health("c", DEAD)
    async with rig.running():
        await rig.wait_for(lambda: not rig.health.unmended() and rig.repairer.counts.made >= 2)
    sample = rig.samples[one.encoding]
    assert rig.nodes["a"].files[names[0]] == sample.files[0]
    assert [each.place.node for each in rig.health.records()] == ["a"]


async def test_with_exactly_k_plus_m_nodes_it_waits_and_says_why(
    directory: str, autojump_clock: MockClock
) -> None:
    """No target; margins say so; the segment is served meanwhile. An empty node ends it."""

    rig = RepairRig(directory, names="abcdef")
    one = rig.code("abcdef")
    async with rig.running():
        rig.nodes.set_health("b", DEAD)
        await trio.sleep(3600)
        (item,) = rig.repairer.plan().items
        assert item.state == "no-target"
        assert "of 6 nodes 5 keep its other chunks" in item.reason
        # The same name with an empty disk, as `node replace` makes it.
        rig.nodes["b"].files.clear()
        rig.nodes.set_health("b", LIVE)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()
    assert rig.now(one.encoding).held == one.held


async def test_one_unrecoverable_segment_blocks_no_other(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Three of six lost; the other loses one and has it back."""
    gone, fine = rig.code("abcdef"), rig.code("defgab")
    for index in (0, 1, 2):
        rig.lose(gone, index)
    rig.lose(fine, 3)
    async with rig.running():
        await rig.wait_for(lambda: rig.repairer.counts.made == 1)
        await trio.sleep(120)
    sample = rig.samples[fine.encoding]
    assert rig.nodes["g"].files[sample.ids[3].name] == sample.files[3]
    (item,) = rig.repairer.plan().items
    assert (item.state, item.encoding) == ("unrecoverable", gone.encoding)
    assert rig.health.counts().lost == 1


async def test_a_drain_empties_the_node_chunk_by_chunk(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Each copied once, the old copies removed, the node removed after."""
    for names in ("abcdef", "bacdef", "cdefga"):
        rig.code(names)
    async with rig.running():
        await rig.drain("a")
        await rig.wait_for(lambda: not rig.nodes["a"].files)
        assert rig.repairer.counts.made == 0
        rig.check_whole()
        with pytest.raises(AssertionError):
            assert "a" in {name for each in rig.tier.generations() for name in each.held.values()}
        await rig.remove("a")


async def test_a_drain_that_is_taken_back_stops(rig: RepairRig, autojump_clock: MockClock) -> None:
    """What moved stays moved, the rest stays where it is."""
    for _ in range(6):
        rig.code("abcdef", size=2_000_000)
    async with rig.running():
        for node in rig.nodes.by_name.values():
            node.delay_s = 0.2
        await rig.drain("a")
        await rig.wait_for(lambda: rig.repairer.counts.moved >= 2)
        await rig.drain("a", is_on=False)
        await trio.sleep(60)
        await rig.wait_for(rig.is_whole)
    assert 2 <= rig.repairer.counts.moved < 6
    rig.check_whole()


async def test_a_segment_that_others_work_on_is_left_alone(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Its item says who does; when the lease is back it is repaired."""
    one = rig.code("abcdef")
    lease = rig.tier.leases.take(Work.THAW, {one.key})
    assert lease is not None
    rig.nodes.set_health("a", DEAD)
    async with rig.running():
        await trio.sleep(300)
        (item,) = rig.repairer.plan().items
        assert (item.state, "thaw" in item.reason) == ("leased", True)
        rig.tier.leases.give_back(lease)
        await rig.wait_for(lambda: rig.now(one.encoding).held[0] == "g")


async def test_a_target_that_dies_while_written_is_left_for_another(
    directory: str, autojump_clock: MockClock
) -> None:
    """The failure holds the segment back for some seconds; the next plan takes the other node."""

    rig = RepairRig(directory, names="abcdefgh")
    one = rig.code("abcdef")
    died: list[str] = []

    def die(name: str) -> None:
        if not died:
            died.append(name)
            rig.nodes.set_health(name, DEAD)

    for name in "gh":
        rig.nodes[name].before = lambda call, name=name: die(name) if call == "finish" else None
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        await rig.wait_for(lambda: rig.now(one.encoding).held[0] in "gh")
    assert rig.now(one.encoding).held[0] != died[0]
    assert rig.repairer.counts.failed == 1


@pytest.mark.parametrize("call", ["write", "finish"])
@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("way", ["repair", "move"])
async def test_what_is_made_of_a_topic_that_is_deleted_meanwhile_goes_too(
    rig: RepairRig, autojump_clock: MockClock, call: str, is_told: bool, way: str
) -> None:
    """A deletion waits for no repair and for no move; no chunk turns up behind it as nobody's."""
    one = rig.code("abcdef")
    topic_id = one.key.topic_id
    is_deleted = trio.Event()

    def delete(named: str) -> None:
        if named == call and not is_deleted.is_set():
            rig.catalog.mark_deleting(topic_id)
            is_deleted.set()

    rig.nodes["g"].delay_s = 0.5
    rig.nodes["g"].before = delete
    async with rig.running():
        if way == "move":
            rig.repairer.add_moves([Move(one, 5, "f", "g")])
        else:
            rig.nodes.set_health("a", DEAD)
        await is_deleted.wait()
        if is_told:
            await rig.tier.topic_deleted(topic_id)
        await rig.wait_for(lambda: not rig.repairer.running and rig.repairer.moving is None)
        await rig.tier.topic_deleted(topic_id)
        rig.nodes.set_health("a", LIVE)
        await rig.wait_for(lambda: rig.tier.generations() == ())
        rig.inventory._due_s.clear()  # Every node is looked through once more.
        await trio.sleep(3)
    assert not any(node.files or node.quarantined for node in rig.nodes.by_name.values())


async def test_what_a_crash_left_of_a_topic_that_is_deleted_meanwhile_goes_too(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Made, and never recorded; its node is away until nothing is left of the generation. It goes
    when the node is back, as what a copy of an old disk brings does; what nobody knows stays aside.
    """
    one = rig.code("abcdef")
    sample, stranger = rig.samples[one.encoding], SAMPLE.ids[1]
    rig.nodes["g"].files[sample.ids[0].name] = sample.files[0]
    rig.nodes["g"].files[stranger.name] = SAMPLE.files[1]
    rig.nodes.set_health("g", DEAD)
    async with rig.running():
        rig.catalog.mark_deleting(one.key.topic_id)
        await rig.tier.topic_deleted(one.key.topic_id)
        await rig.wait_for(lambda: rig.tier.generations() == ())
        rig.nodes["f"].files[sample.ids[5].name] = sample.files[5]
        rig.nodes.set_health("g", LIVE)
        await trio.sleep(4000)  # All nodes are looked through again.
    assert not any(node.files for node in rig.nodes.by_name.values())
    aside = [name for node in rig.nodes.by_name.values() for name in node.quarantined]
    assert aside == [stranger.name]


async def test_a_full_target_says_so_and_blocks_nothing(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """No target until there is space."""
    one = rig.code("abcdef")
    rig.nodes["g"].free_bytes = 1000
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        await trio.sleep(600)
        (item,) = rig.repairer.plan().items
        assert item.state == "no-target"
        assert "g has 1000 B for chunks" in item.reason
        rig.nodes["g"].free_bytes = 2**30
        await rig.wait_for(lambda: rig.now(one.encoding).held[0] == "g")


async def test_a_chunk_that_a_crash_left_on_its_target_is_found_not_made(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Whole and without a place on record: it gets it, and nothing is read."""
    one = rig.code("abcdef")
    sample = rig.samples[one.encoding]
    rig.nodes["g"].files[sample.ids[0].name] = sample.files[0]
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        await rig.wait_for(lambda: rig.now(one.encoding).held[0] == "g")
        assert sum(node.read_bytes for node in rig.nodes.by_name.values()) == 0
        rig.nodes.set_health("a", LIVE)
        await rig.wait_for(rig.is_whole)
    rig.check_whole()


async def test_nothing_is_changed_while_the_catalog_is_an_old_copy(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """The plan is shown, nothing begins."""
    one = rig.code("abcdef")
    rig.nodes.stale = "the catalog is an old copy"
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        await trio.sleep(3600)
    assert rig.now(one.encoding).held == one.held
    assert len(rig.repairer.plan().items) == 1


async def test_moves_that_people_want_are_made_when_nothing_else_is(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """A repair goes first; a move that makes no sense any more is dropped."""
    one, two = rig.code("abcdef"), rig.code("abcdeg")
    rig.lose(two, 0)
    async with rig.running():
        rig.repairer.add_moves([Move(one, 5, "f", "g"), Move(two, 5, "x", "f")])
        await rig.wait_for(lambda: rig.now(one.encoding).held[5] == "g")
        await rig.wait_for(rig.is_whole)
        await rig.wait_for(lambda: not rig.repairer.moves and not len(rig.tier.leases))
    rig.check_whole()
    assert rig.repairer.counts.moved == 1


async def test_moves_that_are_not_made_are_told_of(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """One waits while its segment is worked on; one that fails is not called done."""
    one, two, three = rig.code("abcdef"), rig.code("abcdef"), rig.code("abcdef")
    lease = rig.tier.leases.take(Work.THAW, [one.key])
    assert lease is not None
    rig.rot(two, 5)
    async with rig.running():
        moves = [Move(one, 5, "f", "g"), Move(two, 5, "f", "g"), Move(three, 5, "f", "g")]
        rig.repairer.add_moves([Move(each.generation, 4, "e", "a") for each in moves[2:]] + moves)
        await rig.wait_for(lambda: rig.now(three.encoding).held[5] == "g")
        told = rig.moving.moves_document()
        assert (told["left"], told["made"], told["given_up"]) == (1, 1, 2)
        assert "a has a chunk of the segment by now" in told["reasons"][0]
        assert "does not fit its checksum" in told["reasons"][1]
        rig.tier.leases.give_back(lease)
        await rig.wait_for(lambda: rig.now(one.encoding).held[5] == "g", seconds=60)
        await rig.wait_for(rig.is_whole)
        assert rig.moving.moves_document()["made"] == 2
    rig.check_whole()


async def test_a_job_repairs_everything_now_and_tells_what_is_left(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Missing and corrupt chunks, without delays; what has too few is named; a second joins."""
    fine, gone = rig.code("abcdef"), rig.code("bcdefg")
    rig.lose(fine, 2)
    for index in (0, 1, 2):
        rig.lose(gone, index)
    async with rig.running():
        job, same = await rig.jobs.begin(), await rig.jobs.begin()
        assert job is same
        assert job is not None
        await rig.wait_for(lambda: job.is_done, seconds=30)
        document = job.as_document()
        assert (document["missing"], document["repaired"], document["failed"]) == (4, 1, 0)
        assert (document["state"], document["progress"]) == ("done", 1.0)
        (lost,) = document["unrecoverable"]
        assert (lost["topic"], lost["survivors"], lost["k"]) == ("sample", 3, 4)
        assert document["below_target"] == 1
        assert [item["state"] for item in document["left"]] == ["unrecoverable"]
        assert rig.jobs.job(job.id) is job
        assert rig.jobs.job(99) is None


async def test_a_job_waits_until_a_silent_node_is_dead(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """What nobody can see yet is neither lost nor there."""
    one = rig.code("abcdef")
    async with rig.running():
        await trio.sleep(5)
        rig.nodes["b"].answers = False
        job = await rig.jobs.begin()
        assert job is not None
        await trio.sleep(20)
        assert job.state == "looking"
        rig.nodes.set_health("b", DEAD)
        await rig.wait_for(lambda: job.is_done, seconds=30)
        assert rig.now(one.encoding).held[1] == "g"
        assert job.as_document()["below_target"] == 0


async def test_a_drain_that_cannot_end_changes_nothing(
    directory: str, autojump_clock: MockClock
) -> None:
    """Refused with the sum; with a spare node it begins, tells how far it is, and ends."""
    rig = RepairRig(directory, names="abcdef")
    rig.code("abcdef")
    async with rig.running():
        with pytest.raises(NodeRefusedError, match="5 live nodes would be left"):
            await rig.moving.drain("a")
        assert rig.nodes.node("a").state is NodeState.ACTIVE
    os.mkdir(f"{directory}/spare")
    spare = RepairRig(f"{directory}/spare", names="abcdefg")
    spare.code("abcdef")
    async with spare.running():
        await spare.moving.drain("a")
        await spare.wait_for(lambda: spare.moving.progress("a")["done"])
        assert spare.moving.progress("a")["state"] == "draining"
        await spare.moving.stop_draining("a")
        assert spare.nodes.node("a").state is NodeState.ACTIVE


async def test_the_rate_is_kept_and_measured(rig: RepairRig, autojump_clock: MockClock) -> None:
    """4 MiB a second for each node: so long it takes, and the end that is told is right."""
    rig.repairer._settings = type(rig.settings)(delay_ms=0, rate_bytes=4 * 1024 * 1024)
    segments = [rig.code("abcdef", size=40_000_000) for _ in range(2)]
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        began_s = trio.current_time()
        await rig.wait_for(lambda: rig.repairer.rate.weight_s > 1.5)
        eta = rig.repairer.eta(rig.repairer.plan()).total_s
        assert eta is not None
        told_s = trio.current_time() + eta - began_s
        await rig.wait_for(lambda: all(rig.now(each.encoding).held[0] == "g" for each in segments))
        took_s = trio.current_time() - began_s
    assert took_s == pytest.approx(20_000_000 / (4 * 1024 * 1024), rel=0.1)
    assert told_s == pytest.approx(took_s, rel=0.2)


@pytest.mark.parametrize(
    ("device", "rate_bytes", "budgets"),
    [("here:1", 0, 1), (None, 0, 6), ("here:1", 10_000_000, 6)],
)
async def test_nodes_of_one_device_share_half_of_it(
    rig: RepairRig, autojump_clock: MockClock, device: str | None, rate_bytes: int, budgets: int
) -> None:
    """Five are read, one is written; a rate that is set is each node's own."""
    rig.nodes.device = device
    rig.repairer._settings = type(rig.settings)(delay_ms=0, rate_bytes=rate_bytes)
    segment = rig.code("abcdef", size=200_000)
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        await rig.wait_for(lambda: rig.now(segment.encoding).held[0] == "g")
    assert len(rig.repairer._budgets) == budgets


async def test_the_end_is_foretold_where_repairs_are_short(
    rig: RepairRig, autojump_clock: MockClock
) -> None:
    """Twenty segments of less than a second each: after a fifth of them within 20 percent."""
    rig.repairer._settings = type(rig.settings)(delay_ms=0, rate_bytes=100_000)
    segments = [rig.code("abcdef", size=200_000) for _ in range(20)]
    async with rig.running():
        rig.nodes.set_health("a", DEAD)
        began_s = trio.current_time()
        await rig.wait_for(lambda: rig.repairer.counts.made >= 4)
        eta = rig.repairer.eta(rig.repairer.plan()).total_s
        assert eta is not None
        told_s, asked_s = eta, trio.current_time()
        await rig.wait_for(lambda: all(rig.now(each.encoding).held[0] == "g" for each in segments))
        took_s = trio.current_time() - asked_s
    assert asked_s - began_s > 1
    assert told_s == pytest.approx(took_s, rel=0.2)
