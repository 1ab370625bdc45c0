"""A small HTTP/1.1 client for one node: h11 for heads, bodies straight between socket and buffer.

Connections are kept and used again, one request at a time on each. Whatever goes wrong, the
connection is closed and the error is `StoreUnavailableError`; a request without a body that met a
kept connection which the node had closed meanwhile is sent once more on a new one. Every call has a
time-out, so nothing waits for ever for a node that hangs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from ec.errors import StoreUnavailableError
from ec.kernels.operands import Buffer
from ec.store.wire import NODE_HEADER

KEPT_CONNECTIONS_MAX: Final = 8
_HEAD_BYTES_MAX: Final = 16 * 1024
_RECEIVE_BYTES: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that calls may take: to connect, for an answer, and for what reads a whole chunk."""

    connect_s: float = 5.0
    call_s: float = 30.0
    long_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The head of an answer."""

    status: int
    headers: dict[str, str]
    content_bytes: int


class Exchange:
    """One request and its answer on a connection."""

    def __init__(self, node: str, stream: trio.SocketStream) -> None:
        self._node = node
        self._stream = stream
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._early = b""  # Of the body, what came with the head.
        self._left = 0  # Of the body, what was not read yet.
        self.keeps_open = False
        self.answered = False

    async def send_head(self, method: str, target: str, headers: Sequence[tuple[str, str]]) -> None:
        """Send the request without its body."""
        assert target.startswith("/")
        data = self._h11.send(h11.Request(method=method, target=target, headers=list(headers)))
        assert data is not None
        await self._stream.send_all(data)

    async def send_body(self, buffers: Sequence[Buffer]) -> None:
        """Send a part of the body, which has a length that the head said."""
        for buffer in buffers:
            await self._stream.send_all(buffer)

    async def wait_for_go(self) -> Reply | None:
        """Return None when the node wants the body, else its final answer."""
        event = await self._next_head()
        return None if isinstance(event, h11.InformationalResponse) else self._reply(event)

    async def receive_head(self) -> Reply:
        """Return the head of the answer."""
        assert self._left == 0
        while True:
            event = await self._next_head()
            if isinstance(event, h11.Response):
                return self._reply(event)

    async def _next_head(self) -> h11.Response | h11.InformationalResponse:
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Response | h11.InformationalResponse):
                return event
            if event is not h11.NEED_DATA:
                raise StoreUnavailableError(f"{self._node}: ended the connection")
            data = bytes(await self._stream.receive_some(_RECEIVE_BYTES))
            self.answered = self.answered or bool(data)
            self._h11.receive_data(data)

    def _reply(self, event: h11.Response | h11.InformationalResponse) -> Reply:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        length = headers.get("content-length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 15:
            raise StoreUnavailableError(f"{self._node}: does not say how long its answer is")
        self._early = bytes(self._h11.trailing_data[0])
        self._left = int(length)
        self.keeps_open = "close" not in headers.get("connection", "").lower()
        return Reply(event.status_code, headers, self._left)

    async def receive_into(self, buffer: memoryview) -> None:
        """Fill the buffer from the body, of which as much must be left."""
        assert len(buffer) <= self._left
        taken = min(len(self._early), len(buffer))
        buffer[:taken] = self._early[:taken]
        self._early = self._early[taken:]
        while taken < len(buffer):
            count = await self._stream.socket.recv_into(buffer[taken:])
            if count == 0:
                raise StoreUnavailableError(f"{self._node}: ended the connection in its answer")
            taken += count
        self._left -= len(buffer)

    @property
    def is_done(self) -> bool:
        """Whether all of the answer was read, and nothing else."""
        return self._left == 0 and not self._early


class Client:
    """Connections to one node.

    Args:
        address: http://HOST:PORT.
        token: sent with every request, where there is one.
        node_id: the node that is meant, where it is known: another one then answers nothing.

    Raises:
        ValueError: the address is no such URL.
    """

    def __init__(
        self,
        node: str,
        address: str,
        *,
        token: str | None,
        node_id: str | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        url = urlsplit(address)
        if (
            url.scheme != "http"
            or not url.hostname
            or url.port is None
            or url.path not in ("", "/")
        ):
            raise ValueError(f"{address!r} is no address of a node, such as http://10.0.0.7:9700")
        self.node = node
        self.timeouts = timeouts or Timeouts()
        self._host, self._port = url.hostname, url.port
        self._token = token
        self._node_id = node_id
        self._kept: list[trio.SocketStream] = []

    def headers(self, *more: tuple[str, str]) -> list[tuple[str, str]]:
        """Return the headers of a request."""
        found = [("host", f"{self._host}:{self._port}"), *more]
        if self._token is not None:
            found.append(("authorization", f"Bearer {self._token}"))
        if self._node_id is not None:
            found.append((NODE_HEADER, self._node_id))
        return found

    async def open(self, *, fresh: bool = False) -> tuple[Exchange, trio.SocketStream, bool]:
        """Return a new exchange, its connection, and whether that one was used before.

        Raises:
            StoreUnavailableError: the node cannot be reached.
        """
        if self._kept and not fresh:
            stream = self._kept.pop()
            return Exchange(self.node, stream), stream, True
        with self.bounded(self.timeouts.connect_s, "connecting"):
            stream = await trio.open_tcp_stream(self._host, self._port)
        return Exchange(self.node, stream), stream, False

    async def close_or_keep(self, exchange: Exchange, stream: trio.SocketStream) -> None:
        """Keep a connection whose answer was read to its end, close any other."""
        if exchange.keeps_open and exchange.is_done and len(self._kept) < KEPT_CONNECTIONS_MAX:
            self._kept.append(stream)
        else:
            await trio.aclose_forcefully(stream)

    async def call(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Sequence[tuple[str, str]] = (),
        timeout_s: float | None = None,
        limit_bytes: int,
    ) -> tuple[Reply, memoryview]:
        """Return the answer to a request, with its body.

        Raises:
            StoreUnavailableError: no answer, or one longer than `limit_bytes`.
        """
        assert limit_bytes >= 0
        fresh = False
        while True:
            exchange, stream, was_used = await self.open(fresh=fresh)
            try:
                with self.bounded(timeout_s or self.timeouts.call_s, f"{method} {target}"):
                    return await self._exchange(
                        exchange, method, target, body, headers, limit_bytes
                    )
            except StoreUnavailableError:
                if not was_used or exchange.answered:
                    raise
                # The node had closed this one while nobody used it. Repeating a call is harmless:
                # at worst the answer is that it was done already.
                fresh = True
            finally:
                with trio.CancelScope(shield=True):
                    await self.close_or_keep(exchange, stream)

    async def _exchange(
        self, exchange: Exchange, method: str, target: str, body: bytes,
        headers: Sequence[tuple[str, str]], limit_bytes: int,
    ) -> tuple[Reply, memoryview]:  # fmt: skip
        length = (("content-length", str(len(body))),) if body or method != "GET" else ()
        await exchange.send_head(method, target, self.headers(*length, *headers))
        if body:
            await exchange.send_body([body])
        reply = await exchange.receive_head()
        if reply.content_bytes > limit_bytes:
            sizes = f"{reply.content_bytes} bytes, at most {limit_bytes}"
            raise StoreUnavailableError(f"{self.node}: answers with {sizes}")
        found = memoryview(bytearray(reply.content_bytes))
        await exchange.receive_into(found)
        return reply, found

    @contextmanager
    def bounded(self, seconds: float, what: str) -> Iterator[None]:
        """End what takes too long, and turn every trouble of the network into one error.

        Raises:
            StoreUnavailableError: whatever it was.
        """
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError as error:
            raise StoreUnavailableError(f"{self.node}: {what} took {seconds} s") from error
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise StoreUnavailableError(f"{self.node}: {what}: {error}") from error
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            raise StoreUnavailableError(f"{self.node}: {what}: no HTTP: {error}") from error

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        while self._kept:
            await trio.aclose_forcefully(self._kept.pop())
