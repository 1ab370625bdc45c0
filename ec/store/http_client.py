"""The client's side of HTTP/1.1 to one node: connections that are kept, each call with its limits.

h11 writes and reads heads, but those that are in the one shape of our own (`ec.store.http_head`);
bodies go past it, into and out of the caller's buffers. Nothing is tried again, but for one case: a
kept connection that refuses the first byte of a request has certainly not delivered it, so that
request goes over a new one.

What costs here is not bytes but waits: each wakes the loop. So whatever can be sent or received at
once is, and who waits for a body is woken when a good part of it has come (SO_RCVLOWAT).

Every wait has an end. What goes wrong is one of four: `StoreTimeoutError`, `StoreUnavailableError`
(not reached, broken off, or no HTTP), or what the node itself answered (`ec.store.wire`).

Source: RFC 9112; h11's documentation; socket(7) and tcp(7) of Linux.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import h11
import trio

from ec.errors import StoreUnavailableError
from ec.kernels.operands import Buffer
from ec.store.http_head import plain_answer, plain_get
from ec.store.patience import Patience, Timeouts

# Names and values, in order.
Headers = Sequence[tuple[str, str]]

HEAD_BYTES_MAX: Final = 16 * 1024
_RECEIVE_BYTES: Final = 16 * 1024
# Handed to the kernel at once: others have their turn in between.
_SEND_BYTES: Final = 1024 * 1024
# Of a body: who waits for it is woken when so much has come, or all that is left.
_WAKE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    length: int


def _send_unpaced_if_local(sock: trio.socket.SocketType) -> None:
    """Take a congestion control that paces (BBR) off a connection that does not leave the machine.

    There is no path to be kind to, and each pause is a timer; "reno", which every kernel has, knows
    none. Where the kernel refuses, the connection works as it is.
    """
    with contextlib.suppress(OSError):
        if sock.getsockname()[0] == sock.getpeername()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


class NotSentError(Exception):
    """The first byte of a request was refused: it was never sent."""


class Connection:
    """One connection: one request at a time.

    Attributes:
        is_reusable: whether the last exchange ended where the next one can begin.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        # The same socket twice: what can be done at once is done without a turn of the loop.
        self._plain = socket.socket(fileno=stream.socket.detach())
        self._plain.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(self._plain)
        self._stream = trio.SocketStream(self._socket)
        self._asked: tuple[str, str, Headers] = ("", "", ())
        self._h11: h11.Connection | None = None
        self._wake_bytes = 1
        self._early = b""
        self._left = 0
        self._keeps = False
        self.is_reusable = False

    def has_news(self) -> bool:
        """Whether something is there to be read: bytes, or the end of them."""
        try:
            self._plain.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close it at once."""
        self.is_reusable = False
        self._socket.close()

    async def close_sending(self) -> None:
        """Tell the other end that no more will come."""
        await self._stream.send_eof()

    # --- Requests ---------------------------------------------------------------------------

    def begin(self, method: str, target: str, headers: Headers, body: bytes = b"") -> bytes:
        """Send of a request's head, and its body where that is at hand, what goes at once.

        Returns:
            What is left to send.

        Raises:
            NotSentError: not a byte of it left.
        """
        assert self._left == 0, "the last answer was read to its end"
        self.is_reusable = False
        self._asked = method, target, headers
        self._h11 = None
        head = plain_get(target, headers) if method == "GET" and not body else None
        if head is None:
            self._h11, head = self._new_h11()
        data = head + body
        try:
            return data[self._plain.send(data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            raise NotSentError(str(error)) from error

    def _new_h11(self) -> tuple[h11.Connection, bytes]:
        """Return what judges the answer, and the head of the request that it has seen."""
        method, target, headers = self._asked
        parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        head = parser.send(h11.Request(method=method, target=target, headers=list(headers)))
        assert head is not None
        return parser, head

    async def send(self, data: Buffer) -> None:
        """Send bytes of a body."""
        view = memoryview(data)
        for at in range(0, len(view), _SEND_BYTES):
            await self._stream.send_all(view[at : at + _SEND_BYTES])

    # --- Answers ----------------------------------------------------------------------------

    async def reply(self, *, interim: bool = False) -> Reply:
        """Return the head of the answer.

        Args:
            interim: whether 100 Continue is an answer.
        """
        parser = self._h11
        if parser is None:
            data = await self._receive_some()
            found = plain_answer(data)
            if found is not None:
                status, headers, size = found
                return self._begin_body(status, headers, data[size:], is_11=True)
            parser, _ = self._new_h11()
            parser.receive_data(data)
            self._h11 = parser
        return await self._h11_reply(parser, interim=interim)

    async def _h11_reply(self, parser: h11.Connection, *, interim: bool) -> Reply:
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await self._receive_some())
            elif isinstance(event, h11.InformationalResponse):
                if interim and event.status_code == 100:
                    return Reply(100, {}, 0)
            elif isinstance(event, h11.Response):
                headers = {
                    name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers
                }
                early = parser.trailing_data[0]
                is_11 = event.http_version == b"1.1"
                return self._begin_body(event.status_code, headers, early, is_11=is_11)
            else:
                raise trio.BrokenResourceError("closed without an answer")

    async def _receive_some(self) -> bytes:
        while True:
            try:
                return self._plain.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._plain)

    def _begin_body(
        self, status: int, headers: dict[str, str], early: bytes, *, is_11: bool
    ) -> Reply:
        if "content-length" not in headers or "transfer-encoding" in headers:
            raise h11.RemoteProtocolError("the answer does not say how long it is")
        length = int(headers["content-length"])  # It was checked that it is digits.
        assert length >= 0
        self._early = early
        self._left = length
        keeps = is_11 and "close" not in headers.get("connection", "")
        self._keeps = keeps
        self.is_reusable = keeps and length == 0 and not early
        return Reply(status, headers, length)

    async def read_into(self, buffer: memoryview) -> None:
        """Fill the buffer with the next bytes of the answer's body, which has that many."""
        assert len(buffer) <= self._left
        got = min(len(buffer), len(self._early))
        buffer[:got] = self._early[:got]
        self._early = self._early[got:]
        self._left -= got
        while got < len(buffer):
            try:
                count = self._plain.recv_into(buffer[got:])
            except BlockingIOError:
                self._wake_at(min(self._left, _WAKE_BYTES))
                await trio.lowlevel.wait_readable(self._plain)
                continue
            if count == 0:
                raise trio.BrokenResourceError("broken off in the middle of an answer")
            got += count
            self._left -= count
        if self._left == 0:
            self._wake_at(1)
        # What came behind the body was not asked for: such a connection is not used again.
        self.is_reusable = self._keeps and self._left == 0 and not self._early

    def _wake_at(self, size: int) -> None:
        """Have whoever waits woken when so many bytes are there; at an end, at once, as ever."""
        if size != self._wake_bytes:
            self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._wake_bytes = size

    async def read_all(self) -> bytes:
        """Return the whole body of the answer; its length was judged by the caller."""
        data = bytearray(self._left)
        await self.read_into(memoryview(data))
        assert self._left == 0
        return bytes(data)


class Pool:
    """The connections to one node.

    Args:
        connections_max: how many there are at most; who wants one more waits.
        idle_max: how many are kept when nobody uses them.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        node: str,
        timeouts: Timeouts,
        connections_max: int,
        idle_max: int = 8,
    ) -> None:
        assert connections_max >= 1
        self._host = host
        self._port = port
        self._node = node
        self._timeouts = timeouts
        self._free = trio.Semaphore(connections_max)
        self._idle: list[Connection] = []
        self._idle_max = idle_max

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def give_back(self, connection: Connection) -> None:
        """End the use of a connection: it is kept if it can be."""
        assert connection not in self._idle, "it was in use"
        if connection.is_reusable and len(self._idle) < self._idle_max:
            self._idle.append(connection)
        else:
            connection.close()
        self._free.release()

    async def request(
        self, method: str, target: str, headers: Headers, body: bytes = b""
    ) -> Connection:
        """Send a request and return its connection, which is to be given back.

        Raises:
            StoreTimeoutError, StoreUnavailableError.
        """
        assert target.startswith("/")
        what = f"{method} {target}"
        if self._free.value:
            self._free.acquire_nowait()
        else:
            with Patience(self._timeouts.connect_s, node=self._node, what="no connection is free"):
                await self._free.acquire()
        connection: Connection | None = None
        try:
            connection = self._kept()
            if connection is not None:
                with contextlib.suppress(NotSentError):  # It went in the meantime; nobody heard.
                    await self._send(connection, method, target, headers, body)
                    return connection
                connection.close()
            connection = await self._connect()
            try:
                await self._send(connection, method, target, headers, body)
            except NotSentError as error:
                raise StoreUnavailableError(f"{self._node}: {what}: {error}") from error
        except BaseException:  # Whatever it was, the connection's place is free again.
            if connection is not None:
                connection.close()
            self._free.release()
            raise
        return connection

    async def _send(
        self, connection: Connection, method: str, target: str, headers: Headers, body: bytes
    ) -> None:
        """Send a request; nearly always all of it goes at once.

        Raises:
            NotSentError: not a byte of it left. StoreTimeoutError, StoreUnavailableError.
        """
        what = f"{method} {target}"
        try:
            rest = connection.begin(method, target, headers, body)
        except h11.LocalProtocolError as error:
            raise StoreUnavailableError(f"{self._node}: {what}: no HTTP: {error}") from error
        if rest:
            with Patience(self._timeouts.answer_s, node=self._node, what=what):
                await connection.send(rest)

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_news():
                return connection
            connection.close()  # The node has closed it, or sent what nobody asked for.
        return None

    async def _connect(self) -> Connection:
        where = f"connecting to {self._host}:{self._port}"
        with Patience(self._timeouts.connect_s, node=self._node, what=where):
            stream = await trio.open_tcp_stream(self._host, self._port)
        _send_unpaced_if_local(stream.socket)
        return Connection(stream)

    @contextlib.asynccontextmanager
    async def exchange(
        self,
        method: str,
        target: str,
        headers: Headers,
        body: bytes = b"",
        *,
        answer_s: float,
    ) -> AsyncIterator[tuple[Connection, Reply]]:
        """Send a request and give its connection and the head of its answer, for a `with`.

        Raises:
            StoreTimeoutError, StoreUnavailableError.
        """
        connection = await self.request(method, target, headers, body)
        assert not connection.is_reusable, "in use until its answer was read"
        try:
            with Patience(answer_s, node=self._node, what=f"{method} {target}"):
                reply = await connection.reply()
            yield connection, reply
        finally:
            self.give_back(connection)
