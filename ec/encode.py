"""Encode a segment onto k+m storage nodes: one reading of the source, one writing of every chunk.

Window by window, the next one is read and coded in a thread while the last one goes to all nodes.
A chunk counts when its node has read it back and answers with the digest that was sent; the
encoding counts when all k+m do. Whatever fails, all of it is given up, and what is finished on some
nodes by then is for the catalog to remove: it knows the encoding by its generation and uuid.

Nothing here decides that the source may go. That needs a decode too, and a record that is durable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import trio

from ec import checksums
from ec.chunk_file import encode_tail
from ec.chunk_write import Receipt
from ec.codec import Codec
from ec.errors import ChunkRefusedError, EcError
from ec.indexes import Indexes
from ec.manifest import Manifest
from ec.offload import Offload
from ec.segment import chunk_indexes, complete, file_bytes
from ec.segment_coder import SegmentCoder
from ec.store.protocol import Store, Upload

T = TypeVar("T")


class Source(Protocol):
    """The segment's bytes."""

    def read_into(self, position: int, buffer: memoryview) -> int:
        """Fill the buffer from a position; return the bytes read. Blocks.

        Raises:
            OSError: they cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoding of which every chunk is durable and was read back.

    Attributes:
        receipts: in the order of chunk indexes.
    """

    manifest: Manifest
    receipts: tuple[Receipt, ...]


async def encode(
    source: Source,
    draft: Manifest,
    indexes: Indexes,
    stores: Sequence[Store],
    *,
    codec: Codec,
    offload: Offload,
    window_bytes: int | None = None,
) -> Encoded:
    """Write all chunks of an encoding.

    Args:
        draft: from `ec.segment.draft`.
        indexes: of the whole segment.
        stores: one a chunk, in the order of indexes.
        window_bytes: of each chunk at once, whole blocks; None for what suits the profile.

    Raises:
        EcError: a node refused, or answered for other bytes than were sent. OSError: the source
        cannot be read. No upload is open any more.
    """
    assert len(stores) == draft.k + draft.m
    uploads: list[Upload] = []
    try:
        for index, (store, size) in enumerate(zip(stores, file_bytes(draft), strict=True)):
            uploads.append(await store.begin(draft.chunk_id(index), size))
        coder = SegmentCoder(draft.geometry, codec, window_bytes=window_bytes)
        await _send_windows(source, coder, uploads, offload)
        return await _send_tails(coder, draft, indexes, uploads)
    finally:
        with trio.CancelScope(shield=True):
            for upload in uploads:
                await upload.abort()  # Harmless where it has ended.


async def _send_windows(
    source: Source, coder: SegmentCoder, uploads: Sequence[Upload], offload: Offload
) -> None:
    """Read and code one window while the one before is sent."""
    assert len(uploads) == coder.shape.profile.chunks
    buffers = coder.make_buffers(), coder.make_buffers()
    coded: Sequence[memoryview] = ()
    for window in range(coder.windows):

        async def code(at: int = window) -> Sequence[memoryview]:
            return await offload.run(_code_window, source, coder, at, buffers[at % 2])

        calls: list[Callable[[], Awaitable[Sequence[memoryview] | None]]] = [code]
        coded = (await together([*calls, *_writing(uploads, coded)]))[0] or ()
    await together(_writing(uploads, coded))


def _writing(
    uploads: Sequence[Upload], parts: Sequence[memoryview]
) -> list[Callable[[], Awaitable[None]]]:
    """Return a call for each part that is not empty."""
    return [
        partial(upload.write, [part])
        for upload, part in zip(uploads, parts, strict=False)
        if len(part)
    ]


def _code_window(
    source: Source, coder: SegmentCoder, window: int, buffers: Sequence[memoryview]
) -> Sequence[memoryview]:
    assert len(buffers) == coder.shape.profile.chunks
    for part, buffer in zip(coder.sources(window), buffers, strict=False):
        got = source.read_into(part.start, buffer[: part.size]) if part.size else 0
        if got != part.size:
            raise ChunkRefusedError(f"the source ends at byte {part.start + got}")
    return coder.code(window, buffers)


async def _send_tails(
    coder: SegmentCoder, draft: Manifest, indexes: Indexes, uploads: Sequence[Upload]
) -> Encoded:
    assert len(uploads) == len(draft.chunks)
    found = [coder.checksums(index) for index in range(len(uploads))]
    manifest = complete(draft, found, indexes)
    parts = chunk_indexes(manifest, indexes)
    tails = [
        encode_tail(manifest, index, found[index], parts[index]) for index in range(len(uploads))
    ]
    receipts = await together(
        [_finishing(upload, tail) for upload, tail in zip(uploads, tails, strict=True)]
    )
    return Encoded(manifest, tuple(receipts))


def _finishing(upload: Upload, tail: bytes) -> Callable[[], Awaitable[Receipt]]:
    async def finish() -> Receipt:
        await upload.write([tail])
        receipt = await upload.finish()
        if receipt.digest != checksums.digest(tail):
            raise ChunkRefusedError(f"{receipt.id}: the node has other bytes than were sent")
        return receipt

    return finish


async def together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Return what all calls return, in their order.

    Raises:
        EcError, OSError: the first one that any raised; the others are cancelled.
    """
    results: dict[int, T] = {}
    errors: list[EcError | OSError] = []

    async def run(at: int, call: Callable[[], Awaitable[T]]) -> None:
        try:
            results[at] = await call()
        except (EcError, OSError) as error:
            errors.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for at, call in enumerate(calls):
            nursery.start_soon(run, at, call)
    if errors:
        raise errors[0]
    assert len(results) == len(calls)
    return [results[at] for at in range(len(calls))]
