"""A storage node on another host, over HTTP/1.1.

What a node sends is not believed: everything behind the payload is checked by its digests and
against the chunk's name, and each block of payload against its checksum, on this side. So a node
that sends wrong bytes is found out as a damaged chunk, wherever they came from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
import trio

from ec.chunk_dir import LIST_MAX, READ_BYTES_MAX
from ec.chunk_file import (
    TRAILER_BYTES,
    ChunkHead,
    check_blocks,
    check_identity,
    decode_head,
    decode_trailer,
)
from ec.chunk_id import ChunkId
from ec.chunk_write import CHUNK_BYTES_MAX, Receipt
from ec.errors import (
    ChunkDamagedError,
    ChunkNameError,
    ChunkRefusedError,
    StoreError,
    StoreUnavailableError,
)
from ec.geometry import BLOCK_BYTES, block_span, covering_blocks
from ec.kernels.operands import Buffer
from ec.manifest import MANIFEST_BYTES_MAX
from ec.node_identity import NodeIdentity
from ec.store import wire
from ec.store.client import Client, Exchange, Reply
from ec.store.protocol import Health

B = TypeVar("B")

# Heads that are remembered: some tens of KiB each.
HEADS_MAX: Final = 256
# More than any chunk's: the checksums of 16 GiB of payload, two indexes, the manifest.
TAIL_BYTES_MAX: Final = 2 * 1024 * 1024 + 2 * 16 * 1024 * 1024 + MANIFEST_BYTES_MAX


class RemoteStore:
    """See `ec.store.protocol.Store`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._heads: OrderedDict[ChunkId, ChunkHead] = OrderedDict()

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._client.node

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def begin(self, chunk: ChunkId, file_bytes: int) -> RemoteUpload:
        """See `Store`."""
        if not 0 < file_bytes <= CHUNK_BYTES_MAX:
            raise ChunkRefusedError(f"{chunk}: {file_bytes} bytes are no chunk file's length")
        self._heads.pop(chunk, None)
        client = self._client
        exchange, stream, _ = await client.open(fresh=True)
        headers = client.headers(("content-length", str(file_bytes)), ("expect", "100-continue"))
        try:
            with client.bounded(client.timeouts.call_s, "beginning a chunk"):
                await exchange.send_head("PUT", _path(chunk), headers)
                refusal = await exchange.wait_for_go()
            if refusal is not None:
                raise await _failure(client, exchange, refusal)
        except BaseException:  # Whatever it was, the node sees the connection end.
            await trio.aclose_forcefully(stream)
            raise
        return RemoteUpload(client, exchange, stream, chunk, file_bytes)

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`."""
        self._heads.pop(chunk, None)
        _, tail = await self._call("GET", f"{_path(chunk)}/tail", limit_bytes=TAIL_BYTES_MAX)
        head = self._decoded(chunk, bytes(tail))
        self._heads[chunk] = head
        while len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        return head

    def _decoded(self, chunk: ChunkId, tail: bytes) -> ChunkHead:
        """Return the head in everything behind a payload; the node is not believed."""
        assert len(tail) <= TAIL_BYTES_MAX
        where = f"{self.node}:{chunk}"
        last = tail[-TRAILER_BYTES:]
        # The trailer says how long the payload is; the rest of it must then be as long as this.
        payload = int.from_bytes(last[40:48], "big") if len(last) == TRAILER_BYTES else 0
        trailer = decode_trailer(last, file_bytes=payload + len(tail), path=where)
        head = decode_head(trailer, tail, path=where)
        check_identity(head, chunk, path=where)
        return head

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        head = self._heads.get(chunk)
        if head is None:
            head = await self.head(chunk)
        else:
            self._heads.move_to_end(chunk)
        size = head.payload_bytes
        if not 0 <= start <= end <= size or end - start > READ_BYTES_MAX:
            raise ChunkRefusedError(f"{chunk}: bytes {start} to {end} of a payload of {size}")
        blocks = covering_blocks(start, end, size)
        if not blocks:
            return memoryview(b"")
        span = block_span(blocks.start, blocks.stop, size)
        reply, found = await self._call(
            "GET",
            _path(chunk),
            headers=[("range", f"bytes={span.start}-{span.end - 1}")],
            limit_bytes=span.size,
        )
        if reply.status != 206 or len(found) != span.size:
            raise StoreUnavailableError(f"{self.node}: answers {reply.status} to a range")
        check_blocks(head, blocks.start, found, path=f"{self.node}:{chunk}")
        return found[start - span.start : end - span.start]

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        assert 1 <= limit <= LIST_MAX
        target = f"{wire.CHUNKS_PATH}?limit={limit}"
        if after:
            target += f"&after={ChunkId.parse(after)}"
        body = await self._json("GET", target, wire.NamesBody)
        try:
            return tuple(map(ChunkId.parse, body.chunks))
        except ChunkNameError as error:
            raise StoreUnavailableError(f"{self.node}: lists {error}") from error

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        self._heads.pop(chunk, None)
        long_s = self._client.timeouts.long_s
        body = await self._json(
            "POST", f"{_path(chunk)}/verify", wire.FindingsBody, timeout_s=long_s
        )
        return tuple(wire.finding_of(finding, node=self.node) for finding in body.findings)

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        self._heads.pop(chunk, None)
        return (await self._json("DELETE", _path(chunk), wire.DeletedBody)).deleted

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        self._heads.pop(chunk, None)
        await self._json("POST", f"{_path(chunk)}/quarantine", wire.DoneBody)

    async def health(self) -> Health:
        """See `Store`."""
        return wire.health_of(await self._json("GET", wire.HEALTH_PATH, wire.HealthBody))

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        body = msgspec.json.encode(wire.SequenceBody(sequence))
        await self._json("PUT", wire.SEQUENCE_PATH, wire.DoneBody, body=body)

    async def initialise(self, identity: NodeIdentity) -> Health:
        """Make the node's directory, which is absent or empty, into this node's.

        Raises:
            NodeIdentityError: it is another node's, or not empty. StoreError: it is not done.
        """
        body = msgspec.json.encode(identity)
        return wire.health_of(
            await self._json("PUT", wire.IDENTITY_PATH, wire.HealthBody, body=body)
        )

    async def _json(
        self, method: str, target: str, kind: type[B], *, body: bytes = b"",
        timeout_s: float | None = None,
    ) -> B:  # fmt: skip
        _, found = await self._call(
            method, target, body=body, timeout_s=timeout_s, limit_bytes=wire.JSON_BYTES_MAX
        )
        return _decoded_json(self.node, found, kind)

    async def _call(
        self, method: str, target: str, *, limit_bytes: int, body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (), timeout_s: float | None = None,
    ) -> tuple[Reply, memoryview]:  # fmt: skip
        """Return a good answer; raise what any other one stands for."""
        reply, found = await self._client.call(
            method, target, body=body, headers=headers, timeout_s=timeout_s,
            limit_bytes=max(limit_bytes, wire.JSON_BYTES_MAX),
        )  # fmt: skip
        if reply.status >= 300:
            raise wire.decode_failure(bytes(found), status=reply.status, node=self.node)
        return reply, found


class RemoteUpload:
    """See `ec.store.protocol.Upload`; a connection of its own, closed when it ends."""

    def __init__(
        self,
        client: Client,
        exchange: Exchange,
        stream: trio.SocketStream,
        chunk: ChunkId,
        file_bytes: int,
    ) -> None:
        assert file_bytes > 0
        self._client = client
        self._exchange = exchange
        self._stream = stream
        self._ended = False
        self._left = file_bytes
        self.chunk = chunk

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Upload`."""
        assert not self._ended
        size = sum(map(len, buffers))
        try:
            if size > self._left:
                raise ChunkRefusedError(f"{self.chunk}: {size - self._left} bytes too many")
            with self._client.bounded(self._client.timeouts.call_s, "sending a chunk"):
                await self._exchange.send_body(buffers)
        except StoreUnavailableError as error:
            raise await self._reason(error) from error
        except BaseException:  # Whatever it was, half a chunk is no chunk.
            await self.abort()
            raise
        self._left -= size

    async def _reason(self, error: StoreError) -> Exception:
        """Return why the node took no more, if it said so before it ended the connection."""
        try:
            with self._client.bounded(self._client.timeouts.connect_s, "asking why"):
                reply = await self._exchange.receive_head()
                return await _failure(self._client, self._exchange, reply)
        except StoreUnavailableError:
            return error
        finally:
            await self.abort()

    async def finish(self) -> Receipt:
        """See `Upload`."""
        assert not self._ended
        try:
            if self._left:
                raise ChunkRefusedError(f"{self.chunk}: {self._left} bytes are missing")
            with self._client.bounded(self._client.timeouts.long_s, "finishing a chunk"):
                reply = await self._exchange.receive_head()
            if reply.status >= 300:
                raise await _failure(self._client, self._exchange, reply)
            body = await _receive(self._client, self._exchange, reply)
            receipt = wire.receipt_of(_decoded_json(self._client.node, body, wire.ReceiptBody))
            if receipt.id != self.chunk:
                raise StoreUnavailableError(f"{self._client.node}: answers for {receipt.id}")
            return receipt
        except ChunkNameError as error:
            raise StoreUnavailableError(f"{self._client.node}: answers for {error}") from error
        finally:
            await self.abort()

    async def abort(self) -> None:
        """See `Upload`."""
        if not self._ended:
            self._ended = True
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)


async def _receive(client: Client, exchange: Exchange, reply: Reply) -> memoryview:
    if reply.content_bytes > wire.JSON_BYTES_MAX:
        raise StoreUnavailableError(f"{client.node}: answers with {reply.content_bytes} bytes")
    found = memoryview(bytearray(reply.content_bytes))
    with client.bounded(client.timeouts.call_s, "reading an answer"):
        await exchange.receive_into(found)
    return found


async def _failure(client: Client, exchange: Exchange, reply: Reply) -> Exception:
    """Return the error that an answer stands for."""
    body = await _receive(client, exchange, reply)
    return wire.decode_failure(bytes(body), status=reply.status, node=client.node)


def _decoded_json(node: str, body: memoryview, kind: type[B]) -> B:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise StoreUnavailableError(f"{node}: answers what makes no sense: {error}") from error


def _path(chunk: ChunkId) -> str:
    assert chunk.name.isascii()
    return f"{wire.CHUNKS_PATH}/{chunk.name}"


assert BLOCK_BYTES <= READ_BYTES_MAX
