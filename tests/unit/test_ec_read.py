"""Reading from nodes: any k are enough, slow ones cost a hedge delay, lying ones are excluded."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from ec.codec import Codec
from ec.errors import ChunkDamagedError, EcError, NotEnoughChunksError, StoreUnavailableError
from ec.geometry import ByteRange
from ec.kernels.portable import PortableKernel
from ec.offload import InlineOffload
from ec.plan import Decode, plan_read
from ec.profile import Profile
from ec.prove import left_out, prove
from ec.read import HEDGE_S, ReadResult, SegmentReader, _Call
from tests.contract.check_store import MemoryStore
from tests.ec_samples import Encoded, encode, noise
from tests.unit.test_ec_encode import Bytes

SIZE = 400_003
SAMPLE = encode(noise(SIZE), Profile(4, 2), batches=range(0, SIZE, 9_001))
CODEC = Codec(Profile(4, 2), PortableKernel())


class Node(MemoryStore):
    """A node that may be gone, slow, or both; counts what it is asked for.

    Attributes:
        delay_s: before every answer.
        is_gone: every answer is "unavailable".
    """

    def __init__(self) -> None:
        super().__init__()
        self.delay_s = 0.0
        self.is_gone = False
        self.read_bytes = 0

    async def read(self, chunk, start, end):  # type: ignore[no-untyped-def]  # As in MemoryStore.
        self.read_bytes += end - start
        await trio.sleep(self.delay_s)
        if self.is_gone:
            raise StoreUnavailableError("gone")
        return await super().read(chunk, start, end)

    async def head(self, chunk):  # type: ignore[no-untyped-def]  # As in MemoryStore.
        if self.is_gone:
            raise StoreUnavailableError("gone")
        return await super().head(chunk)


class Rig:
    """Six nodes with a chunk each, and a reader of them."""

    def __init__(self, sample: Encoded = SAMPLE) -> None:
        self.nodes = [Node() for _ in sample.files]
        self.troubles: list[tuple[int, EcError]] = []
        self.slow: list[int] = []
        for node, chunk, data in zip(self.nodes, sample.ids, sample.files, strict=True):
            node.files[chunk.name] = data
        self.reader = SegmentReader(
            sample.manifest, dict(enumerate(self.nodes)),
            codec=CODEC, offload=InlineOffload(),
            on_trouble=lambda index, error: self.troubles.append((index, error)),
            on_slow=self.slow.append,
        )  # fmt: skip

    def break_block(self, index: int, position: int) -> None:
        """Flip a bit of a chunk."""
        name = SAMPLE.ids[index].name
        data = bytearray(self.nodes[index].files[name])
        data[position] ^= 1
        self.nodes[index].files[name] = bytes(data)

    @property
    def read_bytes(self) -> int:
        return sum(node.read_bytes for node in self.nodes)


async def test_healthy_reads_move_a_byte_for_a_byte(rng: random.Random) -> None:
    """From the chunks that hold the range, and from no other."""
    rig = Rig()
    for _ in range(20):
        start, end = sorted((rng.randrange(SIZE + 1), rng.randrange(SIZE + 1)))
        before = rig.read_bytes
        found = await rig.reader.read(start, end)
        assert found.data == SAMPLE.source[start:end]
        assert rig.read_bytes - before == end - start
    assert not rig.troubles


@pytest.mark.parametrize("lost", list(combinations(range(6), 2)), ids=str)
async def test_any_two_may_be_gone(lost: tuple[int, int], rng: random.Random) -> None:
    """The whole segment and ranges of it, byte for byte; each lost chunk is reported."""
    rig = Rig()
    for index in lost:
        rig.nodes[index].is_gone = True
    assert (await rig.reader.read(0, SIZE)).data == SAMPLE.source
    assert {index for index, _ in rig.troubles} >= {index for index in lost if index < 4}
    start, end = sorted((rng.randrange(SIZE + 1), rng.randrange(SIZE + 1)))
    assert (await rig.reader.read(start, end)).data == SAMPLE.source[start:end]


async def test_beyond_m_losses_what_survives_is_served() -> None:
    """Living data chunks as they are, the rest is a gap that is named."""
    rig = Rig()
    for index in (0, 2, 5):
        rig.nodes[index].is_gone = True
    found = await rig.reader.read(0, SIZE)
    cuts = SAMPLE.manifest.cuts
    assert [(gap.source.start, gap.source.end) for gap in found.gaps] == [
        (cuts[0], cuts[1]), (cuts[2], cuts[3]),
    ]  # fmt: skip
    assert all(gap.left < 4 for gap in found.gaps)
    for piece in found.pieces:
        assert piece.data == SAMPLE.source[piece.source.start : piece.source.end]
        assert not piece.is_decoded


async def test_a_damaged_block_is_computed_from_others() -> None:
    """It is an erasure, reported, and never an input; the chunk's other blocks are still read."""
    rig = Rig()
    rig.break_block(1, 70_000)
    start = SAMPLE.manifest.cuts[1]
    found = await rig.reader.read(start + 70_000, start + 70_010)
    assert found.data == SAMPLE.source[start + 70_000 : start + 70_010]
    assert found.pieces[0].is_decoded
    assert [index for index, _ in rig.troubles] == [1]
    assert isinstance(rig.troubles[0][1], ChunkDamagedError)
    assert not (await rig.reader.read(start, start + 10)).pieces[0].is_decoded


async def test_damaged_inputs_are_never_decoded_from() -> None:
    """With one data chunk lost, a survivor that is bad here is replaced by another."""
    rig = Rig()
    rig.nodes[0].is_gone = True
    rig.break_block(2, 5)
    assert (await rig.reader.read(0, 100)).data == SAMPLE.source[:100]
    rig.break_block(4, 5)
    found = await rig.reader.read(0, 100)
    assert not found.pieces
    assert found.gaps[0].left == 3


async def test_generations_are_not_mixed() -> None:
    """A node that has only chunks of another encoding has none."""
    rig = Rig()
    other = encode(SAMPLE.source, encoding="e" * 32)
    for index in (0, 3):
        rig.nodes[index].files = {other.ids[index].name: other.files[index]}
    assert (await rig.reader.read(0, SIZE)).data == SAMPLE.source
    assert {index for index, _ in rig.troubles} >= {0, 3}


async def test_a_slow_node_costs_one_hedge_delay(autojump_clock: MockClock) -> None:
    """Then the others give the range; the slow one is not called lost."""
    rig = Rig()
    rig.nodes[1].delay_s = 1000
    start = SAMPLE.manifest.cuts[1]
    before = trio.current_time()
    found = await rig.reader.read(start, start + 100)
    assert found.data == SAMPLE.source[start : start + 100]
    assert trio.current_time() - before == pytest.approx(HEDGE_S)
    assert not rig.troubles
    assert rig.slow == [1]


async def test_a_slow_node_is_not_waited_for_when_decoding(autojump_clock: MockClock) -> None:
    """Small ranges ask one more than needed and take the first k."""
    rig = Rig()
    rig.nodes[0].is_gone = True
    rig.nodes[2].delay_s = 1000
    before = trio.current_time()
    assert (await rig.reader.read(0, 100)).data == SAMPLE.source[:100]
    assert trio.current_time() - before < HEDGE_S


async def test_slow_survivors_cost_a_decode_one_hedge_delay(autojump_clock: MockClock) -> None:
    """Where no spare was asked, the remaining chunks are, after the delay; the slow one is told."""
    rig = Rig()
    rig.nodes[0].is_gone = True
    rig.nodes[2].delay_s = 1000
    before = trio.current_time()
    start, end = 0, SAMPLE.manifest.cuts[1]
    assert end > 64 * 1024
    slow: list[int] = []
    reader = SegmentReader(
        SAMPLE.manifest, dict(enumerate(rig.nodes)), codec=CODEC, offload=InlineOffload(),
        on_trouble=lambda index, error: None, on_slow=slow.append,
    )  # fmt: skip
    call = _Call(set(range(1, 6)))
    plan = plan_read(SAMPLE.manifest.geometry, ByteRange(start, end), call.usable, spare=False)
    piece = await reader._decode(call, cast("Decode", plan.steps[0]))
    assert piece is not None
    assert piece.data == SAMPLE.source[start:end]
    assert trio.current_time() - before == pytest.approx(HEDGE_S)
    assert slow == [2]


async def test_a_survivor_that_fails_is_replaced_without_beginning_anew() -> None:
    """The ranges that the others gave are not read twice."""
    rig = Rig()
    rig.nodes[0].is_gone = True
    rig.nodes[1].is_gone = True
    end = SAMPLE.manifest.cuts[1]
    found = await rig.reader.read(0, end)
    assert found.data == SAMPLE.source[:end]
    asked = [node.read_bytes for node in rig.nodes]
    assert max(asked) <= SAMPLE.manifest.geometry.parity_bytes


async def test_a_hedge_that_fails_waits_for_the_slow_one(autojump_clock: MockClock) -> None:
    """Slow is better than nothing."""
    rig = Rig()
    for index in (0, 4, 5):
        rig.nodes[index].is_gone = True
    rig.nodes[1].delay_s = 10
    start = SAMPLE.manifest.cuts[1]
    found = await rig.reader.read(start, start + 100)
    assert found.data == SAMPLE.source[start : start + 100]


async def test_a_last_resort_is_asked_only_for_gaps() -> None:
    """A node that had better not be asked is left alone while others do."""
    rig = Rig()
    stores = dict(enumerate(rig.nodes))
    avoided = {index: stores.pop(index) for index in (0, 1)}
    reader = SegmentReader(
        SAMPLE.manifest, stores, codec=CODEC, offload=InlineOffload(),
        on_trouble=lambda index, error: None, last_resort=avoided,
    )  # fmt: skip
    assert (await reader.read(0, SIZE)).data == SAMPLE.source
    assert rig.nodes[0].read_bytes == rig.nodes[1].read_bytes == 0
    rig.nodes[5].is_gone = True
    assert (await reader.read(0, SIZE)).data == SAMPLE.source
    assert rig.nodes[0].read_bytes > 0


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_happens_the_bytes_are_right(seed: int, autojump_clock: MockClock) -> None:
    """Nodes gone, slow and damaged at random: pieces are the source's bytes, gaps only past m."""
    rng = random.Random(seed)
    rig = Rig()
    bad = set()
    for index, node in enumerate(rig.nodes):
        node.delay_s = rng.choice([0, 0, 0.1, 0.6, 5])
        node.is_gone = rng.random() < 0.2
        if node.is_gone:
            bad.add(index)
        elif rng.random() < 0.2:
            bad.add(index)
            rig.break_block(index, rng.randrange(len(SAMPLE.payloads[index])))
    found: ReadResult = await rig.reader.read(0, SIZE)
    for piece in found.pieces:
        assert piece.data == SAMPLE.source[piece.source.start : piece.source.end], seed
    if len(bad) <= 2:
        assert not found.gaps, seed


async def test_a_proof_compares_with_the_source() -> None:
    """The chunk that the generation names, decoded from the others."""
    for generation in (1, 2, 3, 4):
        sample = encode(noise(SIZE), Profile(4, 2), generation=generation)
        rig = Rig(sample)
        chunk = left_out(sample.manifest)
        assert chunk == generation % 4
        stores = dict(enumerate(rig.nodes))
        source = Bytes(sample.source)
        compared = await prove(
            source, sample.manifest, stores, codec=CODEC, offload=InlineOffload()
        )
        assert compared == len(sample.payloads[chunk]) == source.read_bytes
        assert rig.nodes[chunk].read_bytes == 0


async def test_a_proof_reads_the_same_chunks_whoever_is_fast(autojump_clock: MockClock) -> None:
    """A small range too is computed from the first k that are left, however slow one of them is."""
    for _ in range(10):
        rig = Rig()
        chunk = left_out(SAMPLE.manifest)
        used = [index for index in range(5) if index != chunk]
        rig.nodes[used[0]].delay_s = 10 * HEDGE_S
        await prove(
            Bytes(SAMPLE.source), SAMPLE.manifest, dict(enumerate(rig.nodes)),
            codec=CODEC, offload=InlineOffload(),
        )  # fmt: skip
        assert [index for index, node in enumerate(rig.nodes) if node.read_bytes] == used


def flip_source(source: bytes) -> bytes:
    at = SAMPLE.manifest.cuts[2] - 1
    return source[:at] + bytes([source[at] ^ 1]) + source[at + 1 :]


@pytest.mark.parametrize("change", [flip_source, lambda source: source[:150_000]])
async def test_a_proof_fails_on_any_difference(change: Callable[[bytes], bytes]) -> None:
    """One bit of the source, or its end."""
    stores = dict(enumerate(Rig().nodes))
    with pytest.raises(ChunkDamagedError):
        await prove(
            Bytes(change(SAMPLE.source)), SAMPLE.manifest, stores,
            codec=CODEC, offload=InlineOffload(),
        )  # fmt: skip


async def test_a_degraded_set_proves_nothing() -> None:
    """A chunk that is not there now is no proof, even where others would do."""
    rig = Rig()
    rig.nodes[4].is_gone = True
    with pytest.raises(NotEnoughChunksError):
        await prove(
            Bytes(SAMPLE.source), SAMPLE.manifest, dict(enumerate(rig.nodes)),
            codec=CODEC, offload=InlineOffload(),
        )  # fmt: skip
