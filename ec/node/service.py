"""A storage node's answers: request in, answer out, no sockets (`ec.store.wire` has the paths).

Whoever has a server of HTTP/1.1 makes a node of it: it hands in requests, and sends what comes
back, a range of a file by sendfile. What holds:

* A name is parsed and checked whole before anything is looked for; it never is a path.
* Nothing is read of a body before its sender is known and its space is reserved.
* Whatever ends a PUT early, nothing of it stays.
* Disk work is done behind `Gates`, one for each kind, so that an answer about health never waits
  for somebody's verification.
"""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import msgspec
import trio

from ec.chunk_dir import LIST_MAX, ChunkDirectory
from ec.chunk_id import NAME_CHARACTERS_MAX, ChunkId
from ec.chunk_reader import ChunkReader
from ec.chunk_write import ChunkWrite, Receipt
from ec.errors import (
    ChunkDamagedError,
    EcError,
    NodeIdentityError,
    NodeOverloadedError,
    TokenRefusedError,
)
from ec.geometry import ByteRange
from ec.node.bodies import EmptyBody, RangeBody
from ec.node.home import CATALOG_SEQUENCE_MAX, NodeHome
from ec.node.ranges import RangeNotSatisfiableError, parse_range
from ec.node_identity import NodeIdentity
from ec.offload import Offload
from ec.store import wire
from ec.store.protocol import Health

B = TypeVar("B")

# What is received of a PUT before it is written: the memory that one takes.
WRITE_BYTES: Final = 1024 * 1024
SMALL_BODY_BYTES_MAX: Final = 64 * 1024
TOKEN_DELAY_S: Final = 0.1
"""How long a wrong token waits for its answer: guessing is slow."""

MOUNTED_S: Final = 1.0
"""How long a disk that was seen counts as there, for chunks that are open."""

_CHUNK_PATH: Final = re.compile(re.escape(wire.CHUNKS_PATH) + r"/([^/]+)(?:/([a-z]+))?")

# Told of what an operator should know: an event, and values that belong to it.
Note = Callable[[str, Mapping[str, str]], None]


class Request(Protocol):
    """What a node needs of a request; of the two readers of its body it uses one."""

    @property
    def method(self) -> str:
        """Upper case; HEAD arrives as GET."""
        ...

    @property
    def head_only(self) -> bool:
        """Whether it was a HEAD."""
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
    def length_bytes(self) -> int | None:
        """The announced length of the body; None where there was none."""
        ...

    @property
    def receive(self) -> Callable[[], Awaitable[bytes]]:
        """Called for the next bytes of the body; b"" at its end."""
        ...

    @property
    def receive_into(self) -> Callable[[memoryview], Awaitable[int]]:
        """Called for the next bytes of the body, into a buffer; 0 at its end."""
        ...

    @property
    def peer(self) -> str:
        """The other end's address."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes | RangeBody | EmptyBody = b""
    content_type: str = wire.JSON_TYPE
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Gates:
    """Where disk work is done, by kind.

    Attributes:
        quick: health, lists, heads, deletes. read: ranges. write: PUTs. scan: verifications.
    """

    quick: Offload
    read: Offload
    write: Offload
    scan: Offload


class RequestRefusedError(Exception):
    """A request that is no request to a node."""

    def __init__(self, status: int, reason: str) -> None:
        assert 400 <= status < 500
        super().__init__(reason)
        self.status = status


class NodeService:
    """Answers for one directory.

    Args:
        token: what every request must carry; None where none is needed.
        puts_max: chunks that may be on their way at once.
        rack: told with the node's health.
        note: told of damage, of chunks that were replaced, and of wrong tokens.
    """

    def __init__(
        self,
        home: NodeHome,
        gates: Gates,
        *,
        token: str | None = None,
        puts_max: int = 8,
        rack: str | None = None,
        note: Note = lambda _event, _values: None,
    ) -> None:
        assert puts_max >= 1
        self._home = home
        self._gates = gates
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._puts_max = puts_max
        self._puts = 0
        self._mounted_until = -math.inf
        self._rack = rack
        self._note = note

    async def handle(self, request: Request) -> Answer:
        """Answer one request; what is wrong with it, or with a chunk, is an answer too."""
        try:
            await self._check_sender(request)
            return await self._route(request)
        except RequestRefusedError as error:
            return _json(wire.Failure(str(error)), error.status)
        except RangeNotSatisfiableError as error:
            whole = ("content-range", f"bytes */{error.size}")
            return _json(wire.Failure(str(error), "refused"), 416, whole)
        except EcError as error:
            if isinstance(error, ChunkDamagedError):
                self._note("chunk damaged", {"finding": str(error)})
            status, failure = wire.encode_failure(error)
            return _json(failure, status, *([("www-authenticate", "Bearer")] * (status == 401)))

    async def _check_sender(self, request: Request) -> None:
        if self._expected is not None:
            found = request.headers.get("authorization", "").encode("utf-8", "replace")
            if not hmac.compare_digest(found, self._expected):
                self._note("token refused", {"client": request.peer})
                await trio.sleep(TOKEN_DELAY_S)
                raise TokenRefusedError("the token is missing or wrong")
        if "origin" in request.headers:
            raise RequestRefusedError(403, "web pages have no business here")

    # --- Routes -----------------------------------------------------------------------------

    async def _route(self, request: Request) -> Answer:
        where = request.method, request.path
        if where == ("PUT", wire.IDENTITY_PATH):
            return await self._initialise(await _read_json(request, NodeIdentity))
        directory = await self._home.directory()
        _check_meant(request, directory.identity)
        if where == ("GET", wire.HEALTH_PATH):
            return await self._health(directory)
        if where == ("GET", wire.CHUNKS_PATH):
            return await self._list(directory, request)
        if where == ("PUT", wire.SEQUENCE_PATH):
            return await self._note_sequence(directory, request)
        found = _CHUNK_PATH.fullmatch(request.path)
        if found is None or len(found[1]) > NAME_CHARACTERS_MAX:
            raise RequestRefusedError(404, f"nothing is at {request.path[:200]!r}")
        return await self._route_chunk(directory, request, ChunkId.parse(found[1]), found[2])

    async def _route_chunk(
        self, directory: ChunkDirectory, request: Request, chunk: ChunkId, what: str | None
    ) -> Answer:
        gates = self._gates
        match request.method, what:
            case "GET", None:
                return await self._get(directory, request, chunk)
            case "PUT", None:
                return await self._put(directory, request, chunk)
            case "GET", wire.TAIL:
                return await self._tail(directory, chunk)
            case "DELETE", None:
                was_there = await gates.quick.run(directory.delete, chunk)
                return _json(wire.DeletedBody(was_there))
            case "POST", wire.VERIFY:
                return await self._verify(directory, chunk)
            case "POST", wire.QUARANTINE:
                await gates.quick.run(directory.quarantine, chunk.name)
                return _json(wire.DoneBody())
        raise RequestRefusedError(405, f"no {request.method} of a chunk's {what or 'file'}")

    async def _initialise(self, identity: NodeIdentity) -> Answer:
        await self._home.initialise(identity)
        return await self._health(await self._home.directory())

    async def _health(self, directory: ChunkDirectory) -> Answer:
        space = await self._gates.quick.run(directory.space)
        return _json(wire.health_body(Health(directory.identity, space, self._rack)))

    async def _list(self, directory: ChunkDirectory, request: Request) -> Answer:
        limit = request.query.get("limit", str(LIST_MAX))
        if not re.fullmatch("[0-9]{1,9}", limit, re.ASCII) or not 1 <= int(limit) <= LIST_MAX:
            raise RequestRefusedError(400, f"a page has 1 to {LIST_MAX} names")
        after = request.query.get("after", "")
        found = await self._gates.quick.run(lambda: directory.list(after=after, limit=int(limit)))
        assert len(found) <= int(limit)
        return _json(wire.NamesBody([chunk.name for chunk in found]))

    async def _note_sequence(self, directory: ChunkDirectory, request: Request) -> Answer:
        sequence = (await _read_json(request, wire.SequenceBody)).catalog_sequence
        if not 0 <= sequence <= CATALOG_SEQUENCE_MAX:
            raise RequestRefusedError(400, f"a catalog sequence is 0 to {CATALOG_SEQUENCE_MAX}")
        await self._gates.quick.run(directory.note_catalog_sequence, sequence)
        assert directory.identity.catalog_sequence >= sequence
        return _json(wire.SequenceBody(directory.identity.catalog_sequence))

    async def _verify(self, directory: ChunkDirectory, chunk: ChunkId) -> Answer:
        findings = await self._gates.scan.run(directory.verify, chunk)
        for finding in findings:
            self._note("chunk damaged", {"finding": str(finding)})
        return _json(wire.FindingsBody([wire.finding_body(found) for found in findings]))

    # --- Chunks out -------------------------------------------------------------------------

    async def _get(self, directory: ChunkDirectory, request: Request, chunk: ChunkId) -> Answer:
        reader = await self._reader(directory, chunk)
        size, etag = reader.head.trailer.file_bytes, f'"{reader.head.digest}"'
        assert reader.head.id == chunk
        headers = [("etag", etag), ("accept-ranges", "bytes")]
        asked = request.headers.get("range")
        if asked is not None and request.headers.get("if-range", etag) != etag:
            asked = None
        span = None if asked is None else parse_range(asked, size)
        if span is not None:
            headers.append(("content-range", f"bytes {span.start}-{span.end - 1}/{size}"))
        status, span = 200 if span is None else 206, span or ByteRange(0, size)
        if request.head_only:
            return Answer(status, EmptyBody(span.size), wire.CHUNK_TYPE, tuple(headers))
        body = RangeBody(reader, span, self._gates.read)
        await body.prepare()
        return Answer(status, body, wire.CHUNK_TYPE, tuple(headers))

    async def _reader(self, directory: ChunkDirectory, chunk: ChunkId) -> ChunkReader:
        """Return a chunk; one that is open is taken as it is while the disk was seen just now.

        A thread costs as much as a small range does. What is answered for a moment after a disk has
        gone comes from the file that was open, and is verified as ever.
        """
        if trio.current_time() < self._mounted_until:
            found = directory.open_reader(chunk)
            if found is not None:
                return found
        self._mounted_until = -math.inf
        reader = await self._gates.read.run(directory.reader, chunk)
        self._mounted_until = trio.current_time() + MOUNTED_S
        return reader

    async def _tail(self, directory: ChunkDirectory, chunk: ChunkId) -> Answer:
        reader = await self._gates.read.run(directory.reader, chunk)
        trailer = reader.head.trailer
        assert reader.head.id == chunk
        body = RangeBody(
            reader, ByteRange(trailer.payload_bytes, trailer.file_bytes), self._gates.read
        )
        await body.prepare()
        headers = (
            ("etag", f'"{reader.head.digest}"'),
            (wire.FILE_BYTES_HEADER, str(trailer.file_bytes)),
        )
        return Answer(200, body, wire.CHUNK_TYPE, headers)

    # --- Chunks in --------------------------------------------------------------------------

    async def _put(self, directory: ChunkDirectory, request: Request, chunk: ChunkId) -> Answer:
        if request.length_bytes is None or "content-length" not in request.headers:
            raise RequestRefusedError(411, "the length of a chunk is said before it is sent")
        if self._puts >= self._puts_max:
            raise NodeOverloadedError(f"{self._puts} chunks are on their way, which is the limit")
        assert request.length_bytes >= 0
        self._puts += 1
        try:
            receipt = await self._receive(directory, request, chunk, request.length_bytes)
        finally:
            self._puts -= 1
        if receipt.outcome == "replaced":
            self._note("chunk replaced", {"chunk": chunk.name, "damage": receipt.damage})
        return _json(wire.receipt_body(receipt), 200 if receipt.outcome == "present" else 201)

    async def _receive(
        self, directory: ChunkDirectory, request: Request, chunk: ChunkId, size: int
    ) -> Receipt:
        gate = self._gates.write
        write = await gate.run(directory.begin, chunk, size)
        try:
            await self._copy(request, write, gate)
            return await gate.run(write.finish)
        finally:
            with trio.CancelScope(shield=True):  # Also of a request that was given up.
                await gate.run(write.abort)

    async def _copy(self, request: Request, write: ChunkWrite, gate: Offload) -> None:
        assert write.written_bytes == 0
        buffer = memoryview(bytearray(min(WRITE_BYTES, write.file_bytes)))
        while True:
            filled = 0
            while filled < len(buffer) and (got := await request.receive_into(buffer[filled:])):
                filled += got
            if not filled:
                return
            await gate.run(write.write, [buffer[:filled]])


def _check_meant(request: Request, identity: NodeIdentity) -> None:
    """Check that a request is meant for this node.

    Raises:
        NodeIdentityError: it is meant for another one.
    """
    assert identity.node
    said = (
        (request.headers.get(wire.CLUSTER_HEADER), identity.cluster_id),
        (request.headers.get(wire.NODE_HEADER), identity.node),
        # A directory that was made anew under the old name: what it lacks is not missing there.
        (request.headers.get(wire.NODE_ID_HEADER), identity.node_id),
    )
    for meant, found in said:
        if meant is not None and meant != found:
            raise NodeIdentityError(
                f"this is node {identity.node} of cluster {identity.cluster_id},"
                f" the request is meant for {meant[:80]!r}"
            )


async def _read_json(request: Request, kind: type[B]) -> B:
    body = b""
    while piece := await request.receive():
        body += piece
        if len(body) > SMALL_BODY_BYTES_MAX:
            raise RequestRefusedError(413, f"a body has at most {SMALL_BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestRefusedError(400, f"the body cannot be read: {error}") from error


def _json(body: msgspec.Struct, status: int = 200, *headers: tuple[str, str]) -> Answer:
    assert 200 <= status < 600
    return Answer(status, msgspec.json.encode(body) + b"\n", headers=headers)
