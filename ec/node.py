"""A storage node's answers: request in, response out, no sockets (`ec.store.wire` has the paths).

Whoever has a server of HTTP/1.1 makes a node of it: it hands in requests, and sends what comes
back, a range of a file by sendfile. Every block of a range was verified before it is named.

A node's directory may come and go: it is opened when it is first asked for, so a disk that is
mounted late is found, and until then every answer is "not mounted".
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec
import trio

from ec.chunk_dir import LIST_MAX, ChunkDirectory
from ec.chunk_id import ChunkId
from ec.chunk_reader import ChunkReader, FileRange
from ec.errors import EcError, NodeIdentityError, StoreError
from ec.file_system import FileSystem
from ec.geometry import covering_blocks
from ec.node_dir import initialise
from ec.node_identity import NodeIdentity
from ec.offload import Offload
from ec.store import wire
from ec.store.local import LocalStore

B = TypeVar("B")

CHUNK_TYPE: Final = "application/octet-stream"
# Written to the disk at once; the body comes in smaller pieces.
WRITE_BYTES: Final = 1024 * 1024
# Between two pieces of a body.
BODY_PAUSE_S: Final = 60.0
_SMALL_BODY_BYTES: Final = 64 * 1024
_CHUNK_PATH = re.compile(re.escape(wire.CHUNKS_PATH) + r"/(?P<name>[^/]+)(?:/(?P<what>\w+))?")
_RANGE = re.compile(r"bytes=(?P<first>\d{1,15})-(?P<last>\d{1,15})", re.ASCII)


class Request(Protocol):
    """What a node needs of a request; `receive` gives the body piece by piece, b"" at its end."""

    @property
    def method(self) -> str:
        """Upper case; HEAD arrives as GET."""
        ...

    @property
    def path(self) -> str:
        """Decoded, without the query."""
        ...

    @property
    def query(self) -> Mapping[str, str]:
        """Each field once."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""
        ...

    @property
    def receive(self) -> Callable[[], Awaitable[bytes]]:
        """Called for the next piece of the body."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: `body`, or where it is set `file`, and not both."""

    status: int
    body: bytes = b""
    file: FileRange | None = None
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class RequestRefusedError(Exception):
    """A request that is no request to a node."""

    def __init__(self, status: int, reason: str) -> None:
        assert 400 <= status < 500
        super().__init__(reason)
        self.status = status


class Node:
    """Answers for one directory.

    Args:
        name: what the node must be called, where that is known.
        token: what every request must carry; None where none is needed.
    """

    def __init__(
        self,
        files: FileSystem,
        path: str,
        offload: Offload,
        *,
        name: str | None = None,
        token: str | None = None,
        reserve_bytes: int = 0,
    ) -> None:
        assert path
        self._files = files
        self._path = path
        self._offload = offload
        self._name = name
        self._token = token
        self._reserve_bytes = reserve_bytes
        self._opening = trio.Lock()
        self._store: LocalStore | None = None
        self._directory: ChunkDirectory | None = None

    async def store(self) -> LocalStore:
        """Return the directory, opened when it is not yet.

        Raises:
            NodeNotMountedError: it has no identity. NodeIdentityError, StoreError: as
            `ChunkDirectory.open`.
        """
        async with self._opening:  # Two that come first would take the lock from each other.
            if self._store is None:
                self._directory = await self._offload.run(self._open)
                self._store = LocalStore(self._directory, self._offload)
            return self._store

    def _open(self) -> ChunkDirectory:
        return ChunkDirectory.open(
            self._files, self._path, node=self._name, reserve_bytes=self._reserve_bytes
        )

    def close(self) -> None:
        """Let go of the directory."""
        if self._directory is not None:
            self._directory.close()
        self._store = self._directory = None

    async def handle(self, request: Request) -> Answer:
        """Answer one request; what is wrong with it, or with a chunk, is an answer too."""
        try:
            self._check_token(request)
            if request.path != wire.IDENTITY_PATH:
                await self._check_node(request)
            return await self._route(request)
        except RequestRefusedError as error:
            return _json(wire.Failure(str(error)), error.status)
        except EcError as error:
            status, failure = wire.encode_failure(error)
            return _json(failure, status)

    def _check_token(self, request: Request) -> None:
        if self._token is None:
            return
        expected = f"Bearer {self._token}".encode()
        found = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(found, expected):
            raise RequestRefusedError(401, "the token is missing or wrong")

    async def _check_node(self, request: Request) -> None:
        """Refuse who means another node: what is missing here may well be there."""
        meant = request.headers.get(wire.NODE_HEADER)
        if meant is not None:
            found = (await self.store()).identity
            if meant != found.node_id:
                raise NodeIdentityError(f"this is node {found.node}, {found.node_id}, not {meant}")

    async def _route(self, request: Request) -> Answer:
        where = request.method, request.path
        if where == ("GET", wire.HEALTH_PATH):
            return _json(wire.health_body(await (await self.store()).health()))
        if where == ("GET", wire.CHUNKS_PATH):
            return await self._list(request)
        if where == ("PUT", wire.IDENTITY_PATH):
            return await self._initialise(await _read_json(request, NodeIdentity))
        if where == ("PUT", wire.SEQUENCE_PATH):
            body = await _read_json(request, wire.SequenceBody)
            if body.sequence < 0:
                raise RequestRefusedError(400, "a sequence is not negative")
            await (await self.store()).note_catalog_sequence(body.sequence)
            return _json(wire.DoneBody())
        found = _CHUNK_PATH.fullmatch(request.path)
        if found is None:
            raise RequestRefusedError(404, f"no {request.method} of {request.path[:200]}")
        return await self._route_chunk(request, ChunkId.parse(found["name"]), found["what"])

    async def _route_chunk(self, request: Request, chunk: ChunkId, what: str | None) -> Answer:
        store = await self.store()
        match request.method, what:
            case "PUT", None:
                return await self._put(store, chunk, request)
            case "GET", None:
                return await self._get(store, chunk, request.headers.get("range"))
            case "GET", "tail":
                return await self._tail(store, chunk)
            case "DELETE", None:
                return _json(wire.DeletedBody(await store.delete(chunk)))
            case "POST", "verify":
                found = [wire.finding_body(finding) for finding in await store.verify(chunk)]
                return _json(wire.FindingsBody(found))
            case "POST", "quarantine":
                await store.quarantine(chunk)
                return _json(wire.DoneBody())
        raise RequestRefusedError(405, f"no {request.method} of a chunk's {what or 'file'}")

    async def _initialise(self, identity: NodeIdentity) -> Answer:
        if self._name is not None and identity.node != self._name:
            raise RequestRefusedError(409, f"this is node {self._name}, not {identity.node}")
        try:
            await self._offload.run(initialise, self._files, self._path, identity)
        except OSError as error:
            raise RequestRefusedError(409, str(error)) from error
        return _json(wire.health_body(await (await self.store()).health()))

    async def _list(self, request: Request) -> Answer:
        limit = request.query.get("limit", str(LIST_MAX))
        if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= LIST_MAX:
            raise RequestRefusedError(400, f"a page has 1 to {LIST_MAX} names")
        after = request.query.get("after", "")
        found = await (await self.store()).list(after=after, limit=int(limit))
        return _json(wire.NamesBody([chunk.name for chunk in found]))

    async def _put(self, store: LocalStore, chunk: ChunkId, request: Request) -> Answer:
        """Write the body; whatever ends it early, nothing of it stays."""
        length = request.headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            raise RequestRefusedError(411, "the length of a chunk is said before it is sent")
        upload = await store.begin(chunk, int(length))
        try:
            pieces: list[bytes] = []
            size = 0
            while piece := await _next_piece(request):
                pieces.append(piece)
                size += len(piece)
                if size >= WRITE_BYTES:
                    await upload.write(pieces)
                    pieces, size = [], 0
            if pieces:
                await upload.write(pieces)
            receipt = await upload.finish()
        finally:
            await upload.abort()
        return _json(wire.receipt_body(receipt), 200 if receipt.outcome == "present" else 201)

    async def _get(self, store: LocalStore, chunk: ChunkId, header: str | None) -> Answer:
        reader = await store.reader(chunk)
        size = reader.head.trailer.file_bytes
        start, end = 0, size
        if header is not None:
            found = _RANGE.fullmatch(header)
            if found is None or not int(found["first"]) <= int(found["last"]) < size:
                raise RequestRefusedError(416, f"{header[:60]!r} of a file of {size} bytes")
            start, end = int(found["first"]), int(found["last"]) + 1
        await self._offload.run(_verify, reader, start, end)
        headers = [("etag", f'"{reader.head.digest}"'), ("accept-ranges", "bytes")]
        if header is not None:
            headers.append(("content-range", f"bytes {start}-{end - 1}/{size}"))
        return Answer(
            200 if header is None else 206,
            file=reader.file_range(start, end),
            content_type=CHUNK_TYPE,
            headers=tuple(headers),
        )

    async def _tail(self, store: LocalStore, chunk: ChunkId) -> Answer:
        reader = await store.reader(chunk)
        start, end = reader.head.payload_bytes, reader.head.trailer.file_bytes
        return Answer(200, file=reader.file_range(start, end), content_type=CHUNK_TYPE)


def _verify(reader: ChunkReader, start: int, end: int) -> None:
    """Verify the blocks of a range that were not verified yet."""
    assert 0 <= start <= end
    length = reader.head.payload_bytes
    low, high = min(start, length), min(end, length)
    if low < high and reader.verified_range(low, high) is None:
        blocks = covering_blocks(low, high, length)
        try:
            reader.verify_blocks(blocks.start, blocks.stop)
        except OSError as error:
            raise StoreError(f"{reader.path}: {error}") from error


async def _next_piece(request: Request) -> bytes:
    """Return the next piece of a body; who stops sending must not hold reserved space for ever.

    Raises:
        trio.TooSlowError: nothing came.
    """
    with trio.fail_after(BODY_PAUSE_S):
        return await request.receive()


async def _read_json(request: Request, kind: type[B]) -> B:
    body = b""
    while piece := await _next_piece(request):
        body += piece
        if len(body) > _SMALL_BODY_BYTES:
            raise RequestRefusedError(413, f"a body has at most {_SMALL_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise RequestRefusedError(400, f"the body cannot be read: {error}") from error


def _json(body: msgspec.Struct, status: int = 200) -> Answer:
    assert 200 <= status < 600
    return Answer(status, msgspec.json.encode(body) + b"\n")
