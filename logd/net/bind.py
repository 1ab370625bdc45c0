"""Listening sockets, bound before anything else is done: a port in use is said at once."""

from __future__ import annotations

import errno
import socket


def open_listener(host: str, port: int) -> socket.socket:
    """Return a non-blocking listening socket; the port can be taken again at once after a crash.

    Raises:
        OSError: the address cannot be used; the text names it.
    """
    try:
        return _bind(host, port)
    except OSError as error:
        hint = ""
        if error.errno == errno.EADDRINUSE:
            hint = "; stop who listens there, or give another address (port 0: a free one)"
        # One argument: two would put the number in front of the text that people read.
        refused = OSError(f"cannot listen on {host}:{port}: {error.strerror}{hint}")
        refused.errno = error.errno
        raise refused from error


def _bind(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
