"""A node and its client over loopback: tokens, hostile requests, nodes that lie, hang or vanish."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from ec.errors import (
    ChunkDamagedError,
    ChunkMissingError,
    EcError,
    NodeAddressError,
    NodeIdentityError,
    NodeNotMountedError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    TokenRefusedError,
)
from ec.geometry import BLOCK_BYTES
from ec.node.bodies import Part
from ec.node.service import Answer
from ec.node_dir import Space
from ec.node_identity import NodeIdentity
from ec.store import wire
from ec.store.http_client import NotSentError
from ec.store.patience import Timeouts
from ec.store.protocol import Health, Store
from ec.store.remote import RemoteStore, parse_node_url
from logd.net.http import HttpServer, Request, Response
from logd.storage.files import Files
from tests.contract.check_store import IDENTITY, OTHER, SAMPLE, put
from tests.node_rig import TOKEN, NodeRig
from tests.unit.test_ec_stores import RemoteRig


@pytest.fixture
def autojump_clock() -> MockClock:
    """Time jumps when loopback was silent for a moment, and not while a busy machine delivers."""
    return MockClock(autojump_threshold=0.01)


@pytest.fixture
async def rig(directory: str) -> AsyncIterator[RemoteRig]:
    async with RemoteRig(directory).serving() as rig:
        yield rig


async def ask(rig: RemoteRig, text: str) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and everything behind the head."""
    stream = await trio.open_tcp_stream("127.0.0.1", rig.node.port)
    async with stream:
        await stream.send_all(text.replace("\n", "\r\n").encode("latin-1"))
        await stream.send_eof()
        found = b""
        with trio.fail_after(60):
            async for data in stream:
                found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def request(method: str, path: str, *headers: str) -> str:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {TOKEN}", *headers]
    return "\n".join(lines) + "\n\n"


SEQUENCE = "/v1/catalog-sequence"
CHUNK = f"/v1/chunks/{SAMPLE.ids[0].name}"


async def test_every_request_needs_the_token(rig: RemoteRig) -> None:
    """Missing, wrong, or half right: refused, whatever is asked."""
    await put(rig.store, SAMPLE, 0)
    for token in (None, "wrong", TOKEN[:-1], TOKEN + "x"):
        other = rig.node.client(token=token)
        for call in CALLS if token is None else CALLS[:1]:
            with pytest.raises(TokenRefusedError):
                await call(other)
        other.close()
    status, _ = await ask(rig, "GET /v1/health HTTP/1.1\nhost: x\nauthorization: Bearer \xe9\n\n")
    assert status == 401
    assert await rig.store.list() == (SAMPLE.ids[0],)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (request("GET", "/"), 404),
        (request("GET", "/v1/chunks/../node.identity"), 404),
        (request("GET", "/v1/chunks/%2e%2e%2fnode.identity"), 404),
        (request("GET", "/v1/chunks/node.identity"), 400),
        (request("GET", "/v1/chunks/x.chunk%00"), 400),
        (request("PUT", "/v1/chunks/..%2f..%2fetc", "content-length: 3") + "abc", 404),
        (request("POST", CHUNK), 405),
        (request("POST", CHUNK + "/explode"), 405),
        (request("PUT", CHUNK), 411),
        (request("PUT", CHUNK, "content-length: 0"), 422),
        (request("PUT", CHUNK, "transfer-encoding: chunked") + "3\nabc\n0\n\n", 411),
        (request("PUT", CHUNK, "content-length: 3") + "abc", 422),
        (request("GET", CHUNK), 404),
        (request("GET", "/v1/chunks?limit=0"), 400),
        (request("GET", "/v1/chunks?limit=99999999999999999999"), 400),
        (request("GET", "/v1/chunks?limit=x"), 400),
        (request("PUT", "/v1/catalog-sequence", "content-length: 2") + "{}", 400),
        (
            request("PUT", "/v1/catalog-sequence", "content-length: 23")
            + '{"catalog_sequence":-1}',
            400,
        ),
        (request("PUT", "/v1/identity", "content-length: 4") + "null", 400),
        (request("PUT", "/v1/identity", "content-length: 70000") + " " * 70000, 413),
    ],
)
async def test_hostile_requests_are_refused(rig: RemoteRig, text: str, expected: int) -> None:
    """Each with a status and a reason; nothing is written, and the next request is served."""
    status, body = await ask(rig, text)
    assert status == expected
    assert "error" in json.loads(body)
    await rig.settle()
    assert rig.names() == []
    assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"


@pytest.mark.parametrize(
    "header",
    ["bytes=5-4", "bytes=99999999-", "bytes=0-1,3-4", "bytes=-0", "bytes=-", "bytes=", "bytes=x-",
     "bytes=0-99999999999999999999", "bytes=٠-١", "bytes= 0-1", "bytes=0x0-1"],
)  # fmt: skip
async def test_what_is_no_range_of_the_file_is_refused(rig: RemoteRig, header: str) -> None:
    """Backwards, behind the end, several, or none at all: 416, and how long the file is."""
    await put(rig.store, SAMPLE, 0)
    text = request("GET", CHUNK, f"range: {header}".encode().decode("latin-1"))
    assert (await ask(rig, text))[0] == 416


async def test_a_file_is_served_to_any_client(rig: RemoteRig) -> None:
    """Whole, by range, its head alone; with the digest as its tag."""
    await put(rig.store, SAMPLE, 4)
    path = f"/v1/chunks/{SAMPLE.ids[4].name}"
    data = SAMPLE.files[4]
    assert await ask(rig, request("GET", path)) == (200, data)
    edge = len(SAMPLE.payloads[4])
    found = await ask(rig, request("GET", path, f"range: bytes={edge - 5}-{edge + 4}"))
    assert found == (206, data[edge - 5 : edge + 5])
    assert await ask(rig, request("HEAD", path)) == (200, b"")


async def test_a_node_verifies_before_it_sends(rig: RemoteRig) -> None:
    """A bad block is an error of the request, not bytes."""
    await put(rig.store, SAMPLE, 4)
    rig.flip(SAMPLE.ids[4], BLOCK_BYTES + 1)
    path = f"/v1/chunks/{SAMPLE.ids[4].name}"
    status, body = await ask(rig, request("GET", path))
    assert status == 500
    assert json.loads(body)["region"] == "payload"
    status, body = await ask(rig, request("GET", path, "range: bytes=0-9"))
    assert (status, body) == (206, SAMPLE.files[4][:10])


async def test_half_sent_bodies_leave_nothing(rig: RemoteRig) -> None:
    """A client that dies in the middle is as one that never came."""
    for size in (0, 1, 70_000, len(SAMPLE.files[0]) - 1):
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        await upload.write([SAMPLE.files[0][:size]])
        await upload.abort()
        await rig.settle()
        assert rig.names() == []
    assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"


async def test_a_node_does_not_answer_for_another(rig: RemoteRig) -> None:
    """What is missing on the node that took the address is not missing on the one that is meant."""
    for node_id, expected in ((IDENTITY.node_id, ChunkMissingError), ("2" * 32, NodeIdentityError)):
        store = rig.node.client(node_id=node_id)
        with pytest.raises(expected):
            await store.head(SAMPLE.ids[0])
        store.close()
    other = rig.node.client(node_id="2" * 32)
    for call in CALLS:
        if call is not initialise_it:
            with pytest.raises(NodeIdentityError):
                await call(other)
    other.close()


async def test_a_kept_connection_that_was_closed_is_no_error(rig: RemoteRig) -> None:
    """Nothing is sent on it: the request goes over a new one."""
    store = rig.store
    assert isinstance(store, RemoteStore)
    await store.health()
    (kept,) = store._calls.pool._idle
    with trio.fail_after(60):
        while not rig.node.http._idle:
            await trio.lowlevel.checkpoint()
        for scope in rig.node.http._idle:
            scope.cancel()  # As after its idle time: the node closes it.
        while not kept.has_news():
            await trio.lowlevel.checkpoint()
    assert (await store.health()).identity == IDENTITY
    (again,) = store._calls.pool._idle
    assert again is not kept
    again._socket.shutdown(trio.socket.SHUT_WR)
    with pytest.raises(NotSentError):
        again.begin("GET", "/", [("host", "x")])
    assert (await store.health()).identity == IDENTITY


async def test_a_node_gets_its_identity_from_afar(directory: str) -> None:
    """An empty directory is nobody's until then; afterwards it is another's for everybody else."""
    node = NodeRig(Files(), f"{directory}/new", node="a")
    async with node.serving():
        store = node.client()
        with pytest.raises(NodeNotMountedError):
            await store.health()
        with pytest.raises(StoreError, match="node a, not b"):
            await store.initialise(NodeIdentity("c", "b", "1" * 32))
        for nonsense in (
            NodeIdentity("c", "a", "1"), NodeIdentity("", "a", "1" * 32),
            NodeIdentity("c" * 5000, "a", "1" * 32), NodeIdentity("c", "../a", "1" * 32),
            NodeIdentity("c", "a", "1" * 32, -1),
        ):  # fmt: skip
            with pytest.raises(NodeIdentityError):
                await store.initialise(nonsense)
        assert os.listdir(directory) == []
        assert (await store.initialise(IDENTITY)).identity == IDENTITY
        assert (await store.initialise(IDENTITY)).identity == IDENTITY
        with pytest.raises(NodeIdentityError):
            await store.initialise(NodeIdentity("another cluster", "a", "1" * 32))
        await put(store, SAMPLE, 0)
        store.close()


# --- Nodes that are none --------------------------------------------------------------------------


@asynccontextmanager
async def store_of(
    serve: Callable[[trio.SocketStream], Awaitable[None]], timeouts: Timeouts | None = None
) -> AsyncIterator[RemoteStore]:
    """A client of whatever answers."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        store = RemoteStore("127.0.0.1", port, node="liar", timeouts=timeouts)
        yield store
        store.close()
        nursery.cancel_scope.cancel()


async def initialise_it(store: RemoteStore) -> object:
    return await store.initialise(IDENTITY)


CALLS: list[Callable[[RemoteStore], Awaitable[object]]] = [
    lambda store: store.health(),
    lambda store: store.head(SAMPLE.ids[0]),
    lambda store: store.read(SAMPLE.ids[0], 0, 10),
    lambda store: store.list(),
    lambda store: store.verify(SAMPLE.ids[0]),
    lambda store: store.delete(SAMPLE.ids[0]),
    lambda store: store.quarantine(SAMPLE.ids[0]),
    lambda store: store.note_catalog_sequence(1),
    initialise_it,
    lambda store: put(store, SAMPLE, 0),
]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 502 Bad\r\ncontent-length: 24\r\n\r\n<html>bad gateway</html>",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3,
    ],
)
async def test_an_answer_that_makes_no_sense_is_no_answer(answer: bytes) -> None:
    """Nothing is concluded from it: not missing, not damaged, not stored."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(5):
                await stream.receive_some(65536)
                await stream.send_all(answer)

    async with store_of(serve) as store:
        for call in CALLS:
            # A tail of two bytes is no chunk's: that is damage, and nothing else may be said of it.
            with pytest.raises(EcError) as caught:
                await call(store)
            assert isinstance(caught.value, StoreUnavailableError | ChunkDamagedError)


@pytest.mark.parametrize(
    "heads",
    [
        pytest.param([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"], id="our own words"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"], id="capitals"),
        pytest.param([b"HTTP/1.1 200\r\ncontent-length:\t%d \r\n\r\n"], id="other blanks"),
        pytest.param([b"HTTP/1.1 2", b"00 OK\r\ncontent-le", b"ngth: %d\r\n\r\n"], id="in pieces"),
        pytest.param(
            [b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"],
            id="another before it",
        ),
    ],
)
async def test_a_legal_answer_in_other_words_is_understood(heads: list[bytes]) -> None:
    """However a server writes its head, what it says counts, and the connection is kept."""
    health = Health(IDENTITY, Space(1, 2, 3))
    body = msgspec.json.encode(wire.health_body(health))
    accepted = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal accepted
        accepted += 1
        async with stream:
            while await stream.receive_some(65536):
                for piece in heads:
                    await stream.send_all(piece % len(body) if b"%" in piece else piece)
                    await trio.testing.wait_all_tasks_blocked(0.001)
                await stream.send_all(body)

    async with store_of(serve) as store:
        with trio.fail_after(60):
            assert [await store.health() for _ in range(3)] == [health] * 3
    assert accepted == 1


async def test_a_node_that_hangs_costs_a_time_out(autojump_clock: MockClock) -> None:
    """Every call ends: without an answer, within a head, within a body, at a byte a second."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await trio.sleep_forever()

    async def dripping(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"{" * 100:
                await stream.send_all(bytes([byte]))
                await trio.sleep(1)

    quick = Timeouts(connect_s=1, answer_s=2, durable_s=3, scan_s=3, abort_s=1)
    for serve in (silent, half, dripping):
        async with store_of(serve, quick) as store:
            for call in CALLS:
                started = trio.current_time()
                with pytest.raises(StoreUnavailableError):
                    await call(store)
                assert trio.current_time() - started <= 8


async def test_a_time_out_says_so(autojump_clock: MockClock) -> None:
    """A node that is slow is told from one that is not there."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with store_of(silent, Timeouts(answer_s=2)) as store:
        with pytest.raises(StoreTimeoutError, match="liar: GET"):
            await store.health()
    with pytest.raises(StoreUnavailableError) as caught:
        await RemoteStore("127.0.0.1", 1, node="a").health()
    assert not isinstance(caught.value, StoreTimeoutError)


async def test_nobody_there_is_unavailable() -> None:
    """A refused connection says nothing about chunks."""
    store = RemoteStore("127.0.0.1", 1, node="a")
    for call in CALLS:
        with pytest.raises(StoreUnavailableError, match="refused") as caught:
            await call(store)
        assert "exception" not in str(caught.value), "a reason for people"


async def test_connections_are_limited(autojump_clock: MockClock) -> None:
    """Who wants one more waits, and is told when that takes too long; then it is free again."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with store_of(silent, Timeouts(connect_s=1, answer_s=9)) as liar:
        store = RemoteStore(
            liar._calls.pool._host, liar._calls.pool._port,
            node="x", timeouts=liar._timeouts, connections_max=2,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(unavailable, store)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(StoreTimeoutError, match="no connection is free"):
                await store.health()
        with pytest.raises(StoreTimeoutError, match="GET"):
            await store.health()


async def unavailable(store: RemoteStore) -> None:
    with pytest.raises(StoreUnavailableError):
        await store.health()


@pytest.mark.parametrize(
    "url",
    ["", "a:1", "https://a:1", "http://a", "http://a:1/x", "file:///", "http://u:p@a:1",
     "http://a:0", "http://a:70000", "http://a:1?x=1", "http://[::1"],
)  # fmt: skip
def test_other_addresses_are_refused(url: str) -> None:
    """An address is http://HOST:PORT."""
    with pytest.raises(NodeAddressError):
        parse_node_url(url)


def test_addresses_are_parsed() -> None:
    """With a name, an address, or an IPv6 address in brackets."""
    assert parse_node_url("http://disk1.example:9701") == ("disk1.example", 9701)
    assert parse_node_url("http://[::1]:1/") == ("::1", 1)


class Lying:
    """A body whose bytes are not those of the file."""

    def __init__(self, body: bytes) -> None:
        self.size = len(body)
        self._body: bytes | None = body

    async def next(self) -> bytes | None:
        body, self._body = self._body, None
        return body


def bytes_of(part: Part) -> bytes:
    if isinstance(part, memoryview):
        return bytes(part)
    return Files().read_at(part.file, part.position, part.size)


async def test_a_node_that_lies_is_found_out(directory: str) -> None:
    """Other bytes, another chunk's, a range of another length: never handed on."""
    rig = RemoteRig(directory)
    lies = ["none"]

    async def handle(request: Request) -> Response:
        answer: Answer = await rig.node.service.handle(request)
        if isinstance(answer.body, bytes):
            return Response(answer.status, answer.body, headers=answer.headers)
        lie, body = lies[-1], b""
        while (part := await answer.body.next()) is not None:
            body += bytes_of(part)
        if lie == "bytes":
            body = bytes([body[0] ^ 1]) + body[1:]
        elif lie == "tail":
            body = OTHER.files[0][-len(body) :]
        elif lie == "swap":
            body = SAMPLE.files[1][-len(body) :]
        elif lie == "short":
            body = body[:-1]
        return Response(answer.status, Lying(body), headers=answer.headers)

    rig.node.http = HttpServer(handle, rig.node._failed)
    async with rig.serving():
        await put_in_one(rig.store, 0)
        assert bytes(await rig.store.read(SAMPLE.ids[0], 0, 10)) == SAMPLE.payloads[0][:10]
        for lie, error in (("bytes", ChunkDamagedError), ("short", StoreUnavailableError)):
            lies.append(lie)
            with pytest.raises(error):
                await rig.store.read(SAMPLE.ids[0], 0, 10)
        for lie in ("bytes", "tail", "swap", "short"):
            lies.append(lie)
            fresh = rig.node.client()
            with pytest.raises((ChunkDamagedError, StoreUnavailableError)):
                await fresh.read(SAMPLE.ids[0], 0, 10)
            fresh.close()
        lies.append("none")
        with pytest.raises(ChunkMissingError):
            await rig.store.head(SAMPLE.ids[1])


async def put_in_one(store: Store, index: int) -> None:
    upload = await store.begin(SAMPLE.ids[index], len(SAMPLE.files[index]))
    await upload.write([SAMPLE.files[index]])
    await upload.finish()
