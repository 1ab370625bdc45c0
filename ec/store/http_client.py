"""The client's side of HTTP/1.1 to one node: connections that are kept, each call with its limits.

h11 writes and reads heads; bodies go past it, into and out of the caller's buffers. Nothing is
tried again, but for one case: a kept connection that refuses the first byte of a request has
certainly not delivered it, so that request goes over a new one.

Every wait has an end. What goes wrong is one of four: `StoreTimeoutError`, `StoreUnavailableError`
(not reached, broken off, or no HTTP), or what the node itself answered (`ec.store.wire`).

Source: RFC 9112; h11's documentation.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import h11
import trio

from ec.errors import StoreTimeoutError, StoreUnavailableError
from ec.kernels.operands import Buffer

# Names and values, in order.
Headers = Sequence[tuple[str, str]]

HEAD_BYTES_MAX: Final = 16 * 1024
_RECEIVE_BYTES: Final = 16 * 1024
# Handed to the kernel at once: others have their turn in between.
_SEND_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long what may take; a body of n bytes has n / `bytes_per_s_min` on top.

    Attributes:
        connect_s: for a connection, a free one of the limit included.
        answer_s: from a request to the head of its answer, and for a body.
        durable_s: as `answer_s`, at the end of a PUT: the node syncs and reads back.
        scan_s: as `answer_s`, where the node reads all of a chunk.
        abort_s: for a node to say that nothing of an aborted PUT is left.
    """

    connect_s: float = 5.0
    answer_s: float = 15.0
    durable_s: float = 60.0
    scan_s: float = 900.0
    abort_s: float = 5.0
    bytes_per_s_min: int = 1024 * 1024

    def body_s(self, size: int) -> float:
        """Return the patience with a body of that size."""
        assert size >= 0
        return self.answer_s + size / self.bytes_per_s_min


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    length: int


@contextlib.contextmanager
def patience(seconds: float, *, node: str, what: str) -> Iterator[None]:
    """Do something with a node that must be done in time; its failures become ours.

    Raises:
        StoreTimeoutError, StoreUnavailableError.
    """
    assert seconds > 0
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise StoreTimeoutError(f"{node}: {what}: not within {seconds:.3g} s") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        reason = _first_reason(error.__cause__ or error) or "broken off"
        raise StoreUnavailableError(f"{node}: {what}: {reason}") from error
    except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
        raise StoreUnavailableError(f"{node}: {what}: answers no HTTP: {error}") from error


def _first_reason(error: BaseException) -> str:
    """Return why it failed; of attempts at several addresses, why the first did."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)  # What Trio says around it names the address once more.
    return str(error)


class NotSentError(Exception):
    """The first byte of a request was refused: it was never sent."""


class Connection:
    """One connection: one request at a time.

    Attributes:
        is_reusable: whether the last exchange ended where the next one can begin.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._early = b""
        self._left = 0
        self._keeps = False
        self.is_reusable = False

    def has_news(self) -> bool:
        """Whether something is there to be read: bytes, or the end of them."""
        return bool(self._socket.is_readable())

    def close(self) -> None:
        """Close it at once."""
        self.is_reusable = False
        self._socket.close()

    async def close_sending(self) -> None:
        """Tell the other end that no more will come."""
        await self._stream.send_eof()

    async def send_head(
        self, method: str, target: str, headers: Headers, body: bytes = b""
    ) -> None:
        """Send the head of a request, and its body where that is at hand.

        Raises:
            NotSentError: not a byte of it left.
        """
        assert self._left == 0, "the last answer was read to its end"
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self.is_reusable = False
        head = self._h11.send(h11.Request(method=method, target=target, headers=list(headers)))
        assert head is not None
        data = head + body
        try:
            sent = await self._socket.send(data)
        except OSError as error:
            raise NotSentError(str(error)) from error
        if sent < len(data):
            await self._stream.send_all(data[sent:])

    async def send(self, data: Buffer) -> None:
        """Send bytes of a body."""
        view = memoryview(data)
        for at in range(0, len(view), _SEND_BYTES):
            await self._stream.send_all(view[at : at + _SEND_BYTES])

    async def reply(self, *, interim: bool = False) -> Reply:
        """Return the head of the answer.

        Args:
            interim: whether 100 Continue is an answer.
        """
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._receive_some())
            elif isinstance(event, h11.InformationalResponse):
                if interim and event.status_code == 100:
                    return Reply(100, {}, 0)
            elif isinstance(event, h11.Response):
                return self._begin_body(event)
            else:
                raise trio.BrokenResourceError("closed without an answer")

    async def _receive_some(self) -> bytes:
        return await self._socket.recv(_RECEIVE_BYTES)

    def _begin_body(self, event: h11.Response) -> Reply:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        if "content-length" not in headers or "transfer-encoding" in headers:
            raise h11.RemoteProtocolError("the answer does not say how long it is")
        length = int(headers["content-length"])  # h11 has checked that it is digits.
        assert length >= 0
        self._early = self._h11.trailing_data[0]
        self._left = length
        keeps = event.http_version == b"1.1" and "close" not in headers.get("connection", "")
        self._keeps = keeps
        self.is_reusable = keeps and length == 0 and not self._early
        return Reply(event.status_code, headers, length)

    async def read_into(self, buffer: memoryview) -> None:
        """Fill the buffer with the next bytes of the answer's body, which has that many."""
        assert len(buffer) <= self._left
        got = min(len(buffer), len(self._early))
        buffer[:got] = self._early[:got]
        self._early = self._early[got:]
        while got < len(buffer):
            count = await self._socket.recv_into(buffer[got:])
            if count == 0:
                raise trio.BrokenResourceError("broken off in the middle of an answer")
            got += count
        self._left -= len(buffer)
        # What came behind the body was not asked for: such a connection is not used again.
        self.is_reusable = self._keeps and self._left == 0 and not self._early

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
            with patience(self._timeouts.connect_s, node=self._node, what="no connection is free"):
                await self._free.acquire()
        connection: Connection | None = None
        try:
            connection = self._kept()
            if connection is not None:
                with contextlib.suppress(NotSentError):  # It went in the meantime; nobody heard.
                    with patience(self._timeouts.answer_s, node=self._node, what=what):
                        await connection.send_head(method, target, headers, body)
                    return connection
                connection.close()
            connection = await self._connect()
            with patience(self._timeouts.answer_s, node=self._node, what=what):
                try:
                    await connection.send_head(method, target, headers, body)
                except NotSentError as error:
                    raise trio.BrokenResourceError from error
        except BaseException:  # Whatever it was, the connection's place is free again.
            if connection is not None:
                connection.close()
            self._free.release()
            raise
        return connection

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_news():
                return connection
            connection.close()  # The node has closed it, or sent what nobody asked for.
        return None

    async def _connect(self) -> Connection:
        where = f"connecting to {self._host}:{self._port}"
        with patience(self._timeouts.connect_s, node=self._node, what=where):
            return Connection(await trio.open_tcp_stream(self._host, self._port))

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
            with patience(answer_s, node=self._node, what=f"{method} {target}"):
                reply = await connection.reply()
            yield connection, reply
        finally:
            self.give_back(connection)
