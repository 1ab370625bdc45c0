"""Frames that are not whole yet: kept apart for each connection until their last byte has come.

Most frames arrive whole and never get here. The others grow in a buffer of their own as bytes
arrive, four times at a step, never by the length that a client merely claims; and all of them
together have a bound (queued.max.request.bytes), beyond which only the oldest one grows and the
others' connections are not read.
"""

from __future__ import annotations

from typing import Final

from logd.net.buffers import BufferPool
from logd.net.connection import Connection
from logd.wire.frame import LENGTH, LENGTH_BYTES, REQUEST_BYTES_MIN

_GROWTH = 4

_TLS_HANDSHAKE: Final = b"\x16\x03"
_HTTP_BEGINS: Final = (b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"OPTI", b"CONN", b"PRI ")


def frame_problem(size: int, bytes_max: int) -> str:
    """Return why a frame of this length is refused; a greeting of another protocol is named.

    Its first four bytes are what was taken for a length.
    """
    head = LENGTH.pack(size)
    if head.startswith(_TLS_HANDSHAKE):
        return "a TLS greeting: this port speaks the Kafka protocol without TLS"
    if head in _HTTP_BEGINS:
        return "an HTTP request: this port speaks the Kafka protocol, the admin port HTTP"
    return (
        f"a frame of {size} bytes is not between {REQUEST_BYTES_MIN} and "
        f"socket.request.max.bytes ({bytes_max})"
    )


class PartialFrames:
    """Works on the `input`, `filled` and `needed` of connections; on the loop."""

    def __init__(self, *, frame_bytes_max: int, queued_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._pool = BufferPool(queued_bytes_max=queued_bytes_max)

    def keep(self, connection: Connection, rest: memoryview, *, now: float) -> None:
        """Move the beginning of a frame, less than a whole one, to a buffer of its own."""
        size = len(rest)
        assert size > 0
        needed = LENGTH_BYTES
        if size >= LENGTH_BYTES:
            needed += LENGTH.unpack_from(rest)[0]
        buffer = self._pool.take(max(size, min(needed, _GROWTH * size)), needed)
        buffer[:size] = rest
        connection.input = buffer
        connection.filled = size
        connection.needed = needed
        connection.frame_started_at = now

    def grow(self, connection: Connection) -> bytearray | None:
        """Return a larger buffer for the frame.

        None if the frame is too long, and the connection is closed; or if it must wait for memory
        in use by others, and the connection is paused.
        """
        old = connection.input
        assert old is not None
        if connection.filled >= LENGTH_BYTES and connection.needed == LENGTH_BYTES:
            connection.needed += LENGTH.unpack_from(old)[0]
            size = connection.needed - LENGTH_BYTES
            if not REQUEST_BYTES_MIN <= size <= self._frame_bytes_max:
                connection.close_for(frame_problem(size, self._frame_bytes_max))
                return None
        if self._pool.is_exhausted and not self._pool.may_grow_anyway(old):
            self._pool.when_free(connection.pause())
            return None
        capacity = min(connection.needed, _GROWTH * len(old))
        new = self._pool.take(capacity, connection.needed)
        new[: connection.filled] = memoryview(old)[: connection.filled]
        connection.input = new
        self._pool.give(old)
        return new

    def take(self, connection: Connection) -> bytearray:
        """Return the connection's buffer, which is to be handled in this turn."""
        buffer = self._let_go(connection)
        assert buffer is not None
        self._pool.give_after_turn(buffer)
        return buffer

    def drop(self, connection: Connection) -> None:
        """Forget the connection's incomplete frame, if there is one."""
        buffer = self._let_go(connection)
        if buffer is not None:
            self._pool.give(buffer)

    def _let_go(self, connection: Connection) -> bytearray | None:
        buffer = connection.input
        connection.input = None
        connection.filled = 0
        connection.needed = 0
        return buffer

    def end_turn(self, *, pinned: bool) -> None:
        """Use this turn's buffers again, unless slices of them live on; let waiting frames grow."""
        self._pool.reuse(pinned=pinned)
