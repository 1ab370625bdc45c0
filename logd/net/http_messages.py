"""What an HTTP handler gets and gives: requests, responses, refusals, and the limits on all of it.

A handler knows nothing of sockets: it gets a `Request`, whose body it may read or not, and returns
what looks like a `Response`. So the admin port and storage nodes share one server, and tests call a
handler directly.

Source: RFC 9110; h11's documentation of its state machine.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

import h11

from logd.errors import LogdError
from logd.net.send import Sendable
from logd.units import KIB, MIB

JSON_TYPE: Final = "application/json"
QUERY_FIELDS_MAX: Final = 32


class HttpError(LogdError):
    """A request is refused with a status and a reason that the client is shown."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server allows. The defaults suit an admin port.

    Attributes:
        head_bytes, body_bytes: of one request.
        skip_bytes: how much of a body that nobody wants is read to keep the connection.
        connections: beyond them, a connection is told so and closed.
        idle_s: without a byte of the next request.
        head_s: from a head's first byte to its last.
        stall_s: without a byte of a body, either way.
        request_s: for the handler, and again for sending the answer; what a body takes at
            `bytes_per_s_min` comes on top.
        bytes_per_s_min: a body that comes more slowly in the long run is given up.
    """

    head_bytes: int = 16 * KIB
    body_bytes: int = MIB
    skip_bytes: int = MIB
    connections: int = 64
    idle_s: float = 60.0
    head_s: float = 10.0
    stall_s: float = 60.0
    request_s: float = 600.0
    bytes_per_s_min: int = 64 * KIB


async def _no_body() -> bytes:
    return b""


async def _nothing_into(_: memoryview) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its head, and readers of its body, of which a handler uses one.

    Attributes:
        method: upper case; HEAD arrives as GET, and the body of the answer is left out.
        path: percent-decoded, without the query.
        query: each field once; a field given twice is refused before the handler sees it.
        headers: names in lower case; the last value of a repeated one.
        receive: returns the next bytes of the body, b"" at its end.
        receive_into: as `receive`, into a buffer, without a copy; returns how many, 0 at the end.
            Only for a body whose length was announced.
        length_bytes: the announced length of the body; None where it is chunked.
        head_only: whether it was a HEAD.
        peer: the client's address, for log lines.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    receive: Callable[[], Awaitable[bytes]] = _no_body
    receive_into: Callable[[memoryview], Awaitable[int]] = _nothing_into
    length_bytes: int | None = 0
    head_only: bool = False
    peer: str = ""

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


class Body(Protocol):
    """A body that is not made before it is sent."""

    @property
    def size(self) -> int:
        """Its whole length, which is announced."""
        ...

    async def next(self) -> bytes | memoryview | Sendable | None:
        """Return the next part, None behind the last one.

        Whatever it raises ends the connection, so that the client cannot take a part for the whole.
        """
        ...


class Answer(Protocol):
    """What the server needs of a response."""

    @property
    def status(self) -> int:
        """The status code."""
        ...

    @property
    def body(self) -> bytes | Body:
        """The body."""
        ...

    @property
    def content_type(self) -> str:
        """The media type of the body."""
        ...

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Further headers."""
        ...


@dataclass(frozen=True, slots=True)
class Response:
    """One answer."""

    status: int = 200
    body: bytes | Body = b""
    content_type: str = JSON_TYPE
    headers: tuple[tuple[str, str], ...] = field(default=())


def error_response(error: HttpError) -> Response:
    """Return the answer that tells a client of an error."""
    body = json.dumps({"error": str(error)}) + "\n"
    return Response(error.status, body.encode("ascii"))


def parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    """Return the path and the query of a request's target, percent-decoded.

    Raises:
        HttpError: 400, it cannot be read, or a query field is given twice.
    """
    try:
        url = urlsplit(target.decode("ascii"))
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
    return path, query


def announced_length(head: h11.Request) -> int | None:
    """Return how long the body will be; None where it comes in chunks of unknown number."""
    headers = dict(head.headers)
    if b"transfer-encoding" in headers:
        return None  # It goes before a length (RFC 9112, 6.3); h11 has refused other codings.
    return int(headers.get(b"content-length", b"0"))
