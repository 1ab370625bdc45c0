"""One HTTP connection: heads through h11, bodies past it.

h11 parses and writes heads, judges framing and knows whether a connection can be kept; only a GET
without a body in the shape of our own goes past it (`http_head`). A body whose
length was announced never goes through it: it is received into the handler's own buffers, and a
response's body goes out as it is, files by sendfile. After such a body the next request gets a new
`h11.Connection`, fed with what came behind.

Source: RFC 9112; h11's documentation ("sendfile", "trailing data").
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import h11
import trio

from logd.net.http_head import Head, plain_request, plain_response
from logd.net.http_messages import (
    Answer,
    Body,
    HttpError,
    Limits,
    Response,
    announced_length,
    error_response,
)
from logd.net.same_machine import send_unpaced_if_local
from logd.net.send import send_file
from logd.units import KIB, MIB

_RECEIVE_BYTES: Final = 64 * KIB
# How long a refused or closing connection may take to read what it is told, and how much of what
# it still sends is taken meanwhile.
_GOODBYE_S: Final = 1.0
_GOODBYE_BYTES: Final = 64 * MIB
# A body may be late by so many stalls before its pace counts.
_PACE_GRACE: Final = 2


class _Announced:
    """Stands for a body that h11 counts and does not see."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class HttpConnection:
    """Requests in, answers out, on one stream; sockets are served without copies."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self._stream = stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        if self._socket is not None:
            send_unpaced_if_local(self._socket, self.peer)
        self._limits = limits
        self._h11 = self._new_h11()
        # A request that h11 has not seen, and its bytes; whether it is being answered.
        self._plain: Head | None = None
        self._plain_data = b""
        self._answers = False
        # Of a body of announced length: what is still to come, and what came with its head.
        self._left: int | None = None
        self._early = b""
        self._length = 0
        self._body_bytes = 0
        self._waited_s = 0.0
        self._cut_off = False
        self._closes = False

    def _new_h11(self) -> h11.Connection:
        return h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)

    @property
    def peer(self) -> str:
        """The other end's address, "" where it is no socket or gone."""
        try:
            return str(self._socket.getpeername()[0]) if self._socket is not None else ""
        except OSError:
            return ""

    # --- Heads ------------------------------------------------------------------------------

    def has_begun(self) -> bool:
        """Return whether bytes of the next request are there."""
        return self._plain is not None or bool(self._h11.trailing_data[0])

    async def wait_for_bytes(self) -> bool:
        """Return when the next request has begun; False when the peer has closed instead."""
        data = await self._receive_some()
        self._plain, self._plain_data = plain_request(data), data
        if self._plain is None:
            self._h11.receive_data(data)
        return bool(data)

    def head_at_hand(self) -> Head | None:
        """Return the next request's head if all of it has come.

        Raises:
            h11.RemoteProtocolError: what has come is no request.
        """
        if self._plain is not None:
            self._left = 0
            return self._plain
        event = self._h11.next_event()
        return None if event is h11.NEED_DATA else self._begun(event)

    async def next_head(self) -> Head | None:
        """Return the next request's head; None when the peer has closed the connection.

        Raises:
            As `head_at_hand`.
        """
        return self._begun(await self._next_event())

    def _begun(self, event: object) -> Head | None:
        if not isinstance(event, h11.Request):
            return None
        length = announced_length(event)
        self._length = length or 0
        self._left = length
        if length:
            self._early = self._h11.trailing_data[0]
        return Head(
            event.method.decode("ascii"),
            event.target,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers},
            length,
        )

    def start_next(self) -> None:
        """Make ready for the next request on the connection."""
        if self._plain is not None:
            self._plain = None
        elif self._length:
            self._h11 = self._new_h11()
            if self._early:
                self._h11.receive_data(self._early)
            self._early = b""
        else:
            self._h11.start_next_cycle()
        self._left = None
        self._answers = False
        self._length = self._body_bytes = 0
        self._waited_s = 0.0

    async def _receive_some(self) -> bytes:
        # h11 judges only heads that are incomplete: none may arrive whole and too long.
        size = min(_RECEIVE_BYTES, self._limits.head_bytes)
        return bytes(await self._stream.receive_some(size))

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._receive_some())
                continue
            assert not isinstance(event, type)  # PAUSED cannot be: each request is answered first.
            return event

    # --- Bodies of requests -----------------------------------------------------------------

    async def receive_body(self) -> bytes:
        """Return the next bytes of the request's body, b"" at its end.

        Raises:
            HttpError: it is too long, stopped coming, or ended before its end.
        """
        if self._left is not None:
            buffer = bytearray(min(self._left, _RECEIVE_BYTES))
            return bytes(buffer[: await self.receive_into(memoryview(buffer))])
        if self._h11.their_state is not h11.SEND_BODY:
            return b""
        await self._continue()
        event = await self._paced(self._next_event)
        if not isinstance(event, h11.Data):
            return b""
        self._body_bytes += len(event.data)
        self._check_length(self._body_bytes)
        return bytes(event.data)

    async def receive_into(self, buffer: memoryview) -> int:
        """Receive some bytes of a body of announced length; return how many, 0 at its end.

        Raises:
            HttpError: as `receive_body`; 411, the length was not announced.
        """
        if self._left is None:
            raise HttpError(411, "say the body's length (Content-Length)")
        if not self._left or not buffer:
            return 0
        self._check_length(self._length)
        if self._early:
            count = min(len(buffer), len(self._early), self._left)
            buffer[:count] = self._early[:count]
            self._early = self._early[count:]
        else:
            await self._continue()
            count = await self._paced(self._receive_some_into, buffer[: self._left])
        if count == 0:
            self._cut_off = True
            raise HttpError(400, f"the body ends {self._left} bytes before its end")
        self._left -= count
        return count

    async def _receive_some_into(self, buffer: memoryview) -> int:
        if self._socket is not None:
            try:
                return await self._socket.recv_into(buffer)
            except OSError as error:
                raise trio.BrokenResourceError from error
        data = await self._stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _check_length(self, length: int) -> None:
        if length > self._limits.body_bytes:
            raise HttpError(413, f"a body has at most {self._limits.body_bytes} bytes")

    async def _continue(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            await self._send_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _paced(self, receive: Any, *arguments: object) -> Any:
        """Wait for bytes of a body: each time for a while, and all in all as its pace allows."""
        limits = self._limits
        received = self._body_bytes if self._left is None else self._length - self._left
        paced_s = _PACE_GRACE * limits.stall_s + received / limits.bytes_per_s_min
        began = trio.current_time()
        with trio.move_on_after(min(limits.stall_s, paced_s - self._waited_s)):
            found = await receive(*arguments)
            self._waited_s += trio.current_time() - began
            return found
        self._cut_off = True
        raise HttpError(408, f"the body comes too slowly: {received} bytes so far")

    # --- Answers ----------------------------------------------------------------------------

    async def send(self, answer: Answer, *, with_body: bool, close: bool = False) -> None:
        """Send a whole answer.

        Args:
            close: tell the peer that the connection ends here.

        Raises:
            trio.TooSlowError: the peer takes no bytes. Anything else: what the body raises.
        """
        body = answer.body
        size = len(body) if isinstance(body, bytes) else body.size
        headers = [
            ("content-type", answer.content_type),
            ("content-length", str(size)),
            ("cache-control", "no-store"),
            *answer.headers,
        ]
        # Judged here: h11 forgets who waited for 100 Continue once it has sent an answer.
        self._closes = close or not self._can_skip_body()
        if self._closes:
            headers.append(("connection", "close"))
        head = self._head(answer.status, headers, size if with_body else 0)
        self._answers = True
        if not with_body:
            await self._send_all(head)
        elif isinstance(body, bytes):
            await self._send_all(head + body)
        else:
            await self._send_all(head)
            await self._send_body(body)
        if self._plain is None:
            self._h11.send(h11.EndOfMessage())

    def _head(self, status: int, headers: list[tuple[str, str]], body_bytes: int) -> bytes:
        """Return the head of an answer."""
        if self._plain is not None:
            plain = plain_response(status, headers)
            if plain is not None:
                return plain
            self._plain = None
            self._h11.receive_data(self._plain_data)
            self._h11.next_event()
        reason = HTTPStatus(status).phrase
        head = self._h11.send(h11.Response(status_code=status, headers=headers, reason=reason))
        assert head is not None
        if body_bytes:
            stand_in: Any = _Announced(body_bytes)
            self._h11.send_with_data_passthrough(h11.Data(data=stand_in))
        return head

    async def _send_body(self, body: Body) -> None:
        left = body.size
        while (part := await body.next()) is not None:
            if isinstance(part, bytes | memoryview):
                left -= len(part)
                await self._send_all(part)
            else:
                left -= part.size
                assert self._socket is not None, "files are sent to sockets only"
                await send_file(self._socket, part, stall_s=self._limits.stall_s)
        assert left == 0, "a body is as long as it says"

    async def _send_all(self, data: bytes | memoryview) -> None:
        for at in range(0, len(data), MIB):
            with trio.fail_after(self._limits.stall_s):
                await self._stream.send_all(data[at : at + MIB])

    async def _send_event(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self._send_all(data)

    def _can_skip_body(self) -> bool:
        """Whether what is left of the request's body is worth reading to keep the connection."""
        if self._cut_off or (self._left and self._h11.they_are_waiting_for_100_continue):
            return False
        return self._left is None or self._left <= self._limits.skip_bytes

    async def finish_request(self) -> bool:
        """Read what is left of the body; return whether the connection can be used again."""
        if self._closes:
            if self._left != 0:
                await self._linger()
            return False
        if self._plain is not None:
            return True
        try:
            while self._left or (self._left is None and self._h11.their_state is h11.SEND_BODY):
                if self._h11.they_are_waiting_for_100_continue or not await self.receive_body():
                    break
        except HttpError:
            return False  # Answered already; a body without end is cut off.
        if self._h11.our_state is not h11.DONE:
            return False
        if self._length:
            return self._left == 0
        if self._h11.their_state is h11.SEND_BODY:
            self._h11.next_event()  # The end of a body of no bytes.
        return self._h11.their_state is h11.DONE

    async def refuse(self, error: HttpError) -> None:
        """Say why, if that is still possible, and be done with the connection."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE) or (
            self._plain is not None and self._answers
        ):
            return
        with trio.move_on_after(_GOODBYE_S):
            answer = error_response(error)
            closing = Response(answer.status, answer.body)
            await self.send(closing, with_body=True, close=True)
            await self._linger()

    async def _linger(self) -> None:
        """Take what the peer still sends: closing on unread bytes would destroy our answer."""
        with trio.move_on_after(_GOODBYE_S):
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            taken = 0
            while taken <= _GOODBYE_BYTES:
                data = await self._stream.receive_some(_RECEIVE_BYTES)
                if not data:
                    return
                taken += len(data)
