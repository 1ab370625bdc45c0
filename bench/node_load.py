"""Ranges of a chunk from a storage node over loopback, and from a bare sendfile loop.

* `serve-node` is a node with one chunk, as `logd node serve` puts it together.
* `serve-ranges` reads a request, never looks at it, and sends a fixed head and a range of the same
  file by sendfile: the least that anyone must do for the same bytes.
* `get-ranges` asks either for one range after the other on one connection, through the whole chunk,
  and throws the bytes away. It checks the head of every answer, and no byte behind it.
* `read-ranges` asks the node as the server of logs does, with every block verified.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import trio

from bench.ceilings import SENDFILE_BYTES, listen
from bench.histogram import latency_fields
from bench.process import cpu_seconds
from ec import geometry
from ec.chunk_dir import ChunkDirectory
from ec.chunk_id import ChunkId
from ec.codec import Codec
from ec.encode import encode
from ec.indexes import Indexes
from ec.kernels.choose import choose
from ec.node.home import NodeHome
from ec.node.service import Gates, NodeService
from ec.node_dir import CHUNKS, initialise
from ec.node_identity import NodeIdentity
from ec.offload import ThreadOffload
from ec.profile import Profile
from ec.segment import Segment, draft
from ec.store.local import LocalStore
from ec.store.remote import RemoteStore
from logd.net.http import HttpServer
from logd.storage.files import Files

PROFILE: Final = Profile(2, 1)
CHUNK_BYTES: Final = 64 * 1024 * 1024
CLUSTER: Final = "bench"
NODE: Final = "n0"
CHUNK: Final = ChunkId("0" * 32, 0, 0, 1, "1" * 32, 0)
ANSWER_HEAD: Final = b"HTTP/1.1 206 Partial Content\r\ncontent-length: %d\r\n\r\n"


class _Noise:
    """A source of random bytes, read at any place."""

    def __init__(self, size: int) -> None:
        self._data = os.urandom(size)

    def read_into(self, position: int, buffer: memoryview) -> int:
        part = self._data[position : position + len(buffer)]
        buffer[: len(part)] = part
        return len(part)


def chunk_path(directory: Path) -> Path:
    """Return where the node's one chunk is."""
    return directory / NODE / CHUNKS / CHUNK.name


async def make_chunk(directory: Path) -> None:
    """Make the nodes' directories and the chunk; harmless if it is there."""
    files, offload, stores = Files(), ThreadOffload(4), []
    size = CHUNK_BYTES * PROFILE.k
    for index in range(PROFILE.chunks):
        path = str(directory / f"n{index}")
        initialise(files, path, NodeIdentity(CLUSTER, f"n{index}", f"{index:032x}"))
        opened = ChunkDirectory.open(files, path)
        stores.append((opened, LocalStore(opened, offload)))
    cuts = geometry.choose_cuts(size, PROFILE.k, [])
    segment = Segment(CLUSTER, "bench", CHUNK.topic_id, 0, 0, 1, -1, -1, Indexes(), cuts,
                      (None,) * PROFILE.k)  # fmt: skip
    manifest = draft(segment, PROFILE, generation=1, encoding=CHUNK.encoding, writer="bench")
    if not chunk_path(directory).exists():
        codec = Codec(PROFILE, choose()[0])
        await encode(
            _Noise(size), manifest, Indexes(), [store for _, store in stores],
            codec=codec, offload=offload,
        )  # fmt: skip
    for opened, _ in stores:
        opened.close()


def serve_node(spec: dict[str, Any]) -> None:
    """Serve the chunk until it is ended."""
    directory = Path(spec["directory"])

    async def run() -> None:
        await make_chunk(directory)
        gate = ThreadOffload(4)
        home = NodeHome(Files(), str(directory / NODE), gate, node=NODE)
        service = NodeService(home, Gates(gate, gate, gate, gate))
        server = HttpServer(service.handle, lambda _, error: sys.exit(repr(error)))
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        sys.stdout.write(json.dumps({"port": listener.socket.getsockname()[1]}) + "\n")
        sys.stdout.flush()
        await server.serve(listener)

    trio.run(run)


def serve_ranges(spec: dict[str, Any]) -> None:
    """Send ranges of the chunk, or of the file at `path`, by sendfile until it is ended, to one
    client at a time.
    """
    size: int = spec["range_bytes"]
    file = os.open(spec.get("path") or chunk_path(Path(spec["directory"])), os.O_RDONLY)
    file_bytes = min(os.fstat(file).st_size, CHUNK_BYTES)
    listener = listen()
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        position, request = 0, bytearray(4096)
        try:
            while connection.recv_into(request):
                connection.sendall(ANSWER_HEAD % size)
                end = position + size
                while position < end:
                    position += os.sendfile(
                        connection.fileno(), file, position, min(SENDFILE_BYTES, end - position)
                    )
                if position + size > file_bytes:
                    position = 0
        except ConnectionError:
            continue  # The client has what it wanted.
        finally:
            connection.close()


def get_ranges(spec: dict[str, Any]) -> dict[str, Any]:
    """Ask for range after range for `seconds`, and throw the bytes away."""
    size: int = spec["range_bytes"]
    connection = socket.create_connection(tuple(spec["address"]))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(1024 * 1024))

    async def once(position: int) -> None:
        last = position + size - 1
        connection.sendall(
            f"GET /v1/chunks/{CHUNK.name} HTTP/1.1\r\nhost: bench\r\n"
            f"range: bytes={position}-{last}\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += bytes(buffer[: connection.recv_into(buffer, 64 * 1024)])
        top, _, rest = head.partition(b"\r\n\r\n")
        assert top.startswith(b"HTTP/1.1 206 "), top
        left = size - len(rest)
        while left:
            left -= connection.recv_into(buffer, min(left, len(buffer)))

    return trio.run(_window, once, spec)


def read_ranges(spec: dict[str, Any]) -> dict[str, Any]:
    """Read range after range for `seconds` through the store."""
    host, port = spec["address"]
    store = RemoteStore(host, port, node=NODE, cluster_id=CLUSTER)

    async def once(position: int) -> None:
        await store.read(CHUNK, position, position + spec["range_bytes"])

    return trio.run(_window, once, spec)


async def _window(once: Callable[[int], Awaitable[None]], spec: dict[str, Any]) -> dict[str, Any]:
    size, places = spec["range_bytes"], CHUNK_BYTES // spec["range_bytes"]
    for place in range(places):
        await once(place * size)  # Verified, and in the cache.
    latencies: list[tuple[float, int]] = []
    used, served = time.process_time(), cpu_seconds(spec["server_pid"])
    begin = now = time.perf_counter()
    while now < begin + spec["seconds"]:
        await once(len(latencies) % places * size)
        before, now = now, time.perf_counter()
        latencies.append((now - before, 1))
    return {
        "requests": len(latencies),
        "seconds": now - begin,
        "bytes": len(latencies) * size,
        **latency_fields(latencies),
        "client_cpu_s": time.process_time() - used,
        "server_cpu_s": cpu_seconds(spec["server_pid"]) - served,
    }
