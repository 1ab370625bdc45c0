"""Connections within one machine do not pace; all others keep the system's congestion control."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import cast

import pytest
import trio

from ec.store.http_client import Pool
from ec.store.patience import Timeouts
from logd.broker.timers import Timers
from logd.events import EventLog
from logd.net.bind import open_listener
from logd.net.http import HttpServer, Request, Response
from logd.net.listen import KafkaListener
from logd.net.same_machine import send_unpaced_if_local
from logd.net.serve import ServeLoop

NAME_BYTES = 16
UNPACED = "reno"


def congestion_control(sock: socket.socket | trio.socket.SocketType) -> str:
    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, NAME_BYTES)
    assert isinstance(name, bytes)
    return name.rstrip(b"\0").decode()


def another_than_unpaced() -> str:
    """Return a congestion control of this machine that is not the one of local connections."""
    found = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text("ascii").split()
    for name in found:
        if name != UNPACED:
            return name
    pytest.skip("this kernel has no congestion control but reno")


def listener_with_another() -> socket.socket:
    """Return a listener whose connections begin with another congestion control."""
    listener = open_listener("127.0.0.1", 0)
    name = another_than_unpaced().encode()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
    return listener


class AcceptingLoop:
    """What a listener needs of the loop; keeps the sockets that it is handed."""

    def __init__(self) -> None:
        self.connections: dict[int, object] = {}
        self.accepted: list[socket.socket] = []
        self.accept: list[object] = []

    def hook(self, fd: int, callback: object) -> None:
        self.accept.append(callback)

    def add(self, sock: socket.socket, address: str) -> None:
        self.accepted.append(sock)


def test_clients_on_this_machine_are_sent_to_without_pacing() -> None:
    """A Kafka connection over loopback leaves the congestion control of the system."""
    listener = listener_with_another()
    loop = AcceptingLoop()
    kafka = KafkaListener(
        listener, cast("ServeLoop", loop), timers=cast("Timers", None),
        events=cast("EventLog", None), limits=lambda: (10, 10), on_refused=lambda: None,
    )  # fmt: skip
    kafka.start()
    with socket.create_connection(kafka.address):
        listener.setblocking(True)  # Until the connection has come.
        listener.settimeout(10)
        sock, peer = listener.accept()
        assert congestion_control(sock) != UNPACED
        kafka._admit(sock, str(peer[0]))
        assert congestion_control(loop.accepted[0]) == UNPACED
        sock.close()
    listener.close()


def test_others_keep_what_the_operator_has_chosen() -> None:
    """A client with another address than ours is none of ours to decide about."""
    with listener_with_another() as listener:
        listener.listen()
        listener.settimeout(10)
        with socket.create_connection(listener.getsockname()):
            sock, _ = listener.accept()
            with sock:
                before = congestion_control(sock)
                send_unpaced_if_local(sock, "192.0.2.7")
                assert congestion_control(sock) == before != UNPACED
                send_unpaced_if_local(sock, "127.0.0.1")
                assert congestion_control(sock) == UNPACED


class RefusingSocket:
    """A kernel that knows no such option, or a connection that is gone."""

    def getsockname(self) -> tuple[str, ...]:
        return ("127.0.0.1", "1")

    def setsockopt(self, level: int, optname: int, value: bytes, /) -> None:
        raise FileNotFoundError


def test_a_kernel_that_refuses_is_no_failure() -> None:
    """The connection is served as it is."""
    send_unpaced_if_local(RefusingSocket(), "127.0.0.1")


async def test_nodes_send_and_are_sent_to_without_pacing() -> None:
    """Both ends of a connection to a storage node on this machine."""
    ends: list[str] = []

    async def handle(request: Request) -> Response:
        return Response(200, b"")

    def failed(_request: Request, error: Exception) -> None:
        raise error

    listener = listener_with_another()
    listener.listen()
    server = HttpServer(handle, failed)
    port: int = listener.getsockname()[1]
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

    async def serve_and_look(stream: trio.SocketStream) -> None:
        before = congestion_control(stream.socket)
        asking = trio.SocketStream(trio.socket.from_stdlib_socket(stream.socket._sock.dup()))
        await server.serve_connection(stream)
        ends.extend((before, congestion_control(asking.socket)))
        await asking.aclose()

    pool = Pool("127.0.0.1", port, node="n", timeouts=Timeouts(), connections_max=1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, serve_and_look, [accepting])
            connection = await pool.request("GET", "/", [("host", "n")])
            await connection.reply()
            assert congestion_control(connection._plain) == UNPACED
            pool.give_back(connection)
            pool.close()
            while not ends:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert ends[0] != UNPACED
    assert ends[1] == UNPACED
