"""Every chunk from the others: `ec.cross_check`, and the reference arithmetic."""

from __future__ import annotations

import random
from itertools import combinations

import msgspec
import pytest
import reedsolo

from ec import chunk_file, matrix, reference
from ec.checksums import block_checksums
from ec.codec import Codec
from ec.cross_check import CrossCheck, Mismatch
from ec.errors import ChunkDamagedError, ChunkMissingError, EcError
from ec.kernels.portable import PortableKernel
from ec.offload import InlineOffload
from ec.profile import Profile
from ec.segment import chunk_indexes
from tests.contract.check_store import MemoryStore
from tests.ec_samples import Encoded, encode, noise

SIZES = (0, 1, 65_536, 300_001, 3 * 2**20 + 17)


async def check(
    coded: Encoded, **changes: bytes | None
) -> tuple[tuple[Mismatch, ...], list[tuple[int, EcError]], CrossCheck]:
    """Check an encoding of which some files are changed (`c3=…`), or not there (None)."""
    troubles: list[tuple[int, EcError]] = []
    stores: dict[int, MemoryStore] = {}
    for index, data in enumerate(coded.files):
        stores[index] = store = MemoryStore()
        changed = changes.get(f"c{index}", data)
        if changed is not None:
            store.files[coded.ids[index].name] = changed
    cross = CrossCheck(
        coded.manifest,
        stores,
        codec=Codec(coded.manifest.profile, PortableKernel()),
        offload=InlineOffload(),
        on_trouble=lambda index, error: troubles.append((index, error)),
        on_read=lambda _: None,
    )
    return await cross.run(), troubles, cross


def forged(coded: Encoded, index: int, at: int) -> Encoded:
    """Return the encoding with a byte of a chunk changed and all checksums made to fit."""
    payloads = [bytearray(payload) for payload in coded.payloads]
    payloads[index][at] ^= 0x55
    indexes = [chunk_file.decode_head(*_tail(data), path="x").indexes for data in coded.files]
    sums = [block_checksums(payload) for payload in payloads]
    entries = tuple(
        chunk_file.chunk_entry(len(payload), found, each)
        for payload, found, each in zip(payloads, sums, indexes, strict=True)
    )
    manifest = msgspec.structs.replace(
        coded.manifest, chunks=entries,
        source_digest=chunk_file.source_digest(sums[: coded.manifest.k]),
    )  # fmt: skip
    assert chunk_indexes(manifest, indexes[-1]) == tuple(indexes)
    files = tuple(
        bytes(payload) + chunk_file.encode_tail(manifest, n, sums[n], indexes[n])
        for n, payload in enumerate(payloads)
    )
    return Encoded(coded.source, manifest, tuple(map(bytes, payloads)), files)


def _tail(data: bytes) -> tuple[chunk_file.Trailer, bytes]:
    trailer = chunk_file.decode_trailer(data[-128:], file_bytes=len(data), path="x")
    return trailer, data[trailer.checksums_at :]


@pytest.mark.parametrize("size", SIZES)
async def test_an_encoding_that_is_right_has_no_mismatch(size: int) -> None:
    """Whatever its size; every chunk is computed from the others."""
    coded = encode(noise(size))
    mismatches, troubles, cross = await check(coded)
    assert (mismatches, troubles) == ((), [])
    assert cross.decoded_bytes == 6 * len(coded.payloads[-1])


@pytest.mark.parametrize("index", range(6))
async def test_what_was_coded_wrong_is_found_though_all_checksums_fit(
    index: int, rng: random.Random
) -> None:
    """The chunk itself differs from what the others give, at that byte."""
    coded = encode(noise(2 * 2**20))
    at = rng.randrange(len(coded.payloads[index]))
    mismatches, troubles, _ = await check(forged(coded, index, at))
    assert troubles == []
    assert Mismatch(index, at, "codec") in mismatches


async def test_a_wrong_kernel_is_found_by_the_other_arithmetic() -> None:
    """Where both coding and checking make the same mistake, reedsolo does not."""
    coded = encode(noise(60_000))
    wrong = forged(coded, 5, 3)

    class Agrees(Codec):
        """Says of every chunk that it is what it is."""

        def rebuild(self, survivors, wanted):  # type: ignore[no-untyped-def]  # as the codec's
            for index, target in wanted.items():
                payload = wrong.payloads[index]
                target[: len(payload)] = payload

    stores = {}
    for index, data in enumerate(wrong.files):
        stores[index] = MemoryStore()
        stores[index].files[wrong.ids[index].name] = data
    cross = CrossCheck(
        wrong.manifest, stores, codec=Agrees(wrong.manifest.profile, PortableKernel()),
        offload=InlineOffload(), on_trouble=lambda *_: None, on_read=lambda _: None,
    )  # fmt: skip
    found = await cross.run()
    assert found
    assert {each.arithmetic for each in found} == {"reedsolo"}


async def test_a_bad_block_and_a_lost_chunk_are_reported_and_the_rest_is_compared() -> None:
    """One left over is enough to compare."""
    coded = encode(noise(300_000))
    bad = bytearray(coded.files[1])
    bad[70_000] ^= 1
    mismatches, troubles, cross = await check(coded, c1=bytes(bad))
    assert mismatches == ()
    assert [(index, type(error)) for index, error in troubles] == [(1, ChunkDamagedError)]
    assert cross.decoded_bytes == 5 * len(coded.payloads[-1])
    mismatches, troubles, cross = await check(coded, c1=None, c4=None)
    assert mismatches == ()
    assert sorted((index, type(error)) for index, error in troubles) == [
        (1, ChunkMissingError), (4, ChunkMissingError),
    ]  # fmt: skip
    assert cross.decoded_bytes == 0


@pytest.mark.parametrize("profile", [Profile(2, 1), Profile(4, 2), Profile(6, 3), Profile(16, 4)])
def test_the_reference_agrees_with_the_codec(profile: Profile, rng: random.Random) -> None:
    """Every chunk from random k others, with reedsolo set to another field before."""
    data = [rng.randbytes(333) for _ in range(profile.k)]
    parity = [bytearray(333) for _ in range(profile.m)]
    Codec(profile, PortableKernel()).encode(data, parity)
    windows = {n: bytes(window) for n, window in enumerate([*data, *parity])}
    rows = matrix.parity_rows(profile.k, profile.m)
    reedsolo.init_tables(prim=0x187)
    for wanted, window in windows.items():
        others = [n for n in windows if n != wanted]
        for chosen in [*combinations(others, profile.k)][:20]:
            found = reference.compute(rows, {n: windows[n] for n in chosen}, wanted)
            assert found == window
