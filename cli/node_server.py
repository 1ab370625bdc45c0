"""The composition root of `logd node serve`: ec's node on logd's HTTP server.

Start: the port is bound, the directory opened (one that is not mounted may come later; one that is
in use, or another node's, ends the start), then the port listens. Stop (SIGTERM, SIGINT): accept no
more, answer the requests under way, let go of the directory. A second signal ends the process at
once; a chunk that has its name is durable by then.
"""

from __future__ import annotations

import os.path
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import trio

from cli.errors import EXIT_DONE, EXIT_REFUSED
from cli.options import Address
from ec.chunk_write import CHUNK_BYTES_MAX
from ec.errors import EcError, NodeIdentityError, NodeNotMountedError
from ec.node.home import NodeHome
from ec.node.service import Gates, NodeService
from ec.offload import ThreadOffload
from logd.clock import Clock
from logd.events import EventLog
from logd.net.bind import open_listener
from logd.net.http import HttpServer, Limits, Request
from logd.process_limits import raise_descriptor_limit
from logd.storage.files import Files
from logd.storage.layout import META_NAME
from logd.units import KIB, MIB

LIMITS: Final = Limits(
    head_bytes=16 * KIB,
    body_bytes=CHUNK_BYTES_MAX,
    skip_bytes=MIB,
    connections=256,
    idle_s=300.0,
    head_s=10.0,
    stall_s=30.0,
    request_s=900.0,
    bytes_per_s_min=64 * KIB,
)
PUTS_MAX: Final = 16
"""Chunks on their way at once: 1 MiB of memory each, and a thread for those that are synced."""

DRAIN_S: Final = 30.0
"""How long a stop waits for requests under way."""

# Threads by kind of work; see ec.node.service.Gates.
QUICK_THREADS: Final = 2
READ_THREADS: Final = 4
WRITE_THREADS: Final = 4
SCAN_THREADS: Final = 1


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the command line says.

    Attributes:
        name: what the node must be called; None: whatever its identity says.
        reserve_bytes: as `NodeHome`.
    """

    directory: str
    listen: tuple[str, int]
    name: str | None
    rack: str | None
    token: str | None
    reserve_bytes: int | None
    log_format: Literal["text", "json"]


def run(options: NodeOptions, *, on_ready: Callable[[str], None]) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        on_ready: told `node=NAME http=HOST:PORT` when the port answers.
    """
    return trio.run(NodeServer(options).serve, on_ready, strict_exception_groups=True)


class NodeServer:
    """One node."""

    def __init__(self, options: NodeOptions) -> None:
        self._options = options
        self._events = EventLog(sys.stderr, options.log_format, Clock())
        gates = Gates(
            quick=ThreadOffload(QUICK_THREADS),
            read=ThreadOffload(READ_THREADS),
            write=ThreadOffload(WRITE_THREADS),
            scan=ThreadOffload(SCAN_THREADS),
        )
        self._home = NodeHome(
            Files(), options.directory, gates.quick,
            node=options.name, reserve_bytes=options.reserve_bytes,
        )  # fmt: skip
        service = NodeService(
            self._home, gates,
            token=options.token, puts_max=PUTS_MAX, rack=options.rack, note=self._note,
        )  # fmt: skip
        self._http = HttpServer(service.handle, self._failed, limits=LIMITS)

    async def serve(self, on_ready: Callable[[str], None]) -> int:
        """Start, serve until a signal, stop; return the exit code."""
        raise_descriptor_limit()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            try:
                name, listener = await self._start()
            except (EcError, OSError) as error:
                self._events.error("cannot start", reason=str(error))
                return EXIT_REFUSED
            host, port = listener.socket.getsockname()[:2]
            say_ready = partial(on_ready, f"node={name} http={Address(host, port)}")
            async with trio.open_nursery() as connections:
                await self._accept(listener, connections, signals, say_ready)
                connections.start_soon(_end_at_next_signal, signals)
                code = await self._stop()
                connections.cancel_scope.cancel()
            return code

    async def _start(self) -> tuple[str, trio.SocketListener]:
        """Return the node's name and its listening port."""
        bound = open_listener(*self._options.listen)
        try:
            name = await self._open()
            bound.listen()
        except BaseException:  # Whatever it was, the port is free again.
            bound.close()
            raise
        return name, trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    async def _open(self) -> str:
        """Return the node's name; "-" where it has none yet."""
        check_no_server_s(Files(), self._options.directory)
        try:
            return (await self._home.directory()).identity.node
        except NodeNotMountedError as error:
            reason = vacancy(Files(), self._options.directory) or str(error)
            self._events.warning(
                "no node is here: all but a registration is refused", reason=reason
            )
            return self._options.name or "-"

    async def _accept(
        self,
        listener: trio.SocketListener,
        connections: trio.Nursery,
        signals: AsyncIterator[int],
        on_ready: Callable[[], None],
    ) -> None:
        """Serve until a signal comes."""
        async with trio.open_nursery() as accepting:
            accepting.start_soon(partial(self._http.serve, listener, handlers=connections))
            on_ready()
            name = signal.Signals(await anext(signals)).name
            self._events.info("stopping", signal=name)
            accepting.cancel_scope.cancel()

    async def _stop(self) -> int:
        with trio.move_on_after(DRAIN_S) as patience:
            await self._http.drain()
        if patience.cancelled_caught:
            self._events.error("stopped", unanswered=self._http.connections)
            return EXIT_REFUSED
        self._home.close()
        self._events.info("stopped")
        return EXIT_DONE

    def _note(self, event: str, values: Mapping[str, str]) -> None:
        if event == "token refused":
            self._events.mistake(event, **values)
        else:
            self._events.warning(event, **values)

    def _failed(self, request: Request, error: Exception) -> None:
        self._events.error(
            "request failed", method=request.method, path=request.path, reason=repr(error)
        )


def check_no_server_s(files: Files, directory: str) -> None:
    """Check that a directory is not where a server has its data: that never becomes a node.

    Raises:
        NodeIdentityError: it is.
    """
    if files.exists(os.path.join(directory, META_NAME)):
        raise NodeIdentityError(
            f"{directory} is the data directory of a server; give the node an empty or absent "
            "directory of its own"
        )


def vacancy(files: Files, directory: str) -> str | None:
    """Return what an empty or absent directory may mean, and what to do; None: it is neither."""
    try:
        if files.list_directory(directory):
            return None
    except FileNotFoundError:
        pass  # As good as empty: who registers the node makes it.
    except OSError:
        return None  # Whoever opens it says why.
    if not files.exists(os.path.dirname(os.path.abspath(directory))):
        return f"{directory}: the directory above it does not exist; make it, or mount its disk"
    return (
        f"{directory} is empty or absent: a new one becomes a node by `logd node add NAME "
        "http://HOST:PORT`; that of a node is one whose disk is not mounted"
    )


async def _end_at_next_signal(signals: AsyncIterator[int]) -> None:
    number = await anext(signals)
    # What has a receipt is durable; nothing else matters now. The signal ends the process.
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
