"""Send bytes and file slices, in order, without ever waiting: what the socket does not take is
kept.

A connection sends at most TURN_BYTES a turn, so that a fast reader does not starve the others. A
file slice goes out by one `os.sendfile` for each turn: the kernel hands it on in pieces of 64 KiB
anyway, so the client reads while we go on. What lies in memory is copied, and goes in calls of
COPY_BYTES, so that the data stays in the processor's cache.

This is the only place outside storage/files that touches a file's descriptor.
"""

from __future__ import annotations

import os
from collections import deque
from socket import socket
from typing import Any, Final, Protocol

import trio

from logd.storage.file_slice import FileSlice

TURN_BYTES: Final = 1024 * 1024
REST_BYTES: Final = 64 * 1024
"""What would be left for the next turn goes with this one if it is no more than that."""

COPY_BYTES: Final = 256 * 1024


class TruncatedFileError(OSError):
    """A file became shorter than a slice of it that was promised to a client."""


class Outbox:
    """What one connection has yet to send; a slow reader holds nothing else."""

    __slots__ = ("_parts", "_sent", "_sock", "buffered_bytes")

    def __init__(self, sock: socket) -> None:
        self._sock = sock
        self._parts: deque[bytes | memoryview | FileSlice] = deque()
        self._sent = 0  # of the first part
        # Bytes held in memory; file slices cost none.
        self.buffered_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, part: bytes | memoryview | FileSlice) -> None:
        """Queue one part."""
        self._parts.append(part)
        if not isinstance(part, FileSlice):
            self.buffered_bytes += len(part)

    def send_now(self, data: bytes) -> bool:
        """Send bytes at once if nothing is queued before them; what is left is queued.

        Returns:
            False if something is queued now.

        Raises:
            OSError: the connection is broken; close it.
        """
        if not self._parts:
            try:
                count = self._sock.send(data)
            except BlockingIOError:
                count = 0
            if count == len(data):
                return True
            data = data[count:]
        self.add(data)
        return False

    def clear(self) -> None:
        """Let go of everything: the connection is closed."""
        self._parts.clear()
        self.buffered_bytes = 0

    def send(self) -> bool:
        """Send until all is sent, the socket takes no more, or the turn's share is used up.

        Returns:
            False if the socket took no more; wait until it is writable.

        Raises:
            OSError: the connection is broken; close it.
        """
        budget = TURN_BYTES
        parts = self._parts
        while parts and budget > -REST_BYTES:
            part = parts[0]
            if isinstance(part, FileSlice):
                rest = part.size - self._sent
                size = rest if rest <= budget + REST_BYTES else budget
                if size < rest and size <= 0:
                    break
                taken, whole = self._send_slice(part, size)
            else:
                taken, whole = self._send_bytes(part)
            if taken is None:
                return False
            budget -= taken
            if whole:
                parts.popleft()
                self._sent = 0
        return True

    def _send_bytes(self, part: bytes | memoryview) -> tuple[int | None, bool]:
        rest = part
        if self._sent or isinstance(part, memoryview):  # Of what is long, as much as of a file.
            rest = memoryview(part)[self._sent : self._sent + COPY_BYTES]
        try:
            count = self._sock.send(rest)
        except BlockingIOError:
            return None, False
        self._sent += count
        if self._sent < len(part):
            return count, False
        self.buffered_bytes -= len(part)
        return count, True

    def _send_slice(self, part: FileSlice, size: int) -> tuple[int | None, bool]:
        try:
            count = os.sendfile(self._sock.fileno(), part.file.fd, part.position + self._sent, size)
        except BlockingIOError:
            return None, False
        if count == 0:
            raise TruncatedFileError(
                f"{part.file.path} ends at {part.position + self._sent}, "
                f"{part.size - self._sent} bytes more were promised"
            )
        self._sent += count
        return count, self._sent == part.size


class Sendable(Protocol):
    """A range of an open file whose bytes were verified."""

    @property
    def file(self) -> Any:
        """The open file; its `fd` is a descriptor."""
        ...

    @property
    def position(self) -> int:
        """Where the range begins."""
        ...

    @property
    def size(self) -> int:
        """How many bytes."""
        ...


async def send_file(sock: trio.socket.SocketType, part: Sendable, *, stall_s: float) -> None:
    """Send a range of a file from a task of its own, as fast as the other end takes it.

    Raises:
        trio.TooSlowError: nothing was taken for `stall_s`. trio.BrokenResourceError: the other end
        is gone. TruncatedFileError: the file is shorter than the range.
    """
    sent = 0
    with trio.fail_after(stall_s) as patience:
        while sent < part.size:
            size = min(part.size - sent, TURN_BYTES)
            try:
                count = os.sendfile(sock.fileno(), part.file.fd, part.position + sent, size)
            except BlockingIOError:
                patience.deadline = trio.current_time() + stall_s
                await trio.lowlevel.wait_writable(sock)
                continue
            except OSError as error:
                raise trio.BrokenResourceError(f"sendfile: {error}") from error
            if count == 0:
                raise TruncatedFileError(f"{part.file} ends {part.size - sent} bytes too early")
            sent += count
            if sent % TURN_BYTES < count:  # Others have their turn too.
                await trio.lowlevel.checkpoint()
