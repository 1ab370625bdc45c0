"""A storage node that is a server elsewhere, by HTTP (`ec.store.wire`).

What a node says is checked here once more: heads are decoded and blocks compared with their
checksums on this side, so a node that lies, or a network that spoils, is found out as damage. The
head of a chunk is kept in memory and named by its digest in every range that is asked for: if the
node has another chunk under that name by now, the head is asked for again.

Every wait has an end (`Timeouts`), and nothing is tried again: that is for the caller to decide.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

from ec.alignment import recycled_buffer
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
from ec.chunk_write import CHUNK_BYTES_MAX
from ec.errors import (
    ChunkDamagedError,
    ChunkNameError,
    ChunkRefusedError,
    NodeAddressError,
    StoreUnavailableError,
)
from ec.geometry import BLOCK_BYTES, ByteRange, block_span, covering_blocks
from ec.node_identity import NodeIdentity
from ec.store import wire
from ec.store.calls import NodeCalls
from ec.store.http_client import Connection, Pool, Reply
from ec.store.patience import Timeouts
from ec.store.protocol import Health
from ec.store.remote_upload import RemoteUpload

B = TypeVar("B")

PORT_MAX: Final = 65535
# Heads kept in memory: some tens of KiB each.
HEADS_MAX: Final = 128
# Received, and then checked, at a time.
_STEP_BYTES: Final = 16 * BLOCK_BYTES

assert wire.TAIL_BYTES_MAX >= TRAILER_BYTES


def parse_node_url(url: str) -> tuple[str, int]:
    """Return host and port of `http://HOST:PORT`.

    Raises:
        NodeAddressError: it is something else.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise NodeAddressError(f"{url!r}: {error}") from error
    more = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password)
    if parts.scheme != "http" or not host or port is None or not 0 < port <= PORT_MAX or any(more):
        raise NodeAddressError(f"{url!r} is not http://HOST:PORT")
    return host, port


async def who_is(
    host: str, port: int, *, token: str | None = None, timeouts: Timeouts | None = None
) -> Health:
    """Return which node answers at an address, whichever it is.

    Raises:
        NodeNotMountedError: a server without a node's directory, so far. StoreError.
    """
    assert 0 < port <= PORT_MAX
    patience = timeouts or Timeouts()
    address = _address(host, port)
    pool = Pool(host, port, node=address, timeouts=patience, connections_max=1)
    headers = _base_headers(host, port, token)
    try:
        calls = NodeCalls(pool, patience, node=address, headers=headers)
        return wire.health_of(await calls.ask("GET", wire.HEALTH_PATH, wire.HealthBody))
    finally:
        pool.close()


def _address(host: str, port: int) -> str:
    assert host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _base_headers(host: str, port: int, token: str | None) -> tuple[tuple[str, str], ...]:
    host_header = ("host", _address(host, port))
    return (host_header,) if token is None else (
        host_header, ("authorization", f"Bearer {token}")
    )  # fmt: skip


class RemoteStore:
    """See `ec.store.protocol.Store`.

    Args:
        node: its name.
        node_id, cluster_id: what its identity must say: another one answers nothing, so what it
            lacks is not taken for missing. None: not checked.
        token: sent with every request.
        connections_max: to this node, at once; who wants one more waits for `connect_s`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        node: str,
        node_id: str | None = None,
        cluster_id: str | None = None,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        connections_max: int = 32,
    ) -> None:
        assert node
        self._timeouts = timeouts or Timeouts()
        pool = Pool(host, port, node=node, timeouts=self._timeouts, connections_max=connections_max)
        headers = [*_base_headers(host, port, token), (wire.NODE_HEADER, node)]
        if node_id is not None:
            headers.append((wire.NODE_ID_HEADER, node_id))
        if cluster_id is not None:
            headers.append((wire.CLUSTER_HEADER, cluster_id))
        self._calls = NodeCalls(pool, self._timeouts, node=node, headers=tuple(headers))
        self._heads: OrderedDict[ChunkId, ChunkHead] = OrderedDict()

    @property
    def node(self) -> str:
        """See `Store`."""
        return self._calls.node

    def close(self) -> None:
        """Close the connections that nobody uses; the others close when their use ends."""
        self._calls.pool.close()
        self._heads.clear()

    # --- Writing ----------------------------------------------------------------------------

    async def begin(self, chunk: ChunkId, file_bytes: int) -> RemoteUpload:
        """See `Store`; the node has reserved the space when this returns."""
        if not 0 < file_bytes <= CHUNK_BYTES_MAX:
            raise ChunkRefusedError(f"{chunk}: {file_bytes} bytes are no chunk's length")
        self._heads.pop(chunk, None)
        return await RemoteUpload.begin(self._calls, chunk, file_bytes)

    # --- Reading ----------------------------------------------------------------------------

    async def head(self, chunk: ChunkId) -> ChunkHead:
        """See `Store`; asks the node, whatever is in memory."""
        target = wire.chunk_path(chunk, wire.TAIL)
        async with self._calls.exchange("GET", target) as (connection, reply):
            await self._calls.check(connection, reply, 200)
            size = _number(reply.headers.get(wire.FILE_BYTES_HEADER, ""))
            if not TRAILER_BYTES <= reply.length <= min(size, wire.TAIL_BYTES_MAX):
                raise StoreUnavailableError(
                    f"{self.node}: {reply.length} bytes of tail of a file of {size}"
                )
            tail = await self._calls.body(connection, reply)
        path = self._path(chunk)
        trailer = decode_trailer(tail[-TRAILER_BYTES:], file_bytes=size, path=path)
        if size - trailer.payload_bytes != len(tail):
            raise StoreUnavailableError(f"{self.node}: sent another part of {chunk}")
        head = decode_head(trailer, tail, path=path)
        check_identity(head, chunk, path=path)
        assert head.id == chunk
        self._heads[chunk] = head
        while len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        return head

    async def read(self, chunk: ChunkId, start: int, end: int) -> memoryview:
        """See `Store`."""
        kept = self._heads.get(chunk)
        if kept is not None:
            assert kept.id == chunk
            self._heads.move_to_end(chunk)
            found = await self._read(kept, start, end)
            if found is not None:
                return found
        # Not known, or another chunk by now: one that was found to be bad has been replaced.
        found = await self._read(await self.head(chunk), start, end)
        if found is None:
            raise StoreUnavailableError(f"{self.node}: {chunk} changes while it is read")
        return found

    async def _read(self, head: ChunkHead, start: int, end: int) -> memoryview | None:
        """Return a range, or None where the node has another chunk than that of the head."""
        size = head.payload_bytes
        if not 0 <= start <= end <= size or end - start > READ_BYTES_MAX:
            raise ChunkRefusedError(f"{head.id}: bytes {start} to {end} of a payload of {size}")
        blocks = covering_blocks(start, end, size)
        if not blocks:
            return memoryview(b"")
        span = block_span(blocks.start, blocks.stop, size)
        calls, target = self._calls, wire.chunk_path(head.id)
        headers = (*calls.headers, ("range", f"bytes={span.start}-{span.end - 1}"))
        what = f"GET {target}"
        connection = await calls.pool.request("GET", target, headers)
        try:
            with calls.patience(self._timeouts.answer_s, what) as patience:
                reply = await connection.reply()
                if reply.status == 416 or not self._is_same(head, reply):
                    connection.close()
                    self._heads.pop(head.id, None)
                    return None
                await calls.check(connection, reply, 206)
                self._check_range(reply, span, head.trailer.file_bytes)
                patience.renew(self._timeouts.body_s(span.size), what)
                buffer = recycled_buffer(span.size)  # Filled, or not handed out.
                await self._receive_blocks(connection, head, blocks.start, buffer)
        finally:
            calls.pool.give_back(connection)
        return buffer[start - span.start : end - span.start]

    def _is_same(self, head: ChunkHead, reply: Reply) -> bool:
        return reply.status != 206 or reply.headers.get("etag") == f'"{head.digest}"'

    def _check_range(self, reply: Reply, span: ByteRange, file_bytes: int) -> None:
        assert 0 < span.size <= file_bytes
        expected = f"bytes {span.start}-{span.end - 1}/{file_bytes}"
        found = reply.headers.get("content-range")
        if found != expected or reply.length != span.size:
            raise StoreUnavailableError(
                f"{self.node}: asked for {expected}, sends {found} in {reply.length} bytes"
            )

    async def _receive_blocks(
        self, connection: Connection, head: ChunkHead, first: int, buffer: memoryview
    ) -> None:
        assert 0 <= first < head.blocks
        path = self._path(head.id)
        for at in range(0, len(buffer), _STEP_BYTES):
            part = buffer[at : at + _STEP_BYTES]
            await connection.read_into(part)
            check_blocks(head, first + at // BLOCK_BYTES, part, path=path)

    async def list(self, *, after: str = "", limit: int = LIST_MAX) -> tuple[ChunkId, ...]:
        """See `Store`."""
        assert 1 <= limit <= LIST_MAX
        target = f"{wire.CHUNKS_PATH}?after={quote(after, safe='')}&limit={limit}"
        names = (await self._calls.ask("GET", target, wire.NamesBody)).chunks
        try:
            found = tuple(map(ChunkId.parse, names))
        except ChunkNameError as error:
            raise StoreUnavailableError(f"{self.node}: lists what is no chunk: {error}") from error
        if len(names) > limit or any(a >= b for a, b in zip([after, *names], names, strict=False)):
            raise StoreUnavailableError(f"{self.node}: lists chunks that were not asked for")
        return found

    async def verify(self, chunk: ChunkId) -> tuple[ChunkDamagedError, ...]:
        """See `Store`."""
        target = wire.chunk_path(chunk, wire.VERIFY)
        wait_s = self._timeouts.scan_s
        found = await self._calls.ask("POST", target, wire.FindingsBody, answer_s=wait_s)
        return tuple(wire.finding_of(body, node=self.node) for body in found.findings)

    # --- Removing and the rest --------------------------------------------------------------

    async def delete(self, chunk: ChunkId) -> bool:
        """See `Store`."""
        self._heads.pop(chunk, None)
        return (await self._calls.ask("DELETE", wire.chunk_path(chunk), wire.DeletedBody)).deleted

    async def quarantine(self, chunk: ChunkId) -> None:
        """See `Store`."""
        self._heads.pop(chunk, None)
        await self._calls.ask("POST", wire.chunk_path(chunk, wire.QUARANTINE), wire.DoneBody)

    async def health(self) -> Health:
        """See `Store`."""
        return wire.health_of(await self._calls.ask("GET", wire.HEALTH_PATH, wire.HealthBody))

    async def note_catalog_sequence(self, sequence: int) -> None:
        """See `Store`."""
        assert sequence >= 0
        body = wire.SequenceBody(sequence)
        await self._calls.ask("PUT", wire.SEQUENCE_PATH, wire.SequenceBody, body)

    async def initialise(self, identity: NodeIdentity) -> Health:
        """Make the node's empty directory into this node; harmless if it is already.

        Raises:
            NodeIdentityError: it is another node, or holds something else. StoreError.
        """
        return wire.health_of(
            await self._calls.ask("PUT", wire.IDENTITY_PATH, wire.HealthBody, identity)
        )

    def _path(self, chunk: ChunkId) -> str:
        return f"{self.node}:{chunk.name}"


def _number(text: str) -> int:
    """Return a length that was sent as text, or -1 where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else -1
