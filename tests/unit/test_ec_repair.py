"""Repair: lost chunks come back byte for byte, from any k good ones, or not at all."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import pytest

from ec.alignment import ALIGNMENT_BYTES, HUGE_PAGE_BYTES, LONG_BYTES
from ec.codec import Codec
from ec.errors import (
    ChunkDamagedError,
    ChunkMissingError,
    EcError,
    GenerationMixError,
    NoSpaceError,
    NotEnoughChunksError,
)
from ec.kernels.portable import PortableKernel
from ec.offload import InlineOffload
from ec.profile import Profile
from ec.repair import BUFFER_BYTES, WINDOW_BYTES, Rebuild, copy, window_bytes_of
from tests.contract.check_store import MemoryStore
from tests.ec_samples import Encoded, encode, noise

SIZE = 2 * WINDOW_BYTES + 70_001
SAMPLE = encode(noise(SIZE), Profile(2, 2), batches=range(0, SIZE, 50_001))
SMALL = encode(noise(5_000), Profile(4, 2), batches=range(0, 5_000, 501))


class Rig:
    """A node for each chunk, and empty ones for those that are lost."""

    def __init__(self, sample: Encoded, lost: tuple[int, ...]) -> None:
        self.sample = sample
        self.survivors = {
            index: MemoryStore() for index in range(len(sample.files)) if index not in lost
        }
        for index, store in self.survivors.items():
            store.files[sample.ids[index].name] = sample.files[index]
        self.targets = {index: MemoryStore() for index in lost}
        self.troubles: list[tuple[int, EcError]] = []
        self.rebuild = Rebuild(
            sample.manifest, self.survivors, self.targets,
            codec=Codec(sample.manifest.profile, PortableKernel()), offload=InlineOffload(),
            on_trouble=lambda index, error: self.troubles.append((index, error)),
            window_bytes=WINDOW_BYTES,
        )  # fmt: skip

    def break_chunk(self, index: int, position: int) -> None:
        name = self.sample.ids[index].name
        data = bytearray(self.survivors[index].files[name])
        data[position] ^= 1
        self.survivors[index].files[name] = bytes(data)

    def check(self) -> None:
        """Every target has exactly the lost chunk."""
        for index, store in self.targets.items():
            name = self.sample.ids[index].name
            assert store.files == {name: self.sample.files[index]}

    def check_nothing(self) -> None:
        """No target has anything, or is still being written."""
        assert not any(store.files or store.writing for store in self.targets.values())


@pytest.mark.parametrize("lost", [c for n in (1, 2) for c in combinations(range(6), n)], ids=str)
async def test_lost_chunks_come_back_byte_for_byte(lost: tuple[int, ...]) -> None:
    """Payload, checksums, indexes, manifest and trailer, for every pattern of losses of 4+2."""
    rig = Rig(SMALL, lost)
    receipts = await rig.rebuild.run()
    rig.check()
    assert set(receipts) == set(lost)
    assert not rig.troubles


@pytest.mark.parametrize("lost", [(0,), (1,), (2, 3), (0, 3)], ids=str)
async def test_chunks_of_several_windows(lost: tuple[int, ...]) -> None:
    """Longer than a window, with an end that is no block's."""
    rig = Rig(SAMPLE, lost)
    await rig.rebuild.run()
    rig.check()
    parity = SAMPLE.manifest.geometry.parity_bytes
    assert rig.rebuild.read_bytes <= 2 * parity


async def test_an_empty_segment_is_repaired_too() -> None:
    """Chunks without a payload are chunks."""
    rig = Rig(encode(b"", Profile(2, 1)), (1,))
    await rig.rebuild.run()
    rig.check()


async def test_bad_survivors_are_left_out_and_reported() -> None:
    """In the payload, far in, or behind it; with one more good chunk than needed."""
    for position in (5, WINDOW_BYTES + 5, -1):
        rig = Rig(SAMPLE, (1,))
        rig.break_chunk(0, position)
        await rig.rebuild.run()
        rig.check()
        if position >= 0:
            assert [index for index, _ in rig.troubles] == [0]


@pytest.mark.parametrize("position", [5, WINDOW_BYTES + 5])
async def test_too_few_good_survivors_make_nothing(position: int) -> None:
    """And leave nothing half made."""
    rig = Rig(SAMPLE, (1,))
    rig.break_chunk(0, position)
    rig.break_chunk(3, position)
    with pytest.raises(NotEnoughChunksError):
        await rig.rebuild.run()
    rig.check_nothing()


async def test_what_is_computed_wrong_is_not_stored() -> None:
    """A kernel that lies, once: the manifest finds it out."""

    class Lying(PortableKernel):
        def multiply(self, rows: Any, sources: Any, targets: Any) -> None:
            super().multiply(rows, sources, targets)
            targets[0][7] ^= 1

    rig = Rig(SMALL, (1, 4))
    rig.rebuild._codec = Codec(Profile(4, 2), Lying())
    with pytest.raises(ChunkDamagedError, match="manifest"):
        await rig.rebuild.run()
    rig.check_nothing()


async def test_another_encoding_s_chunks_are_never_used() -> None:
    """Missing under their name; and a manifest that differs under the same name ends the repair."""
    rig = Rig(SMALL, (1,))
    other = encode(SMALL.source, encoding="e" * 32, batches=range(0, 5_000, 501))
    rig.survivors[5].files = {other.ids[5].name: other.files[5]}
    await rig.rebuild.run()
    rig.check()
    assert isinstance(rig.troubles[0][1], ChunkMissingError)
    forged = encode(SMALL.source + b"x", batches=range(0, 5_000, 501))
    rig = Rig(SMALL, (1,))
    rig.survivors[5].files = {forged.ids[5].name: forged.files[5]}
    with pytest.raises(GenerationMixError):
        await rig.rebuild.run()
    rig.check_nothing()


async def test_a_full_target_ends_the_repair() -> None:
    """The other targets are let go of."""
    rig = Rig(SMALL, (1, 4))
    rig.targets[4].free_bytes = 10
    with pytest.raises(NoSpaceError):
        await rig.rebuild.run()
    rig.check_nothing()


@pytest.mark.parametrize("index", [0, 3])
async def test_a_copy_is_the_same_file(index: int) -> None:
    """From a node that has it to one that has not."""
    source, target = MemoryStore(), MemoryStore()
    source.files[SAMPLE.ids[index].name] = SAMPLE.files[index]
    receipt = await copy(SAMPLE.ids[index], source, target)
    assert target.files == source.files
    assert receipt.outcome == "stored"


async def test_a_damaged_chunk_is_not_copied() -> None:
    """Nothing of it arrives."""
    source, target = MemoryStore(), MemoryStore()
    data = bytearray(SAMPLE.files[3])
    data[WINDOW_BYTES + 5] ^= 1
    source.files[SAMPLE.ids[3].name] = bytes(data)
    with pytest.raises(ChunkDamagedError):
        await copy(SAMPLE.ids[3], source, target)
    assert not target.files
    assert not target.writing


def test_a_repaired_chunk_keeps_the_manifest_s_bytes() -> None:
    """Encoding a manifest that was read gives the bytes that were read."""
    assert msgspec.json.encode(SAMPLE.manifest) in SAMPLE.files[0]


def test_memory_does_not_depend_on_the_chunks() -> None:
    """Windows of what is read, read ahead and made stay within the limit, for common profiles, and
    use most of it; they are of whole huge pages.
    """
    for profile, made in ((Profile(2, 1), 1), (Profile(4, 2), 2), (Profile(10, 4), 4)):
        window = window_bytes_of(profile, made)
        held = 2 * (profile.k + made) * window
        assert 0.7 * BUFFER_BYTES < held <= BUFFER_BYTES
        assert window % HUGE_PAGE_BYTES == 0


@pytest.mark.parametrize("profile", [Profile(4, 2), Profile(12, 4), Profile(16, 4)], ids=str)
def test_no_profile_is_too_wide_for_the_limit(profile: Profile) -> None:
    """Also as the server asks for it, with windows of a megabyte: what is touched of all buffers
    stays within the limit, though from a certain length on each takes a whole huge page.
    """
    sample = encode(noise(5_000), profile, batches=range(0, 5_000, 501))
    nodes = {index: MemoryStore() for index in range(profile.chunks)}
    rebuild = Rebuild(
        sample.manifest, {index: nodes[index] for index in range(profile.k)},
        {index: nodes[index] for index in range(profile.k, profile.chunks)},
        codec=Codec(profile, PortableKernel()), offload=InlineOffload(),
        on_trouble=lambda _index, _error: None, window_bytes=WINDOW_BYTES,
    )  # fmt: skip
    size = rebuild._window_bytes
    page = HUGE_PAGE_BYTES if size >= LONG_BYTES else ALIGNMENT_BYTES
    touched = 2 * (profile.k + profile.m) * (size + -size % page)
    assert size > 0
    assert touched <= BUFFER_BYTES
