"""A node and its client over loopback: tokens, hostile requests, nodes that lie, hang or vanish."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from ec.errors import (
    ChunkDamagedError,
    ChunkMissingError,
    EcError,
    NodeIdentityError,
    NodeNotMountedError,
    StoreError,
    StoreUnavailableError,
)
from ec.geometry import BLOCK_BYTES
from ec.node import BODY_PAUSE_S, Answer, Node
from ec.node_identity import NodeIdentity
from ec.offload import InlineOffload
from ec.store.client import Client, Timeouts
from ec.store.remote import RemoteStore
from logd.net.http import HttpServer, Response
from logd.storage.files import Files
from tests.contract.check_store import IDENTITY, OTHER, SAMPLE, put
from tests.unit.test_ec_stores import RemoteRig

TOKEN = "a-token-of-many-letters"


@pytest.fixture
async def rig(directory: str) -> AsyncIterator[RemoteRig]:
    async with RemoteRig(directory, token=TOKEN).serving(token=TOKEN) as rig:
        yield rig


async def ask(rig: RemoteRig, text: str) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and everything behind the head."""
    stream = await trio.open_tcp_stream("127.0.0.1", rig.port)
    async with stream:
        await stream.send_all(text.replace("\n", "\r\n").encode("latin-1"))
        await stream.send_eof()
        found = b""
        with trio.fail_after(10):
            async for data in stream:
                found += data
    head, _, body = found.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def request(method: str, path: str, *headers: str) -> str:
    lines = [f"{method} {path} HTTP/1.1", "host: x", f"authorization: Bearer {TOKEN}", *headers]
    return "\n".join(lines) + "\n\n"


CHUNK = f"/v1/chunks/{SAMPLE.ids[0].name}"


async def test_every_request_needs_the_token(rig: RemoteRig) -> None:
    """Missing, wrong, or half right: refused, whatever is asked."""
    await put(rig.store, SAMPLE, 0)
    for token in (None, "wrong", TOKEN[:-1], TOKEN + "x"):
        other = RemoteStore(rig.client(token=token))
        for call in CALLS:
            with pytest.raises(StoreUnavailableError, match="token"):
                await call(other)
        await other.aclose()
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
        (request("PUT", "/v1/catalog-sequence", "content-length: 15") + '{"sequence":-1}', 400),
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
    ["bytes=0-", "bytes=-5", "bytes=5-4", "bytes=0-99999999", "bytes=0-1,3-4", "lines=0-1",
     "bytes=0-99999999999999999999", "bytes=٠-١"],
)  # fmt: skip
async def test_only_whole_ranges_are_served(rig: RemoteRig, header: str) -> None:
    """One range, both ends said, inside the file."""
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
        store = RemoteStore(rig.client(token=TOKEN, node_id=node_id))
        with pytest.raises(expected):
            await store.head(SAMPLE.ids[0])
        await store.aclose()
    other = RemoteStore(rig.client(token=TOKEN, node_id="2" * 32))
    for call in CALLS:
        if call is not initialise_it:
            with pytest.raises(NodeIdentityError):
                await call(other)
    await other.aclose()


async def test_who_stops_sending_is_given_up(directory: str, autojump_clock: MockClock) -> None:
    """Its space is free again after a minute, and the next writer is not held up."""
    async with RemoteRig(directory).serving() as rig:
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        await upload.write([SAMPLE.files[0][:100]])
        await trio.sleep(BODY_PAUSE_S + 1)
        await rig.settle()
        assert rig.names() == []
        await upload.abort()
        assert (await put(rig.store, SAMPLE, 0)).outcome == "stored"


async def test_a_kept_connection_that_was_closed_is_no_error(rig: RemoteRig) -> None:
    """The request is sent once more on a new one."""
    store = rig.store
    assert isinstance(store, RemoteStore)
    await store.health()
    (kept,) = store._client._kept
    await kept.aclose()
    assert (await store.health()).identity == IDENTITY


async def test_a_node_gets_its_identity_from_afar(directory: str) -> None:
    """An empty directory is nobody's until then; afterwards it is another's for everybody else."""
    rig = RemoteRig(directory)
    rig.node = Node(Files(), f"{directory}/new", InlineOffload(), name="a")
    from cli.node import server_of

    rig.http = server_of(rig.node)
    async with rig.serving():
        store = rig.store
        assert isinstance(store, RemoteStore)
        with pytest.raises(NodeNotMountedError):
            await store.health()
        with pytest.raises(StoreError, match="node a, not b"):
            await store.initialise(NodeIdentity("c", "b", "1" * 32))
        assert os.listdir(directory) == ["node"]
        assert (await store.initialise(IDENTITY)).identity == IDENTITY
        assert (await store.initialise(IDENTITY)).identity == IDENTITY
        with pytest.raises(NodeIdentityError):
            await store.initialise(NodeIdentity("another cluster", "a", "1" * 32))
        await put(store, SAMPLE, 0)


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
        client = Client("liar", f"http://127.0.0.1:{port}", token=None, timeouts=timeouts)
        yield RemoteStore(client)
        await client.aclose()
        nursery.cancel_scope.cancel()


def initialise_it(store: RemoteStore) -> Awaitable[object]:
    return store.initialise(IDENTITY)


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


async def test_a_node_that_hangs_costs_a_time_out(autojump_clock: MockClock) -> None:
    """Every call ends, before the connection, within the head and within the body."""

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def half(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await trio.sleep_forever()

    for serve in (silent, half):
        async with store_of(serve, Timeouts(connect_s=1, call_s=2, long_s=3)) as store:
            for call in CALLS:
                started = trio.current_time()
                with pytest.raises(StoreUnavailableError):
                    await call(store)
                assert trio.current_time() - started <= 6


async def test_nobody_there_is_unavailable() -> None:
    """A refused connection says nothing about chunks."""
    store = RemoteStore(Client("a", "http://127.0.0.1:1", token=None))
    for call in CALLS:
        with pytest.raises(StoreUnavailableError):
            await call(store)


@pytest.mark.parametrize("url", ["", "a:1", "https://a:1", "http://a", "http://a:1/x", "file:///"])
def test_other_addresses_are_refused(url: str) -> None:
    """An address is http://HOST:PORT."""
    with pytest.raises(ValueError, match="address"):
        Client("a", url, token=None)


async def test_a_node_that_lies_is_found_out(directory: str) -> None:
    """Other bytes, another chunk's, a range of another length: never handed on."""
    rig = RemoteRig(directory)
    lies = ["none"]

    async def handle(request: object) -> Response:
        answer: Answer = await rig.node.handle(request)  # type: ignore[arg-type]  # it is a Request
        body, lie = answer.body, lies[-1]
        if answer.file is not None:
            part = answer.file
            body = Files().read_at(part.file, part.position, part.size)
            if lie == "bytes":
                body = bytes([body[0] ^ 1]) + body[1:]
            elif lie == "tail":
                body = OTHER.files[0][-len(body) :]
            elif lie == "swap":
                body = SAMPLE.files[1][-len(body) :]
            elif lie == "short":
                body = body[:-1]
        return Response(answer.status, body, headers=answer.headers)

    rig.http = HttpServer(handle, lambda _, error: None)
    async with rig.serving():
        upload = await rig.store.begin(SAMPLE.ids[0], len(SAMPLE.files[0]))
        await upload.write([SAMPLE.files[0]])
        await upload.finish()
        assert bytes(await rig.store.read(SAMPLE.ids[0], 0, 10)) == SAMPLE.payloads[0][:10]
        for lie in ("bytes", "short"):
            lies.append(lie)
            with pytest.raises((ChunkDamagedError, StoreUnavailableError)):
                await rig.store.read(SAMPLE.ids[0], 0, 10)
        for lie in ("bytes", "tail", "swap", "short"):
            lies.append(lie)
            fresh = RemoteStore(rig.client())
            with pytest.raises(ChunkDamagedError):
                await fresh.read(SAMPLE.ids[0], 0, 10)
            await fresh.aclose()
        lies.append("none")
        with pytest.raises(ChunkMissingError):
            await rig.store.head(SAMPLE.ids[1])
