"""A small HTTP/1.1 server: h11 for the heads, Trio for the waiting, one handler for the meaning.

A handler gets a `Request` and returns a `Response`; it raises `HttpError` to refuse. It knows
nothing of sockets, so the admin port and storage nodes share this file, and tests call it directly
or over memory streams. Works on any trio stream; files are sent to sockets only.

Limits, all in `Limits`, all checked before memory is used. Errors are answered as JSON, {"error":
…}, and then, where the rest of the input cannot be trusted, the connection is closed. `drain` ends
service: idle connections are closed, requests under way are answered first.

Source: RFC 9110 and 9112.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import h11
import trio

from logd.net.http_connection import HttpConnection
from logd.net.http_head import Head
from logd.net.http_messages import (
    Answer,
    HttpError,
    Limits,
    Request,
    Response,
    error_response,
    parse_target,
)

__all__ = ["HttpError", "HttpServer", "Limits", "Request", "Response"]

Handler = Callable[[Request], Awaitable[Answer]]
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
        self._idle: set[trio.CancelScope] = set()
        self._draining = False
        self._quiet = trio.Event()
        self.connections = 0

    async def serve(
        self, *listeners: trio.SocketListener, handlers: trio.Nursery | None = None
    ) -> None:
        """Accept on all listeners until cancelled; running out of descriptors only slows it.

        Args:
            handlers: where connections are served, if they are to outlive the accepting.
        """
        await trio.serve_listeners(self.serve_connection, list(listeners), handler_nursery=handlers)

    async def drain(self) -> None:
        """Close idle connections, and the others once their request is answered; wait for all.

        Whoever calls it has stopped accepting, and limits the waiting.
        """
        self._draining = True
        for scope in self._idle:
            scope.cancel()
        while self.connections:
            await self._quiet.wait()

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Serve one connection until it ends; never raises for what the peer did."""
        self.connections += 1
        self._quiet = trio.Event()
        connection = HttpConnection(stream, self._limits)
        try:
            if self.connections > self._limits.connections:
                await connection.refuse(HttpError(503, "too many connections, try again later"))
                return
            while not self._draining and await self._serve_request(connection):
                connection.start_next()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # The peer is gone; there is nobody to tell.
        finally:
            self.connections -= 1
            if not self.connections:
                self._quiet.set()
            await trio.aclose_forcefully(stream)

    async def _serve_request(self, connection: HttpConnection) -> bool:
        """Serve one request; return whether another may follow on the connection."""
        try:
            head = await self._next_head(connection)
            return head is not None and await self._answer(connection, head)
        except trio.TooSlowError:
            await connection.refuse(HttpError(408, "the request took too long"))
        except h11.RemoteProtocolError as error:
            await connection.refuse(HttpError(error.error_status_hint, str(error)))
        except HttpError as error:
            await connection.refuse(error)
        return False

    async def _next_head(self, connection: HttpConnection) -> Head | None:
        if not connection.has_begun():
            with trio.move_on_after(self._limits.idle_s) as idle:
                self._idle.add(idle)
                try:
                    if not await connection.wait_for_bytes():
                        return None
                finally:
                    self._idle.discard(idle)
            if idle.cancelled_caught:
                if self._draining:
                    return None
                raise trio.TooSlowError
        # Scopes cost more than heads, which nearly always come whole.
        head = connection.head_at_hand()
        if head is None:
            with trio.fail_after(self._limits.head_s):
                head = await connection.next_head()
        return head

    def _patience_s(self, size: int) -> float:
        return self._limits.request_s + size / self._limits.bytes_per_s_min

    async def _answer(self, connection: HttpConnection, head: Head) -> bool:
        request = _as_request(head, connection)
        with trio.fail_after(self._patience_s(request.length_bytes or 0)) as patience:
            answer = await self._asked(request)
            size = 0 if isinstance(answer.body, bytes) else answer.body.size
            patience.deadline = trio.current_time() + self._patience_s(size)
            try:
                await connection.send(answer, with_body=not request.head_only, close=self._draining)
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            except Exception as error:  # Its head is on its way; the client must see that it broke.
                self._on_failure(request, error)
                return False
            patience.deadline = trio.current_time() + self._limits.stall_s
            return await connection.finish_request()

    async def _asked(self, request: Request) -> Answer:
        try:
            return await self._handler(request)
        except HttpError as error:
            return error_response(error)
        except (
            h11.RemoteProtocolError,
            trio.TooSlowError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
        ):
            raise  # The connection's trouble, met while the handler read the body.
        except Exception as error:  # A bug of ours costs one request, no more.
            self._on_failure(request, error)
            return error_response(HttpError(500, "internal error, see the server's log"))


def _as_request(head: Head, connection: HttpConnection) -> Request:
    path, query = parse_target(head.target)
    return Request(
        method="GET" if head.method == "HEAD" else head.method,
        path=path,
        query=query,
        headers=head.headers,
        receive=connection.receive_body,
        receive_into=connection.receive_into,
        length_bytes=head.length_bytes,
        head_only=head.method == "HEAD",
        peer=connection.peer,
    )
