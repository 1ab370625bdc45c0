"""The HTTP server on memory streams: what it answers, and what it refuses before it costs any."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from logd.net.http import HttpError, HttpServer, Limits, Request, Response

SMALL = Limits(head_bytes=1024, body_bytes=100, connections=2, idle_s=10, request_s=20)


class Recorder:
    """A handler that remembers its requests; the path says what it does."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.failures: list[Exception] = []

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        if request.path == "/read":
            self.bodies.append(await request.read_body(limit_bytes=100))
        if request.path == "/refuse":
            raise HttpError(404, "no such thing")
        if request.path == "/bug":
            raise ZeroDivisionError("oh")
        if request.path == "/slow":
            await trio.sleep_forever()
        return Response(body=b"hello", content_type="text/plain")

    def failed(self, _request: Request, error: Exception) -> None:
        self.failures.append(error)


class Client:
    """The other end: sends bytes, reads answers with h11's own client side."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answers(self, *methods: str) -> list[tuple[int, dict[str, str], bytes]]:
        found = []
        for method in methods:
            parser = h11.Connection(h11.CLIENT)
            parser.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
            parser.send(h11.EndOfMessage())
            if self.received:
                parser.receive_data(self.received)
            found.append(await self._one(parser))
            self.received = parser.trailing_data[0]
        return found

    async def _one(self, parser: h11.Connection) -> tuple[int, dict[str, str], bytes]:
        status, headers, body = 0, {}, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = {key.decode(): value.decode() for key, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body

    async def is_closed(self) -> bool:
        while data := await self.stream.receive_some(65536):
            self.received += data
        return True


@asynccontextmanager
async def connected(
    recorder: Recorder, limits: Limits = SMALL, *, server: HttpServer | None = None
) -> AsyncIterator[Client]:
    ours, theirs = memory_stream_pair()
    server = server or HttpServer(recorder.handle, recorder.failed, limits=limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, theirs)
        yield Client(ours)
        await ours.aclose()


def get(target: str, extra: str = "", method: str = "GET") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode()


async def test_a_request_reaches_the_handler_decoded() -> None:
    """Path and query are percent-decoded, header names lower case."""
    recorder = Recorder()
    async with connected(recorder) as client:
        await client.send(get("/v1/a%20b?topic=or%2Fders&empty=", "X-Thing: 7\r\n"))
        ((status, headers, body),) = await client.answers("GET")
    (request,) = recorder.requests
    assert (request.method, request.path) == ("GET", "/v1/a b")
    assert request.query == {"topic": "or/ders", "empty": ""}
    assert request.headers["x-thing"] == "7"
    assert (status, body, headers["content-length"]) == (200, b"hello", "5")


async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    """Keep-alive: several requests in one packet get as many answers."""
    recorder = Recorder()
    async with connected(recorder) as client:
        await client.send(get("/one") + get("/refuse") + get("/two"))
        answers = await client.answers("GET", "GET", "GET")
    assert [answer[0] for answer in answers] == [200, 404, 200]
    assert json.loads(answers[1][2]) == {"error": "no such thing"}


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    """HEAD is answered as GET without its body, and the connection goes on."""
    async with connected(Recorder()) as client:
        await client.send(get("/x", method="HEAD") + get("/x"))
        head, after = await client.answers("HEAD", "GET")
    assert (head[0], head[1]["content-length"], head[2]) == (200, "5", b"")
    assert after[2] == b"hello"


async def test_a_body_is_read_in_any_number_of_pieces() -> None:
    """Length-delimited and chunked bodies reach the handler whole."""
    recorder = Recorder()
    async with connected(recorder) as client:
        await client.send(get("/read", "Content-Length: 6\r\n", method="POST") + b"abc")
        await client.send(b"def")
        chunked = get("/read", "Transfer-Encoding: chunked\r\n", method="POST")
        await client.send(chunked + b"2\r\nxy\r\n1\r\nz\r\n0\r\n\r\n")
        await client.answers("POST", "POST")
    assert recorder.bodies == [b"abcdef", b"xyz"]


async def test_expect_continue_is_answered_before_the_body_is_read() -> None:
    """A client that waits for 100 Continue gets it when the handler wants the body."""
    recorder = Recorder()
    async with connected(recorder) as client:
        await client.send(
            get("/read", "Content-Length: 3\r\nExpect: 100-continue\r\n", method="PUT")
        )
        interim = await client.stream.receive_some(1000)
        assert interim.startswith(b"HTTP/1.1 100")
        await client.send(b"abc")
        ((status, _, _),) = await client.answers("PUT")
    assert (status, recorder.bodies) == (200, [b"abc"])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS on a plain port
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # No Host.
        (b"nonsense\r\n\r\n", 400),
        (get("/", "X: " + "y" * 5000 + "\r\n"), 431),
        (get("/?a=1&a=2"), 400),
        (get("/%ff"), 400),
        (get("/?" + "&".join(f"f{i}=1" for i in range(40))), 400),
        (get("/read", "Content-Length: 101\r\n", method="POST") + b"x" * 101, 413),
        (get("/x", "Content-Length: 5\r\nContent-Length: 6\r\n", method="POST"), 400),
    ],
)
async def test_bad_requests_are_told_why(data: bytes, status: int) -> None:
    """What cannot be served gets a status and a JSON reason."""
    async with connected(Recorder()) as client:
        await client.send(data)
        ((got, _, body),) = await client.answers("GET")
    assert got == status
    assert json.loads(body)["error"]


async def test_a_body_that_nobody_reads_does_not_spoil_the_next_request() -> None:
    """What is left of a body is skipped; one beyond the limit ends the connection instead."""
    async with connected(Recorder()) as client:
        await client.send(get("/x", "Content-Length: 50\r\n", method="POST") + b"x" * 50)
        await client.send(get("/y"))
        assert [answer[0] for answer in await client.answers("POST", "GET")] == [200, 200]
        await client.send(get("/x", "Content-Length: 5000\r\n", method="POST") + b"x" * 5000)
        assert [answer[0] for answer in await client.answers("POST")] == [200]
        assert await client.is_closed()


async def test_a_bug_in_the_handler_costs_one_request() -> None:
    """An unexpected exception is a 500 without details, is reported, and the connection lives."""
    recorder = Recorder()
    async with connected(recorder) as client:
        await client.send(get("/bug") + get("/x"))
        bug, after = await client.answers("GET", "GET")
    assert (bug[0], after[0]) == (500, 200)
    assert b"oh" not in bug[2]
    assert [type(error) for error in recorder.failures] == [ZeroDivisionError]


async def test_too_many_connections_are_refused_with_a_reason() -> None:
    """Beyond the limit a connection gets 503 and is closed; the others are served."""
    recorder = Recorder()
    server = HttpServer(recorder.handle, recorder.failed, limits=SMALL)
    async with connected(recorder, server=server) as one:
        await one.send(get("/x"))
        assert (await one.answers("GET"))[0][0] == 200
        async with connected(recorder, server=server) as two:
            await two.send(get("/x"))
            assert (await two.answers("GET"))[0][0] == 200
            async with connected(recorder, server=server) as three:
                assert (await three.answers("GET"))[0][0] == 503
            await two.send(get("/x"))
            assert (await two.answers("GET"))[0][0] == 200
    assert server.connections == 0


async def test_silence_ends_a_connection(autojump_clock: MockClock) -> None:
    """An idle connection, and a head that never ends, are closed after the idle time."""
    for sent in (b"", b"GET / HT"):
        async with connected(Recorder()) as client:
            if sent:
                await client.send(sent)
            before = trio.current_time()
            assert await client.is_closed()
            assert trio.current_time() - before == pytest.approx(SMALL.idle_s, abs=2)


async def test_a_request_has_a_deadline(autojump_clock: MockClock) -> None:
    """A handler that takes too long is given up, and the client told."""
    async with connected(Recorder()) as client:
        await client.send(get("/slow"))
        assert (await client.answers("GET"))[0][0] == 408
        assert await client.is_closed()


async def test_a_client_that_leaves_is_no_error() -> None:
    """Closing in the middle of a head, of a body or before the answer harms nobody."""
    for sent in (b"GE", get("/read", "Content-Length: 9\r\n", method="POST") + b"x", get("/x")):
        recorder = Recorder()
        async with connected(recorder) as client:
            await client.send(sent)
        assert recorder.failures == []


async def test_serves_a_real_socket() -> None:
    """The same server on a loopback listener, with a client of the standard kind."""
    recorder = Recorder()
    server = HttpServer(recorder.handle, recorder.failed)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listener)
        client = Client(await trio.open_tcp_stream("127.0.0.1", port))
        await client.send(get("/x", "Connection: close\r\n"))
        assert (await client.answers("GET"))[0][2] == b"hello"
        assert await client.is_closed()
        await client.stream.aclose()
        nursery.cancel_scope.cancel()
