"""One segment is coded, or it is as it was: whatever nodes do, and wherever it is cut short."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from logd.cold.segment_errors import (
    AlreadyCodedError,
    ColdFailedError,
    NodesRefusedError,
    SegmentBusyError,
)
from logd.policy.cold.leases import Work
from logd.policy.cold.values import NodeState, SegmentKey
from tests.unit.life_rig import ColdRig
from tests.unit.log_builder import TOPIC_ID


async def coded_rig(directory: str, **changes: object) -> ColdRig:
    rig = ColdRig(directory)
    await rig.start(**changes)  # type: ignore[arg-type]  # Settings of all types, by name.
    return rig


def damage(rig: ColdRig, base: int) -> None:
    with open(f"{rig.directory}/t-0/{base:020d}.log", "r+b") as file:
        file.write(bytes(100))


async def test_a_segment_is_coded_and_proved(directory: str, autojump_clock: MockClock) -> None:
    """COMMITTED with six chunks on six nodes, each right, that give the segment back."""
    rig = await coded_rig(directory)
    base = rig.bases[1]
    generation = await rig.life.encoder.encode(rig.partition, base)
    assert rig.states() == ["committed"]
    assert sorted(generation.held.values()) == list("abcdef")
    assert len(rig.chunk_names()) == 6
    assert await rig.cold_bytes(generation) == rig.originals[base]
    assert generation.source_bytes == len(rig.originals[base])
    assert generation.next_offset == rig.bases[2]
    manifest = await rig.tier.manifest(generation.encoding)
    assert manifest.first_batches[0] is not None
    assert manifest.first_batches[0].offset == base
    assert rig.hot() == rig.bases
    assert rig.tier.holdings.lengths(generation.encoding) is not None
    assert not len(rig.tier.leases)


async def test_cuts_lie_at_batches(directory: str, autojump_clock: MockClock) -> None:
    """With small batches each data chunk begins with one, and the manifest names it."""
    rig = await coded_rig(directory)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    manifest = await rig.tier.manifest(generation.encoding)
    source = rig.log.segment_source(rig.bases[0])
    batches = source.batches_near(0, source.size_bytes)
    for cut, first in zip(manifest.cuts, manifest.first_batches, strict=False):
        assert first is not None
        assert (first.position, first.offset) in batches
        assert first.position >= cut
    assert sum(first.position == cut for cut, first in zip(
        manifest.cuts, manifest.first_batches, strict=False) if first) == 4  # fmt: skip


async def test_the_second_encoder_is_refused(directory: str, autojump_clock: MockClock) -> None:
    """Of two that want one segment, one codes it and the other has no lease, nor a record."""
    rig = await coded_rig(directory)
    rig.life.encoder._slots = trio.Semaphore(2)
    base = rig.bases[0]
    outcomes: list[str] = []

    async def encode() -> None:
        try:
            await rig.life.encoder.encode(rig.partition, base)
            outcomes.append("coded")
        except SegmentBusyError:
            outcomes.append("busy")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(encode)
        nursery.start_soon(encode)
    assert sorted(outcomes) == ["busy", "coded"]
    # Who comes later is told so, before anything is recorded.
    with pytest.raises(AlreadyCodedError):
        await rig.life.encoder.encode(rig.partition, base)
    assert rig.states() == ["committed"]


async def test_who_waited_for_a_slot_looks_again(directory: str, autojump_clock: MockClock) -> None:
    """Of three who want one segment and have one slot, one codes it; the others write nothing."""
    rig = await coded_rig(directory)
    rig.life.encoder._slots = trio.Semaphore(1)
    refused: list[Exception] = []

    async def encode() -> None:
        try:
            await rig.life.encoder.encode(rig.partition, rig.bases[0])
        except AlreadyCodedError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(encode)
    assert len(refused) == 2
    assert rig.states() == ["committed"]


async def test_too_few_nodes_are_refused_with_the_sum(
    directory: str, autojump_clock: MockClock
) -> None:
    """Nothing is recorded, nothing written; the reason names who is left out and why."""
    rig = await coded_rig(directory)
    rig.nodes.set_live("b", is_live=False)
    rig.nodes.states["c"] = NodeState.DRAINING
    rig.nodes["d"].free_bytes = 10
    rig.nodes.breakers["e"] = "open"
    with pytest.raises(NodesRefusedError) as caught:
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
    for words in ("4+2 needs 6 nodes", "b is dead", "c is draining", "d has 10", "e is not asked"):
        assert words in str(caught.value)
    assert rig.states() == []
    assert rig.chunk_names() == []


@pytest.mark.parametrize("mode", ["dead", "full"])
async def test_a_bad_node_ends_the_encoding(
    directory: str, autojump_clock: MockClock, mode: str
) -> None:
    """What was written is removed, and the next attempt leaves that node out where it can."""
    rig = ColdRig(directory, names="abcdefg")
    await rig.start(segments=1)
    base, bad = rig.bases[0], rig.nodes["c"]
    rig.nodes.set_live("g", is_live=False)
    bad.mode = mode
    with pytest.raises(ColdFailedError):
        await rig.life.encoder.encode(rig.partition, base)
    assert rig.states() == ["aborted"]
    assert not len(rig.tier.leases)
    rig.nodes.set_live("g", is_live=True)
    bad.mode, bad.free_bytes = "well", 2**40
    generation = await rig.life.encoder.encode(rig.partition, base)
    assert "c" not in generation.held.values()
    await rig.life.removal.run_once()
    assert len(rig.chunk_names()) == 6
    assert await rig.cold_bytes(generation) == rig.originals[base]


async def test_a_node_that_lies_is_found_out(directory: str, autojump_clock: MockClock) -> None:
    """Other bytes than were acknowledged: the proof fails, or, of the two chunks that it has no use
    for, the check before the release."""
    rig = await coded_rig(directory)
    rig.nodes["c"].mode = "lies"
    for base in rig.bases:
        try:
            generation = await rig.life.encoder.encode(rig.partition, base)
        except ColdFailedError:
            continue  # The proof found it out.
        chunk = next(i for i, node in generation.held.items() if node == "c")
        assert chunk in (generation.number % 4, 5)
        with pytest.raises(ColdFailedError, match="c"):
            await rig.life.releaser.release(rig.partition, generation)
    assert rig.hot() == rig.bases


async def test_a_node_that_hangs_is_given_up(directory: str, autojump_clock: MockClock) -> None:
    """After a time that follows from the segment's size, not never; then it is left out."""
    rig = ColdRig(directory, names="abcdefg")
    await rig.start()
    rig.nodes["a"].mode = "hangs"
    rig.nodes.set_live("g", is_live=False)
    began_s = trio.current_time()
    with pytest.raises(ColdFailedError, match="hangs"):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert 50 < trio.current_time() - began_s < 100
    assert rig.states() == ["aborted"]
    rig.nodes.set_live("g", is_live=True)
    generation = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert "a" not in generation.held.values()


async def test_a_slow_node_is_waited_for(directory: str, autojump_clock: MockClock) -> None:
    """Slow is not broken."""
    rig = await coded_rig(directory)
    rig.nodes["a"].mode = "slow"
    await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert rig.states() == ["committed"]


async def test_cancelled_means_aborted(directory: str, autojump_clock: MockClock) -> None:
    """A server that stops leaves no PLANNED record behind, and no lease."""
    rig = await coded_rig(directory)
    for node in rig.nodes.by_name.values():
        node.mode = "slow"
    with trio.move_on_after(3):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert rig.states() == ["aborted"]
    assert not len(rig.tier.leases)
    assert not any(node.writing for node in rig.nodes.by_name.values())


async def test_a_deleted_topic_ends_it(directory: str, autojump_clock: MockClock) -> None:
    """The commit is refused, in words that say why, and needs no second abort."""
    rig = await coded_rig(directory)
    rig.nodes["a"].mode = "slow"

    async def delete() -> None:
        await trio.sleep(3)
        rig.catalog.mark_deleting(TOPIC_ID)
        await rig.tier.topic_deleted(TOPIC_ID)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete)
        with pytest.raises(
            ColdFailedError, match=r"topic t, partition 0, segment at offset 0: its topic.*deleted"
        ):
            await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert rig.states() == ["aborted"]
    rig.nodes["a"].mode = "well"
    await rig.life.removal.run_once()
    assert rig.chunk_names() == []
    assert rig.forgotten == [TOPIC_ID]


async def test_what_is_worked_on_is_left_alone(directory: str, autojump_clock: MockClock) -> None:
    """A lease of any kind keeps encoders away."""
    rig = await coded_rig(directory)
    key = SegmentKey(TOPIC_ID, 0, rig.bases[0])
    assert rig.tier.leases.take(Work.COMPACT, [key]) is not None
    with pytest.raises(SegmentBusyError, match="compact"):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])


async def test_promised_space_is_not_promised_twice(
    directory: str, autojump_clock: MockClock
) -> None:
    """Two encodings at a time find room for one: the other is refused, not half written."""
    rig = await coded_rig(directory)
    rig.life.encoder._slots = trio.Semaphore(2)
    for node in rig.nodes.by_name.values():
        node.mode = "slow"
        node.free_bytes = 150_000
    outcomes: list[str] = []

    async def encode(base: int) -> None:
        try:
            await rig.life.encoder.encode(rig.partition, base)
            outcomes.append("coded")
        except NodesRefusedError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(encode, rig.bases[0])
        nursery.start_soon(encode, rig.bases[1])
    assert sorted(outcomes) == ["coded", "refused"]


async def test_auto_goes_by_nodes_with_room(directory: str, autojump_clock: MockClock) -> None:
    """Seven nodes of which one is full code 4+2; one that is dead is waited for before recoding."""
    rig = ColdRig(directory, names="abcdefg")
    rig.nodes["g"].free_bytes = 1000
    await rig.start(cold_profile="auto", segments=2)
    coded = await rig.life.encoder.encode(rig.partition, rig.bases[0])
    assert str(coded.profile) == "4+2"
    rig.nodes["g"].free_bytes = 2**40
    assert rig.life.encoder.is_outdated(rig.partition, coded)
    rig.nodes.set_live("g", False)
    with pytest.raises(NodesRefusedError, match=r"means 4\+3 with all nodes there, and 4\+2"):
        rig.life.encoder.is_outdated(rig.partition, coded)


async def test_what_the_nodes_cannot_take_is_not_read(
    directory: str, autojump_clock: MockClock
) -> None:
    """A refusal costs no reading of the segment, however often it is tried."""
    rig = await coded_rig(directory)
    for node in rig.nodes.by_name.values():
        node.free_bytes = 1000
    damage(rig, rig.bases[0])  # Whoever reads it finds that out.
    with pytest.raises(NodesRefusedError, match="each with room for one chunk"):
        await rig.life.encoder.encode(rig.partition, rig.bases[0])
