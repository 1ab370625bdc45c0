"""Connections between two processes of one machine: the system's pacing is taken off them.

Some congestion controls, BBR first of all, pace: a timer of the kernel releases segment after
segment at the rate that the path was found to have. Over loopback there is no path to be kind to,
and each timer is an interrupt; on a virtual machine setting one is a way out to the hypervisor,
too. On one such machine with `net.ipv4.tcp_congestion_control=bbr` a third of the server's CPU in
large fetches was this timer, and the rate less than half (docs/performance.md).

"reno" never paces, is part of every kernel and open to every user. Connections from elsewhere keep
what the operator has chosen.

Source: tcp(7), TCP_CONGESTION; tcp_bbr.c of Linux, on pacing.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final, Protocol

_UNPACED: Final = b"reno"


class ConnectedSocket(Protocol):
    """What is needed of a connection: the module's sockets and Trio's have it."""

    def getsockname(self) -> tuple[str, ...]:
        """Return our end's address."""
        ...

    def setsockopt(self, level: int, optname: int, value: bytes, /) -> None:
        """Set an option."""
        ...


def send_unpaced_if_local(sock: ConnectedSocket, peer_host: str) -> None:
    """Take pacing off a connection whose two ends have one address; leave any other alone.

    Where the kernel refuses the connection stays as it is: it works, only slower.
    """
    with contextlib.suppress(OSError):
        if sock.getsockname()[0] == peer_host:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)
