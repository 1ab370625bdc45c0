"""The least that a degraded fetch costs: k ranges read side by side, decoded, sent.

The files are the chunks of a segment; the first one is lost. For each request one range of it is
computed from the same range of the next k, each read by a thread of its own into the same buffers.
Nothing is verified and no batch is looked at.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from bench import protocol
from bench.ceilings import listen
from ec.codec import Codec
from ec.kernels.choose import choose
from ec.profile import Profile

PROFILE: Final = Profile(4, 2)
LOST: Final = 0


def serve_decoded(spec: dict[str, Any]) -> None:
    """Run the server until it is ended."""
    files = [os.open(path, os.O_RDONLY) for path in spec["paths"][1 : 1 + PROFILE.k]]
    codec = Codec(PROFILE, choose()[0])
    listener = listen()
    with ThreadPoolExecutor(PROFILE.k) as threads:
        while True:
            connection, _ = listener.accept()
            with connection:
                _answer_all(connection, files, codec, threads, spec)


def _answer_all(
    connection: socket.socket,
    files: Sequence[int],
    codec: Codec,
    threads: ThreadPoolExecutor,
    spec: dict[str, Any],
) -> None:
    size: int = spec["records_bytes"]
    head = protocol.fetch_answer_head(spec["topic"], 0, records_bytes=size, end_offset=2**40)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffers = [bytearray(size) for _ in files]
    target = bytearray(size)
    request = bytearray(4096)
    position = 0
    # Of a parity chunk that is longer than the payload of the shortest chunk nothing is read.
    end = min(os.fstat(file).st_size for file in files) - 2 * size
    while connection.recv_into(request):
        reads = [
            threads.submit(os.preadv, file, [buffer], position)
            for file, buffer in zip(files, buffers, strict=True)
        ]
        for read in reads:
            assert read.result() == size
        windows = {index + 1: buffer for index, buffer in enumerate(buffers)}
        codec.rebuild(windows, {LOST: target})
        connection.sendall(head)
        connection.sendall(target)
        connection.sendall(protocol.FETCH_ANSWER_TAIL)
        position = position + size if position + size < end else 0
