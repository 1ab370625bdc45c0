"""A small HTTP/1.1 server: h11 for the bytes, Trio for the waiting, one handler for the meaning.

A handler gets a `Request` and returns a `Response`; it raises `HttpError` to refuse. It knows
nothing of sockets, so the admin port and storage nodes can share this file, and tests call it
directly or over memory streams. Works on any trio stream.

Limits, all in `Limits`, all checked before memory is used: bytes of a request's head, bytes of a
body, connections, seconds without a request, seconds for one request including its body and its
answer. Errors are answered as JSON, {"error": …}, and then, where the rest of the input cannot be
trusted, the connection is closed.

Source: RFC 9110 and 9112; h11's documentation of its state machine.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

from logd.errors import LogdError
from logd.net.send import FileRange, send_file
from logd.units import KIB, MIB

JSON_TYPE: Final = "application/json"
QUERY_FIELDS_MAX: Final = 32

_RECEIVE_BYTES: Final = 64 * KIB
# How long a refused or closing connection may take to read what it is told.
_GOODBYE_S: Final = 1.0


class HttpError(LogdError):
    """A request is refused with a status and a reason that the client is shown."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows. The defaults suit an admin port."""

    head_bytes: int = 16 * KIB
    body_bytes: int = MIB
    connections: int = 64
    idle_s: float = 60.0
    request_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its head, and a reader of its body.

    Attributes:
        method: upper case; HEAD arrives as GET, and the body of the answer is left out.
        path: percent-decoded, without the query.
        query: each field once; a field given twice is refused before the handler sees it.
        headers: names in lower case; the last value of a repeated one.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    receive: Callable[[], Awaitable[bytes]]

    async def read_body(self, *, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            HttpError: 413, longer than limit_bytes; what lies beyond is not kept.
        """
        body = bytearray()
        while chunk := await self.receive():
            body += chunk
            if len(body) > limit_bytes:
                raise HttpError(413, f"the body is longer than {limit_bytes} bytes")
        return bytes(body)


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON_TYPE
    # Sent by sendfile, behind `body`: verified by whoever made the response, never read here.
    file: FileRange | None = None
    headers: tuple[tuple[str, str], ...] = field(default=())


Handler = Callable[[Request], Awaitable[Response]]
OnFailure = Callable[[Request, Exception], None]


class HttpServer:
    """Serves one handler on any number of streams.

    Args:
        on_failure: told of an exception in the handler that is not an HttpError: a bug of ours. The
            client sees a 500 without details.
    """

    def __init__(
        self, handler: Handler, on_failure: OnFailure, *, limits: Limits | None = None
    ) -> None:
        self._handler = handler
        self._on_failure = on_failure
        self._limits = limits or Limits()
        self.connections = 0

    async def serve(self, *listeners: trio.SocketListener) -> None:
        """Accept on all listeners until cancelled; running out of descriptors only slows it."""
        await trio.serve_listeners(self.serve_connection, list(listeners))

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends; never raises for what the peer did."""
        self.connections += 1
        connection = _Connection(stream, self._limits)
        try:
            if self.connections > self._limits.connections:
                await connection.refuse(HttpError(503, "too many connections, try again later"))
                return
            while await self._serve_request(connection):
                connection.start_next()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # The peer is gone; there is nobody to tell.
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_request(self, connection: _Connection) -> bool:
        """Serve one request; return whether another may follow on the connection."""
        try:
            with trio.fail_after(self._limits.idle_s):
                head = await connection.next_head()
            if head is None:
                return False
            with trio.fail_after(self._limits.request_s):
                return await self._answer(connection, head)
        except trio.TooSlowError:
            await connection.refuse(HttpError(408, "the request took too long"))
        except h11.RemoteProtocolError as error:
            await connection.refuse(HttpError(error.error_status_hint, str(error)))
        except HttpError as error:
            await connection.refuse(error)
        return False

    async def _answer(self, connection: _Connection, head: h11.Request) -> bool:
        request = _as_request(head, connection.receive_body)
        try:
            response = await self._handler(request)
        except HttpError as error:
            response = error_response(error)
        except (h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise  # The connection's trouble, met while the handler read the body.
        except Exception as error:  # A bug of ours costs one request, no more.
            self._on_failure(request, error)
            response = error_response(HttpError(500, "internal error, see the server's log"))
        await connection.send(response, with_body=head.method != b"HEAD")
        return await connection.finish_request()


class _Connection:
    """One h11 connection on one stream: events in, events out."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._limits = limits
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._body_bytes = 0

    def start_next(self) -> None:
        """Make ready for the next request on the connection."""
        self._h11.start_next_cycle()
        self._body_bytes = 0

    async def next_head(self) -> h11.Request | None:
        """Return the next request's head; None when the peer has closed the connection."""
        event = await self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def receive_body(self) -> bytes:
        """Return the next bytes of the request's body, b"" at its end."""
        if self._h11.their_state is not h11.SEND_BODY:
            return b""
        if self._h11.they_are_waiting_for_100_continue:
            await self._send_event(h11.InformationalResponse(status_code=100, headers=[]))
        event = await self._next_event()
        if not isinstance(event, h11.Data):
            return b""
        self._body_bytes += len(event.data)
        if self._body_bytes > self._limits.body_bytes:
            raise HttpError(413, f"a body has at most {self._limits.body_bytes} bytes")
        return bytes(event.data)

    async def send(self, response: Response, *, with_body: bool) -> None:
        """Send a whole answer."""
        length = len(response.body) + (response.file.size if response.file else 0)
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(length)),
            ("cache-control", "no-store"),
            *response.headers,
        ]
        reason = HTTPStatus(response.status).phrase
        await self._send_event(
            h11.Response(status_code=response.status, headers=headers, reason=reason)
        )
        if with_body and response.body:
            await self._send_event(h11.Data(data=response.body))
        if with_body and response.file is not None and response.file.size:
            await self._send_file(response.file)
        await self._send_event(h11.EndOfMessage())

    async def _send_file(self, part: FileRange) -> None:
        """Hand a range of a file to the socket; h11 only counts the bytes."""
        # h11 passes on whatever stands for the data, if it has a length: made for sendfile.
        counted: Any = _Counted(part.size)
        self._h11.send_with_data_passthrough(h11.Data(data=counted))
        assert isinstance(self._stream, trio.SocketStream), "files go to sockets only"
        socket = self._stream.socket
        sent = 0
        while sent < part.size:
            try:
                sent += send_file(socket.fileno(), part, sent)
                await trio.lowlevel.checkpoint()
            except BlockingIOError:
                await trio.lowlevel.wait_writable(socket)
            except OSError as error:  # The peer is gone, or the file shrank: half an answer ends.
                raise trio.BrokenResourceError(str(error)) from error

    async def finish_request(self) -> bool:
        """Read what is left of the body; return whether the connection can be used again."""
        try:
            while self._h11.their_state is h11.SEND_BODY:
                if self._h11.they_are_waiting_for_100_continue or not await self.receive_body():
                    break
        except HttpError:
            return False  # Answered already; a body without end is cut off.
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def refuse(self, error: HttpError) -> None:
        """Say why, if that is still possible, and be done with the connection."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        with trio.move_on_after(_GOODBYE_S):
            response = error_response(error)
            closing = Response(response.status, response.body, headers=(("connection", "close"),))
            await self.send(closing, with_body=True)
            await self._drain()

    async def _drain(self) -> None:
        """Take what the peer still sends: closing on unread bytes would destroy our answer."""
        if isinstance(self._stream, trio.abc.HalfCloseableStream):
            await self._stream.send_eof()
        taken = 0
        while taken <= self._limits.body_bytes:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return
            taken += len(data)

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                # h11 judges only heads that are incomplete: none may arrive whole and too long.
                in_head = self._h11.their_state is h11.IDLE
                size = min(_RECEIVE_BYTES, self._limits.head_bytes) if in_head else _RECEIVE_BYTES
                self._h11.receive_data(bytes(await self._stream.receive_some(size)))
                continue
            assert not isinstance(event, type)  # PAUSED cannot be: each request is answered first.
            return event

    async def _send_event(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self._stream.send_all(data)


class _Counted:
    """Stands for so many bytes of a body."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def error_response(error: HttpError) -> Response:
    """Return the answer that tells a client of an error."""
    body = json.dumps({"error": str(error)}) + "\n"
    return Response(error.status, body.encode("ascii"))


def _as_request(head: h11.Request, receive: Callable[[], Awaitable[bytes]]) -> Request:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    method = head.method.decode("ascii")
    try:
        url = urlsplit(head.target.decode("ascii"))
        path = unquote(url.path, errors="strict")
        fields = parse_qsl(
            url.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=QUERY_FIELDS_MAX,
        )
    except ValueError as error:
        raise HttpError(400, f"the request's target cannot be read: {error}") from error
    query = dict(fields)
    if len(query) != len(fields):
        raise HttpError(400, "a query field is given twice")
    return Request("GET" if method == "HEAD" else method, path, query, headers, receive)
