"""Encoding onto nodes: the same bytes as all at once, every failure cleaned up behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ec.chunk_write import Receipt
from ec.codec import Codec
from ec.encode import encode
from ec.errors import ChunkRefusedError, EcError, NoSpaceError, StoreError
from ec.geometry import BLOCK_BYTES, Geometry, choose_cuts
from ec.indexes import Indexes
from ec.kernels.portable import PortableKernel
from ec.manifest import Manifest
from ec.offload import InlineOffload
from ec.profile import Profile
from ec.segment import Segment, draft, file_bytes
from ec.segment_coder import BUFFER_BYTES, SegmentCoder
from ec.store.protocol import Store, Upload
from tests.contract.check_store import MemoryStore, MemoryUpload
from tests.ec_samples import ENCODING, Encoded, noise
from tests.ec_samples import encode as encode_at_once


class Bytes:
    """A segment in memory; counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read_bytes = 0

    def read_into(self, position: int, buffer: memoryview) -> int:
        part = self.data[position : position + len(buffer)]
        buffer[: len(part)] = part
        self.read_bytes += len(part)
        return len(part)


def indexes_of(expected: Encoded) -> Indexes:
    """Return the whole indexes: those of the last parity chunk."""
    entry = expected.manifest.chunks[-1]
    data = expected.files[-1]
    at = len(expected.payloads[-1]) + -(-len(expected.payloads[-1]) // BLOCK_BYTES) * 8
    offsets = data[at : at + entry.offset_index_bytes]
    times = data[at + len(offsets) :][: entry.time_index_bytes]
    return Indexes(offsets, times)


def segment_of(manifest: Manifest, indexes: Indexes) -> Segment:
    names = set(Segment.__dataclass_fields__) - {"indexes"}
    return Segment(indexes=indexes, **{name: getattr(manifest, name) for name in names})


def draft_of(expected: Encoded) -> Manifest:
    manifest = expected.manifest
    return draft(
        segment_of(manifest, indexes_of(expected)), manifest.profile,
        generation=manifest.generation, encoding=ENCODING, writer=manifest.writer,
    )  # fmt: skip


async def run(expected: Encoded, stores: Sequence[Store], source: Bytes) -> tuple[Receipt, ...]:
    manifest = draft_of(expected)
    encoded = await encode(
        source, manifest, indexes_of(expected), stores,
        codec=Codec(manifest.profile, PortableKernel()), offload=InlineOffload(),
        window_bytes=WINDOW_BYTES,
    )  # fmt: skip
    assert encoded.manifest == expected.manifest
    return encoded.receipts


def memory_stores(count: int) -> list[MemoryStore]:
    return [MemoryStore() for _ in range(count)]


WINDOW_BYTES = 4 * BLOCK_BYTES
K2 = 2 * WINDOW_BYTES


@pytest.mark.parametrize(
    "size",
    [0, 1, 2, BLOCK_BYTES, K2 - 1, K2, K2 + 1, 2 * K2 - 1, 2 * K2, 2 * K2 + BLOCK_BYTES + 1],
)
async def test_chunks_are_those_of_all_at_once(size: int) -> None:
    """For sizes around a window, byte for byte; the source is read once."""
    batches = range(0, size, 50_001)
    expected = encode_at_once(noise(size), Profile(2, 2), batches=batches)
    stores = memory_stores(4)
    source = Bytes(expected.source)
    receipts = await run(expected, stores, source)
    assert source.read_bytes == size
    for store, chunk, data in zip(stores, expected.ids, expected.files, strict=True):
        assert store.files == {chunk.name: data}
    assert [receipt.id for receipt in receipts] == expected.ids
    assert file_bytes(draft_of(expected)) == tuple(map(len, expected.files))


def test_memory_does_not_depend_on_the_segment() -> None:
    """Nor on the profile: two sets of buffers stay within the limit, and are not much below."""
    for profile in (Profile(2, 1), Profile(4, 2), Profile(16, 4)):
        for size in (10**9, 10**12):
            shape = Geometry(profile, choose_cuts(size, profile.k, []))
            coder = SegmentCoder(shape, Codec(profile, PortableKernel()))
            held = 2 * sum(map(len, coder.make_buffers()))
            assert 0.8 * BUFFER_BYTES < held <= BUFFER_BYTES


SAMPLE = encode_at_once(noise(3 * K2 + 5), Profile(2, 2))


class Failing(MemoryStore):
    """Refuses at a step: "begin", "write 0", "write 1", …, "finish"; or answers with a lie."""

    def __init__(self, step: str) -> None:
        super().__init__()
        self.step = step

    async def begin(self, chunk, file_bytes):  # type: ignore[no-untyped-def]  # As in MemoryStore.
        if self.step == "begin":
            raise NoSpaceError("full")
        return FailingUpload(self, chunk, file_bytes)


class FailingUpload(MemoryUpload):
    writes = 0

    async def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        if self._step == f"write {self.writes}":
            await self.abort()
            raise StoreError("gone")
        self.writes += 1
        await super().write(buffers)

    async def finish(self) -> Receipt:
        if self._step == "finish":
            await self.abort()
            raise ChunkRefusedError("no")
        receipt = await super().finish()
        return replace(receipt, digest="0" * 32) if self._step == "lie" else receipt

    @property
    def _step(self) -> str:
        assert isinstance(self.store, Failing)
        return self.store.step


@pytest.mark.parametrize("step", ["begin", "write 0", "write 1", "write 3", "finish", "lie"])
@pytest.mark.parametrize("which", [0, 3])
async def test_a_failing_node_ends_all_uploads(step: str, which: int) -> None:
    """One error of ours, and nothing is being written anywhere."""
    stores = memory_stores(4)
    stores[which] = Failing(step)
    with pytest.raises(EcError):
        await run(SAMPLE, stores, Bytes(SAMPLE.source))
    assert not any(store.writing for store in stores)


class Broken(Bytes):
    def read_into(self, position: int, buffer: memoryview) -> int:
        raise OSError(5, "unreadable")


async def test_a_source_that_cannot_be_read_is_no_encoding() -> None:
    """Unreadable, or shorter than it was said to be."""
    for source in (Broken(b""), Bytes(SAMPLE.source[:-1])):
        stores = memory_stores(4)
        with pytest.raises((OSError, ChunkRefusedError)):
            await run(SAMPLE, stores, source)
        assert not any(store.writing or store.files for store in stores)


def check_types(upload: FailingUpload) -> Upload:
    """Let the type checker compare the fake with the protocol."""
    return upload
