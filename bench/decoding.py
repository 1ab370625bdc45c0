"""The least that a degraded fetch costs: k ranges read side by side, decoded, sent.

The files are the chunks of a segment; the first one is lost. For each request one range of it is
computed from the same range of the next k, each read by a thread of its own into the same buffers.
Nothing is verified and no batch is looked at; with `verifies` every block that comes is hashed
(XXH3-64, by the thread that reads it) and what was computed is (CRC-32C), as nobody may leave out
who promises that no byte goes out unverified. Nothing is compared: the sums are thrown away.

The ranges come out of this process's own files; or, with `addresses`, from k processes over
loopback, as they do where each node is a server (`bench.node_load`, serve-ranges): k MiB more
through sockets for each MiB that is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from crc32c import crc32c

from bench import protocol
from bench.ceilings import listen
from bench.node_load import ANSWER_HEAD
from ec.checksums import block_checksums
from ec.codec import Codec
from ec.kernels.choose import choose
from ec.profile import Profile

PROFILE: Final = Profile(4, 2)
LOST: Final = 0


# Reads a range at a position into a buffer; returns its length.
Read = Callable[[bytearray, int], int]


def serve_decoded(spec: dict[str, Any]) -> None:
    """Run the server until it is ended."""
    size: int = spec["records_bytes"]
    files = [os.open(path, os.O_RDONLY) for path in spec["paths"][1 : 1 + PROFILE.k]]
    # Of a parity chunk that is longer than the payload of the shortest chunk nothing is read.
    end = min(os.fstat(file).st_size for file in files) - 2 * size
    if "addresses" in spec:
        reads = [_from_process(tuple(address), size) for address in spec["addresses"]]
    else:
        reads = [_from_file(file) for file in files]
    if spec.get("verifies"):
        reads = [_hashing(read) for read in reads]
    codec = Codec(PROFILE, choose()[0])
    listener = listen()
    with ThreadPoolExecutor(PROFILE.k) as threads:
        while True:
            connection, _ = listener.accept()
            with connection:
                _answer_all(connection, reads, codec, threads, spec, end)


def _from_file(file: int) -> Read:
    return lambda buffer, position: os.preadv(file, [buffer], position)


def _hashing(read: Read) -> Read:
    def both(buffer: bytearray, position: int) -> int:
        count = read(buffer, position)
        block_checksums(buffer)
        return count

    return both


def _from_process(address: tuple[str, int], size: int) -> Read:
    """Return what asks a bare server for its next range."""
    connection = socket.create_connection(address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head_bytes = len(ANSWER_HEAD % size)

    def read(buffer: bytearray, position: int) -> int:
        connection.sendall(b"GET %d" % position)
        connection.recv(head_bytes, socket.MSG_WAITALL)
        return connection.recv_into(buffer, size, socket.MSG_WAITALL)

    return read


def _answer_all(
    connection: socket.socket,
    reads: Sequence[Read],
    codec: Codec,
    threads: ThreadPoolExecutor,
    spec: dict[str, Any],
    end: int,
) -> None:
    size: int = spec["records_bytes"]
    head = protocol.fetch_answer_head(spec["topic"], 0, records_bytes=size, end_offset=2**40)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffers = [bytearray(size) for _ in reads]
    target = bytearray(size)
    request = bytearray(4096)
    position = 0
    while connection.recv_into(request):
        calls = [
            threads.submit(read, buffer, position)
            for read, buffer in zip(reads, buffers, strict=True)
        ]
        for call in calls:
            assert call.result() == size
        windows = {index + 1: buffer for index, buffer in enumerate(buffers)}
        codec.rebuild(windows, {LOST: target})
        if spec.get("verifies"):
            crc32c(target)
        connection.sendall(head)
        connection.sendall(target)
        connection.sendall(protocol.FETCH_ANSWER_TAIL)
        position = position + size if position + size < end else 0
