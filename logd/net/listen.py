"""The listening socket of the Kafka port: accept, count, refuse.

Accepting is a hook of the serving loop. Out of descriptors (EMFILE, ENFILE) accepting rests for a
moment instead of spinning: the kernel keeps the waiting connections, the ones that are served go
on.

Source: accept(2), the errors that mean overload.
"""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Callable
from typing import Final

from logd.broker.timers import Timers
from logd.events import EventLog
from logd.net.connection import Connection
from logd.net.same_machine import send_unpaced_if_local
from logd.net.serve import ServeLoop

BACKLOG: Final = 4096
REST_S: Final = 0.1
ACCEPTS_PER_TURN: Final = 64
_OVERLOAD: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class KafkaListener:
    """Accepts clients for the serving loop, within max.connections and max.connections.per.ip.

    Args:
        limits: those two, as they are in force now.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: ServeLoop,
        *,
        timers: Timers,
        events: EventLog,
        limits: Callable[[], tuple[int, int]],
        on_refused: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._timers = timers
        self._events = events
        self._limits = limits
        self._on_refused = on_refused
        self._by_address: Counter[str] = Counter()
        self._open = False
        loop.on_close = self._closed

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that it listens on."""
        host, port = self._listener.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Listen, and accept from now on."""
        self._listener.listen(BACKLOG)
        self._open = True
        self._loop.hook(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Accept no more; the port is free afterwards."""
        if self._open:
            self._open = False
            self._loop.unhook(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OVERLOAD:
                    self._rest(error)
                    return
                continue  # This one client was gone before it was accepted.
            self._admit(sock, str(peer[0]))

    def _admit(self, sock: socket.socket, host: str) -> None:
        connections_max, per_address_max = self._limits()
        if len(self._loop.connections) >= connections_max:
            self._refuse(sock, host, "max.connections")
        elif self._by_address[host] >= per_address_max:
            self._refuse(sock, host, "max.connections.per.ip")
        else:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            send_unpaced_if_local(sock, host)
            self._by_address[host] += 1
            self._loop.add(sock, host)

    def _refuse(self, sock: socket.socket, host: str, limit: str) -> None:
        sock.close()
        self._on_refused()
        self._events.mistake("connection refused", client=host, limit=limit)

    def _closed(self, connection: Connection) -> None:
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]

    def _rest(self, error: OSError) -> None:
        self._events.mistake("accepting rests", reason=str(error))
        self._loop.unhook(self._listener.fileno())
        self._timers.call_later(REST_S, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._loop.hook(self._listener.fileno(), self._accept)
