"""Make lost chunks again: copied from a node that still has them, or computed from k others.

All lost chunks of a segment are computed in one pass, window by window, from verified blocks. One
window is read while another is computed and the one before that is written, and each goes on as
soon as it can. What comes out is checked against the manifest before the nodes give it a name: a
repaired chunk is byte for byte the lost one, or it is not made at all. Nothing is staged; memory
does not depend on the chunks' length.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from ec import checksums
from ec.alignment import (
    ALIGNMENT_BYTES,
    HUGE_PAGE_BYTES,
    LONG_BYTES,
    aligned_buffer,
    memory_bytes,
    recycling,
)
from ec.chunk_file import ChunkHead, chunk_entry, encode_tail
from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.codec import Codec
from ec.encode import together
from ec.errors import (
    ChunkDamagedError,
    ChunkRefusedError,
    EcError,
    GenerationMixError,
    NotEnoughChunksError,
)
from ec.geometry import BLOCK_BYTES, ByteRange, blocks_of
from ec.indexes import Indexes, join
from ec.manifest import Manifest
from ec.offload import Offload
from ec.profile import Profile
from ec.read import OnTrouble
from ec.segment import chunk_indexes, file_bytes
from ec.store.protocol import Store, Upload

# Of a chunk that is copied, at once.
WINDOW_BYTES: Final = 1024 * 1024
assert WINDOW_BYTES % BLOCK_BYTES == 0 == HUGE_PAGE_BYTES % BLOCK_BYTES
# Windows of k survivors that are read at once, while another one is computed: two were no faster.
AHEAD: Final = 1
# Of all windows of k survivors and two of what is made: long ones cost fewer changes of threads.
BUFFER_BYTES: Final = 64 * 1024 * 1024

# The same range of some chunks; None where a chunk has ended before.
Windows = dict[int, memoryview | bytes | None]


async def copy(chunk: ChunkId, source: Store, target: Store) -> Receipt:
    """Copy a chunk from one node to another.

    Raises:
        EcError: the source's is not there or damaged, or the target refuses.
    """
    head = await source.head(chunk)
    size = head.payload_bytes
    upload = await target.begin(chunk, head.trailer.file_bytes)
    try:
        await _copy_payload(chunk, size, source, upload)
        tail = encode_tail(head.manifest, chunk.index, head.checksums, head.indexes)
        return await _finish(upload, tail)
    finally:
        with trio.CancelScope(shield=True):
            await upload.abort()


async def _copy_payload(chunk: ChunkId, size: int, source: Store, upload: Upload) -> None:
    """Read one window while the one before is written."""
    before: memoryview | None = None
    for start in range(0, size, WINDOW_BYTES):
        calls: list[Callable[[], Awaitable[memoryview | None]]]
        calls = [partial(source.read, chunk, start, min(start + WINDOW_BYTES, size))]
        if before is not None:
            calls.append(partial(upload.write, [before]))
        before = (await together(calls))[0]
    if before is not None:
        await upload.write([before])


def window_bytes_of(profile: Profile, made: int) -> int:
    """Return how long a window of each chunk may be where so many chunks are made at once.

    Of whole huge pages; where the limit has not one for each buffer, of small ones, which shorter
    buffers are of.
    """
    assert 1 <= made <= profile.m
    buffers = (AHEAD + 1) * profile.k + 2 * made
    each = BUFFER_BYTES // buffers
    if each >= HUGE_PAGE_BYTES:
        return each - each % HUGE_PAGE_BYTES
    longest = min(each - ALIGNMENT_BYTES, LONG_BYTES - 1)
    return max(1, longest // BLOCK_BYTES) * BLOCK_BYTES


class Rebuild:
    """Computes lost chunks of one encoding.

    Args:
        survivors: chunk index -> where it is; those that turn out bad are left out and reported.
        targets: chunk index -> where the chunk that is made shall be.
        window_bytes: of each chunk at once, whole blocks; None for what suits the profile, which
            it never passes: a buffer of a megabyte takes a huge page, and wide profiles many.
        ahead: windows that are read at once.
    """

    def __init__(
        self,
        manifest: Manifest,
        survivors: Mapping[int, Store],
        targets: Mapping[int, Store],
        *,
        codec: Codec,
        offload: Offload,
        on_trouble: OnTrouble,
        window_bytes: int | None = None,
        ahead: int = AHEAD,
    ) -> None:
        assert ahead >= 1
        assert codec.profile == manifest.profile
        assert targets
        assert not survivors.keys() & targets.keys()
        self._manifest = manifest
        self._shape = manifest.geometry
        self._survivors = dict(survivors)
        self._targets = targets
        self._codec = codec
        self._offload = offload
        self._on_trouble = on_trouble
        limit = window_bytes_of(manifest.profile, len(targets))
        self._window_bytes = min(window_bytes or limit, limit)
        assert self._window_bytes % BLOCK_BYTES == 0
        self._ahead = ahead
        self._found = {index: bytearray() for index in targets}
        self.read_bytes = 0

    async def run(self) -> dict[int, Receipt]:
        """Make all chunks; return what their nodes answered.

        Raises:
            NotEnoughChunksError: fewer than k survivors are good. ChunkDamagedError: what was
            computed is not what the manifest says. GenerationMixError: a survivor is of another
            encoding. EcError: a target refuses. Nothing gets a name then, unless a node had
            finished already: and that one is right.
        """
        indexes = await self._whole_indexes()
        sizes = file_bytes(self._manifest)
        uploads: dict[int, Upload] = {}
        try:
            for index, store in self._targets.items():
                chunk = self._manifest.chunk_id(index)
                uploads[index] = await store.begin(chunk, sizes[index])
            await self._make_payloads(uploads)
            tails = self._tails(indexes)
            receipts = await together(
                [_finishing(uploads[index], tails[index]) for index in self._targets]
            )
        finally:
            with trio.CancelScope(shield=True):
                for upload in uploads.values():
                    await upload.abort()
        return dict(zip(self._targets, receipts, strict=True))

    # --- Windows ----------------------------------------------------------------------------

    async def _make_payloads(self, uploads: Mapping[int, Upload]) -> None:
        """Read, compute and write side by side; each stage hands its window on to the next."""
        windows = self._windows()
        if not windows:
            return
        read = [trio.open_memory_channel[Windows](0) for _ in range(self._ahead)]
        made = trio.open_memory_channel[dict[int, memoryview]](0)
        calls: list[Callable[[], Awaitable[None]]]
        calls = [
            partial(self._read_windows, windows[at :: self._ahead], channel[0])
            for at, channel in enumerate(read)
        ]
        calls.append(partial(self._make_windows, windows, [each[1] for each in read], made[0]))
        calls.append(partial(_write_windows, len(windows), made[1], uploads))
        kept = (self._ahead + 1) * self._shape.profile.k * memory_bytes(windows[0].size)
        with recycling(kept):
            await together(calls)

    def _windows(self) -> list[ByteRange]:
        """Return all windows: of one length, but for the last one."""
        longest = max(self._shape.payload_bytes(index) for index in self._targets)
        count = -(-longest // self._window_bytes)
        size = blocks_of(-(-longest // max(count, 1))) * BLOCK_BYTES
        return [
            ByteRange(start, min(start + size, longest)) for start in range(0, longest, size or 1)
        ]

    async def _read_windows(
        self, windows: Sequence[ByteRange], read: trio.MemorySendChannel[Windows]
    ) -> None:
        """Read some windows, one after the other: each is taken before the next is begun."""
        for window in windows:
            await read.send(await self._read_survivors(window))

    async def _make_windows(
        self,
        windows: Sequence[ByteRange],
        read: Sequence[trio.MemoryReceiveChannel[Windows]],
        made: trio.MemorySendChannel[dict[int, memoryview]],
    ) -> None:
        """Compute window by window; the buffers are two sets, one of them being written."""
        size = windows[0].size
        sets = [
            {index: aligned_buffer(size, zeroed=False) for index in self._targets} for _ in range(2)
        ]
        for at, window in enumerate(windows):
            survivors = await read[at % len(read)].receive()
            targets = {index: each[: window.size] for index, each in sets[at % 2].items()}
            parts = await self._offload.run(self._compute, window, survivors, targets)
            del survivors  # Its memory is wanted for the next windows.
            await made.send(parts)

    def _compute(
        self, window: ByteRange, survivors: Windows, targets: Mapping[int, memoryview]
    ) -> dict[int, memoryview]:
        """Fill the targets; return what each chunk really has of the window. In a thread."""
        self._codec.rebuild(survivors, targets)
        parts = {}
        for index, target in targets.items():
            part = self._shape.beside(index, window.start, window.end)
            if any(target[part.size :]):
                raise self._wrong(index, window.start + part.size)
            parts[index] = target[: part.size]
            self._found[index] += checksums.block_checksums(parts[index])
        return parts

    async def _read_survivors(self, window: ByteRange) -> Windows:
        """Return the window of k survivors, data before parity; bad ones are replaced by others."""
        assert window.size > 0
        k = self._shape.profile.k
        windows: Windows = {}

        async def ask(index: int, store: Store) -> None:
            part = self._shape.beside(index, window.start, window.end)
            if not part.size:
                windows[index] = None
                return
            chunk = self._manifest.chunk_id(index)
            try:
                found = await store.read(chunk, part.start, part.end)
            except EcError as error:
                self._lose(index, error)
                return
            self.read_bytes += len(found)
            is_whole = len(found) == window.size
            windows[index] = found if is_whole else bytes(found).ljust(window.size, b"\0")

        while len(windows) < k:
            missing = sorted(self._survivors.keys() - windows.keys())[: k - len(windows)]
            if len(windows) + len(missing) < k:
                left = len(self._survivors)
                raise NotEnoughChunksError(f"{left} good chunks of {self._codec.profile} are left")
            async with trio.open_nursery() as nursery:
                for index in missing:
                    nursery.start_soon(ask, index, self._survivors[index])
        return windows

    def _lose(self, index: int, error: EcError) -> None:
        if self._survivors.pop(index, None) is not None:  # Else another window found it out.
            self._on_trouble(index, error)

    # --- Behind the payload -----------------------------------------------------------------

    async def _whole_indexes(self) -> Indexes:
        """Return the segment's indexes: from any parity chunk, else from all data chunks."""
        k = self._shape.profile.k
        heads: dict[int, ChunkHead] = {}
        for index in sorted(self._survivors, reverse=True):
            head = await self._head(index)
            if head is not None:
                heads[index] = head
                if index >= k:
                    return head.indexes
        if heads.keys() >= set(range(k)):
            return join([heads[index].indexes for index in range(k)])
        raise NotEnoughChunksError(f"{len(heads)} good chunks of {self._codec.profile} are left")

    async def _head(self, index: int) -> ChunkHead | None:
        chunk = self._manifest.chunk_id(index)
        try:
            head = await self._survivors[index].head(chunk)
        except EcError as error:
            self._lose(index, error)
            return None
        if head.manifest != self._manifest:
            raise GenerationMixError(f"{chunk} has another manifest than the one to repair by")
        return head

    def _tails(self, whole: Indexes) -> dict[int, bytes]:
        """Return what goes behind each payload, when that is what the manifest says."""
        parts = chunk_indexes(self._manifest, whole)
        tails = {}
        for index, found in self._found.items():
            entry = self._manifest.chunks[index]
            if chunk_entry(entry.payload_bytes, found, parts[index]) != entry:
                raise self._wrong(index, 0)
            tails[index] = encode_tail(self._manifest, index, bytes(found), parts[index])
        return tails

    def _wrong(self, index: int, position: int) -> ChunkDamagedError:
        name = self._manifest.chunk_id(index).name
        reason = "what was computed is not what the manifest says"
        return ChunkDamagedError(name, region="payload", position=position, reason=reason)


async def _write_windows(
    count: int,
    made: trio.MemoryReceiveChannel[dict[int, memoryview]],
    uploads: Mapping[int, Upload],
) -> None:
    """Send window by window what was made."""
    for _ in range(count):
        parts = await made.receive()
        await together([_writing(uploads[index], part) for index, part in parts.items() if part])


def _writing(upload: Upload, part: memoryview) -> Callable[[], Awaitable[None]]:
    return lambda: upload.write([part])


def _finishing(upload: Upload, tail: bytes) -> Callable[[], Awaitable[Receipt]]:
    return lambda: _finish(upload, tail)


async def _finish(upload: Upload, tail: bytes) -> Receipt:
    await upload.write([tail])
    receipt = await upload.finish()
    if receipt.digest != checksums.digest(tail):
        raise ChunkRefusedError(f"{receipt.id}: the node has other bytes than were sent")
    return receipt
