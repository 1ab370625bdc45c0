"""What every storage node must do, wherever it is, and `MemoryStore`, the fake for other tests.

A test module subclasses `StoreContract` and gives a fixture `rig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import pytest

from ec.chunk_dir import LIST_MAX
from ec.chunk_file import TRAILER_BYTES, ChunkHead, check_blocks, decode_head, decode_trailer
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import (
    ChunkBusyError,
    ChunkDamagedError,
    ChunkExistsError,
    ChunkMissingError,
    ChunkRefusedError,
    NodeNotMountedError,
    NoSpaceError,
    StoreError,
)
from ec.geometry import BLOCK_BYTES
from ec.node_dir import Space
from ec.node_identity import NodeIdentity
from ec.profile import Profile
from ec.store.protocol import Health, Store, Upload
from tests.ec_samples import Encoded, encode, noise

CLUSTER = "cluster-of-tests"
NODE = "a"
IDENTITY = NodeIdentity(CLUSTER, NODE, "1" * 32)
SAMPLE = encode(noise(300_000), batches=range(0, 300_000, 7_001))
OTHER = encode(noise(300_000, seed=8), batches=range(0, 300_000, 7_001))


class Rig(Protocol):
    """A store, and what tests do to the disk behind its back."""

    store: Store

    def flip(self, chunk: ChunkId, position: int) -> None:
        """Flip a bit of a stored chunk."""

    def unmount(self) -> None:
        """Take the disk away."""

    def leave_free(self, size: int) -> None:
        """Let the disk have only so much space."""

    def names(self) -> list[str]:
        """Return all names in the directory of chunks, temporary ones too."""

    async def settle(self) -> None:
        """Wait until the node knows of every upload that it has ended."""


async def put(store: Store, encoded: Encoded, index: int, step: int = 100_000) -> Receipt:
    """Write a sample's chunk in several pieces."""
    data = encoded.files[index]
    upload = await store.begin(encoded.ids[index], len(data))
    for at in range(0, len(data), step):
        await upload.write([data[at : at + step]])
    return await upload.finish()


class StoreContract:
    """The suite."""

    async def test_what_was_written_is_read(self, rig: Rig) -> None:
        """All of it, any range, the head; and the receipt names the digest of the head."""
        for index in (0, 5):
            receipt = await put(rig.store, SAMPLE, index)
            chunk, payload = SAMPLE.ids[index], SAMPLE.payloads[index]
            head = await rig.store.head(chunk)
            assert (receipt.outcome, receipt.damage) == ("stored", "")
            assert receipt.digest == head.digest
            assert receipt.file_bytes == len(SAMPLE.files[index])
            assert head.manifest == SAMPLE.manifest
            edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES + 1, len(payload) - 1, len(payload)]
            for start in edges:
                for end in edges:
                    if start <= end:
                        found = await rig.store.read(chunk, start, end)
                        assert bytes(found) == payload[start:end]

    async def test_an_empty_chunk_is_a_chunk(self, rig: Rig) -> None:
        """A payload of no bytes is stored, listed and read."""
        empty = encode(b"", Profile(2, 1))
        await put(rig.store, empty, 2)
        assert bytes(await rig.store.read(empty.ids[2], 0, 0)) == b""
        assert await rig.store.list() == (empty.ids[2],)

    async def test_the_same_again_is_harmless(self, rig: Rig) -> None:
        """A PUT that is repeated says that it was there."""
        first = await put(rig.store, SAMPLE, 0)
        again = await put(rig.store, SAMPLE, 0)
        assert again == replace(first, outcome="present")
        assert rig.names() == [SAMPLE.ids[0].name]

    async def test_other_bytes_under_a_name_are_refused(self, rig: Rig) -> None:
        """What is intact stays."""
        assert OTHER.ids[0] == SAMPLE.ids[0]
        await put(rig.store, SAMPLE, 0)
        with pytest.raises(ChunkExistsError):
            await put(rig.store, OTHER, 0)
        assert bytes(await rig.store.read(SAMPLE.ids[0], 0, 9)) == SAMPLE.payloads[0][:9]
        assert rig.names() == [SAMPLE.ids[0].name]

    @pytest.mark.parametrize("position", [5, -1, -200])
    async def test_a_bad_chunk_is_replaced_and_reported(self, rig: Rig, position: int) -> None:
        """Bad in its payload, trailer or manifest: the next PUT mends it and says what was."""
        await put(rig.store, SAMPLE, 0)
        rig.flip(SAMPLE.ids[0], position % len(SAMPLE.files[0]))
        receipt = await put(rig.store, SAMPLE, 0)
        assert receipt.outcome == "replaced"
        assert "checksum" in receipt.damage
        assert await rig.store.verify(SAMPLE.ids[0]) == ()
        assert bytes(await rig.store.read(SAMPLE.ids[0], 0, 9)) == SAMPLE.payloads[0][:9]

    async def test_bad_blocks_are_never_handed_out(self, rig: Rig) -> None:
        """A range around one is an error that names it; others are read."""
        await put(rig.store, SAMPLE, 4)
        chunk = SAMPLE.ids[4]
        rig.flip(chunk, BLOCK_BYTES + 9)
        with pytest.raises(ChunkDamagedError) as caught:
            await rig.store.read(chunk, 0, BLOCK_BYTES + 1)
        assert (caught.value.region, caught.value.position) == ("payload", BLOCK_BYTES)
        assert bytes(await rig.store.read(chunk, 0, 100)) == SAMPLE.payloads[4][:100]
        found = await rig.store.verify(chunk)
        assert [(bad.region, bad.position) for bad in found] == [("payload", BLOCK_BYTES)]

    async def test_a_bad_head_is_found_by_verify(self, rig: Rig) -> None:
        """Verify reads everything anew, whatever was read before."""
        await put(rig.store, SAMPLE, 1)
        await rig.store.head(SAMPLE.ids[1])
        rig.flip(SAMPLE.ids[1], len(SAMPLE.files[1]) - 1)
        found = await rig.store.verify(SAMPLE.ids[1])
        assert [bad.region for bad in found] == ["trailer"]

    async def test_a_chunk_that_is_not_there_is_missing(self, rig: Rig) -> None:
        """The node is there, the chunk is not."""
        chunk = SAMPLE.ids[0]
        for call in (rig.store.head(chunk), rig.store.read(chunk, 0, 0), rig.store.verify(chunk)):
            with pytest.raises(ChunkMissingError):
                await call
        with pytest.raises(ChunkMissingError):
            await rig.store.quarantine(chunk)
        assert await rig.store.delete(chunk) is False

    async def test_generations_are_never_mixed(self, rig: Rig) -> None:
        """Chunks of another generation or encoding live beside each other, under other names."""
        second = encode(SAMPLE.source, generation=2)
        raced = encode(SAMPLE.source, encoding="e" * 32)
        await put(rig.store, SAMPLE, 0)
        for other in (second, raced):
            with pytest.raises(ChunkMissingError):
                await rig.store.head(other.ids[0])
            await put(rig.store, other, 0)
        upload = await rig.store.begin(second.ids[1], len(SAMPLE.files[1]))
        await upload.write([SAMPLE.files[1]])
        with pytest.raises(ChunkRefusedError):
            await upload.finish()
        assert set(await rig.store.list()) == {SAMPLE.ids[0], second.ids[0], raced.ids[0]}

    @pytest.mark.parametrize("what", ["short", "long", "bad payload", "bad tail", "noise", "swap"])
    async def test_what_is_no_intact_chunk_is_refused(self, rig: Rig, what: str) -> None:
        """Nothing of it stays, and the name is free."""
        data = bytearray(SAMPLE.files[0])
        size = len(data)
        if what == "short":
            del data[-1]
        elif what == "long":
            data.append(0)
        elif what == "swap":
            data = bytearray(SAMPLE.files[1].rjust(size, b"\0")[:size])
        elif what == "noise":
            data = bytearray(noise(size))
        else:
            data[5 if what == "bad payload" else -200] ^= 1
        upload = await rig.store.begin(SAMPLE.ids[0], size)
        with pytest.raises(ChunkRefusedError):
            await send(upload, bytes(data))
        await rig.settle()
        assert rig.names() == []
        assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"

    async def test_an_aborted_upload_leaves_nothing(self, rig: Rig) -> None:
        """Half-sent bodies have no name and hold no space."""
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        await upload.write([SAMPLE.files[0][:1000]])
        await upload.abort()
        await upload.abort()
        await rig.settle()
        assert rig.names() == []
        assert await rig.store.list() == ()
        assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"

    async def test_a_chunk_is_written_once_at_a_time(self, rig: Rig) -> None:
        """The second writer of a name is told so; others are not held up."""
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        with pytest.raises(ChunkBusyError):
            await put(rig.store, SAMPLE, 0)
        await put(rig.store, SAMPLE, 1)
        await send(upload, SAMPLE.files[0])
        assert await rig.store.list() == (SAMPLE.ids[0], SAMPLE.ids[1])

    async def test_a_full_disk_refuses_before_the_first_byte(self, rig: Rig) -> None:
        """The message has the arithmetic, and nothing is left."""
        rig.leave_free(len(SAMPLE.files[0]) - 1)
        with pytest.raises(NoSpaceError, match=str(len(SAMPLE.files[0]))):
            await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        assert rig.names() == []
        rig.leave_free(10 * len(SAMPLE.files[0]))
        assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"

    @pytest.mark.parametrize("size", [0, -1, 2**62])
    async def test_absurd_lengths_are_refused(self, rig: Rig, size: int) -> None:
        """No chunk file has them."""
        with pytest.raises((ChunkRefusedError, NoSpaceError)):
            await rig.store.begin(SAMPLE.ids[0], size)

    async def test_a_range_that_is_not_there_is_refused(self, rig: Rig) -> None:
        """Beyond the payload, backwards, or negative: never the bytes behind it."""
        await put(rig.store, SAMPLE, 0)
        size = len(SAMPLE.payloads[0])
        for start, end in ((0, size + 1), (size + 1, size + 1), (5, 4), (-1, 3)):
            with pytest.raises(ChunkRefusedError):
                await rig.store.read(SAMPLE.ids[0], start, end)

    async def test_deleting_is_durable_and_can_be_repeated(self, rig: Rig) -> None:
        """Gone, and told so the second time."""
        await put(rig.store, SAMPLE, 0)
        assert await rig.store.delete(SAMPLE.ids[0]) is True
        assert await rig.store.delete(SAMPLE.ids[0]) is False
        assert await rig.store.list() == ()
        with pytest.raises(ChunkMissingError):
            await rig.store.head(SAMPLE.ids[0])

    async def test_what_is_still_being_written_is_not_removed(self, rig: Rig) -> None:
        """What was removed does not turn up behind that: a write in the air has to end first."""
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        with pytest.raises(ChunkBusyError):
            await rig.store.delete(SAMPLE.ids[0])
        await send(upload, SAMPLE.files[0])
        assert await rig.store.delete(SAMPLE.ids[0]) is True
        assert await rig.store.list() == ()

    async def test_quarantine_takes_a_chunk_out_of_the_way(self, rig: Rig) -> None:
        """It is listed no more; a second one of that name does not overwrite it."""
        await put(rig.store, SAMPLE, 0)
        await rig.store.quarantine(SAMPLE.ids[0])
        assert await rig.store.list() == ()
        await put(rig.store, SAMPLE, 0)
        with pytest.raises(ChunkExistsError):
            await rig.store.quarantine(SAMPLE.ids[0])

    async def test_lists_come_in_pages(self, rig: Rig) -> None:
        """In the order of names, each chunk once."""
        for index in range(6):
            await put(rig.store, SAMPLE, index)
        found: list[ChunkId] = []
        while page := await rig.store.list(after=found[-1].name if found else "", limit=4):
            found += page
        assert found == SAMPLE.ids

    async def test_a_disk_that_is_not_mounted_is_unknown_not_empty(self, rig: Rig) -> None:
        """Nothing is written there, and nothing is missing."""
        await put(rig.store, SAMPLE, 0)
        upload = await rig.store.begin(SAMPLE.ids[2], len(SAMPLE.files[2]))
        rig.unmount()
        chunk = SAMPLE.ids[0]
        for call in (
            rig.store.head(chunk), rig.store.head(SAMPLE.ids[1]), rig.store.read(chunk, 0, 1),
            rig.store.list(), rig.store.verify(chunk), rig.store.delete(chunk),
            rig.store.health(), rig.store.begin(SAMPLE.ids[1], 1000),
            rig.store.quarantine(chunk), rig.store.note_catalog_sequence(9),
            send(upload, SAMPLE.files[2]),
        ):  # fmt: skip
            with pytest.raises(NodeNotMountedError):
                await call

    async def test_health_says_who_and_how_full(self, rig: Rig) -> None:
        """The identity, free and total space; the catalog's sequence only rises."""
        health = await rig.store.health()
        assert (health.identity.cluster_id, health.identity.node) == (CLUSTER, NODE)
        assert rig.store.node == NODE
        assert 0 < health.space.free_bytes <= health.space.total_bytes
        for sequence, expected in ((5, 5), (3, 5), (8, 8)):
            await rig.store.note_catalog_sequence(sequence)
            assert (await rig.store.health()).identity.catalog_sequence == expected


async def send(upload: Upload, data: bytes) -> Receipt:
    """Send all at once and finish."""
    await upload.write([data])
    return await upload.finish()


class MemoryStore:
    """A node that forgets everything with the process.

    Attributes:
        files: name -> bytes of the chunks, for tests to change.
        mounted, free_bytes: for tests to set.
    """

    def __init__(self, identity: NodeIdentity = IDENTITY) -> None:
        self.identity = identity
        self.files: dict[str, bytes] = {}
        self.quarantined: set[str] = set()
        self.writing: set[ChunkId] = set()
        self.mounted = True
        self.free_bytes = 2**40

    @property
    def node(self) -> str:
        return self.identity.node

    def _check_mounted(self) -> None:
        if not self.mounted:
            raise NodeNotMountedError("not mounted")

    async def begin(self, chunk: ChunkId, file_bytes: int) -> MemoryUpload:
        self._check_mounted()
        if file_bytes <= 0:
            raise ChunkRefusedError(f"{file_bytes} bytes")
        if file_bytes > self.free_bytes:
            raise NoSpaceError(f"{self.free_bytes} free, {file_bytes} needed")
        if chunk in self.writing:
            raise ChunkBusyError(str(chunk))
        self.writing.add(chunk)
        return MemoryUpload(self, chunk, file_bytes)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        return self.decoded(self.stored(chunk), chunk)

    def stored(self, chunk: ChunkId) -> bytes:
        self._check_mounted()
        if chunk.name not in self.files:
            raise ChunkMissingError(chunk.name)
        return self.files[chunk.name]

    def decoded(self, data: bytes, chunk: ChunkId) -> ChunkHead:
        trailer = decode_trailer(data[-TRAILER_BYTES:], file_bytes=len(data), path="memory")
        head = decode_head(trailer, data[trailer.checksums_at :], path="memory")
        if head.id != chunk:
            raise ChunkDamagedError("memory", region="identity", position=0, reason="swapped")
        return head

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        data = self.stored(chunk)
        head = self.decoded(data, chunk)
        if not 0 <= start <= end <= head.payload_bytes:
            raise ChunkRefusedError(f"{start} to {end}")
        for block in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            at = block * BLOCK_BYTES
            part = data[at : min(at + BLOCK_BYTES, head.payload_bytes)]
            check_blocks(head, block, part, path="memory")
        return memoryview(data)[start:end]

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        self._check_mounted()
        names = sorted(name for name in self.files if name > after)
        return tuple(map(ChunkId.parse, names[:limit]))

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        return self.findings(self.stored(chunk), chunk)

    def findings(self, data: bytes, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        try:
            head = self.decoded(data, chunk)
        except ChunkDamagedError as error:
            return (error,)
        found = []
        for block in range(head.blocks):
            at = block * BLOCK_BYTES
            part = data[at : min(at + BLOCK_BYTES, head.payload_bytes)]
            try:
                check_blocks(head, block, part, path="memory")
            except ChunkDamagedError as error:
                found.append(error)
        return tuple(found)

    async def delete(self, chunk: ChunkId) -> bool:
        self._check_mounted()
        if chunk in self.writing:
            raise ChunkBusyError(str(chunk))
        return self.files.pop(chunk.name, None) is not None

    async def quarantine(self, chunk: ChunkId) -> None:
        self.stored(chunk)
        if chunk.name in self.quarantined:
            raise ChunkExistsError(chunk.name)
        self.quarantined.add(chunk.name)
        del self.files[chunk.name]

    async def health(self) -> Health:
        self._check_mounted()
        return Health(self.identity, Space(self.free_bytes, 2**40, 1))

    async def note_catalog_sequence(self, sequence: int) -> None:
        self._check_mounted()
        old = self.identity
        highest = max(sequence, old.catalog_sequence)
        self.identity = NodeIdentity(old.cluster_id, old.node, old.node_id, highest)


class MemoryUpload:
    """A chunk on its way to a `MemoryStore`."""

    def __init__(self, store: MemoryStore, chunk: ChunkId, file_bytes: int) -> None:
        self.store = store
        self.chunk = chunk
        self.file_bytes = file_bytes
        self.data = b""

    async def write(self, buffers: Sequence[bytes | bytearray | memoryview]) -> None:
        self.data += b"".join(buffers)
        if len(self.data) > self.file_bytes:
            await self.abort()
            raise ChunkRefusedError("longer than announced")

    async def finish(self) -> Receipt:
        await self.abort()
        self.store._check_mounted()
        if len(self.data) != self.file_bytes:
            raise ChunkRefusedError("shorter than announced")
        if found := self.store.findings(self.data, self.chunk):
            raise ChunkRefusedError(str(found[0]))
        digest = self.store.decoded(self.data, self.chunk).digest
        receipt = Receipt(self.chunk, self.file_bytes, digest, "stored")
        old = self.store.files.get(self.chunk.name)
        if old is not None:
            damage = self.store.findings(old, self.chunk)
            if not damage and old != self.data:
                raise ChunkExistsError(self.chunk.name)
            outcome = "replaced" if damage else "present"
            receipt = replace(receipt, outcome=outcome, damage=str(damage[0]) if damage else "")
        self.store.files[self.chunk.name] = self.data
        return receipt

    async def abort(self) -> None:
        self.store.writing.discard(self.chunk)


def check_types(store: MemoryStore) -> Store:
    """Let the type checker compare the fake with the protocol."""
    assert issubclass(ChunkBusyError, StoreError)
    return store
