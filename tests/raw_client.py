"""A client that sends single requests over a socket: what libraries do not do, or hide."""

from __future__ import annotations

import itertools
import socket
import struct
from types import ModuleType
from typing import Any, Self

from logd.wire.request_header import decode_response_header, request_header
from tests.server_process import ServerProcess, read_frame


class RawClient:
    """One connection. Requests may be sent without waiting for their answers."""

    def __init__(self, server: ServerProcess, client_id: str = "raw") -> None:
        self.sock: socket.socket = server.connect()
        self._client_id = client_id
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, module: ModuleType, request: Any, version: int) -> int:
        """Send a request; return its correlation id."""
        number = next(self._numbers)
        frame = request_header(module.API_KEY, version, number, self._client_id)
        frame += bytes(module.encode_request(request, version))
        self.sock.sendall(struct.pack(">i", len(frame)) + frame)
        return number

    def receive(self, module: ModuleType, version: int) -> Any:
        """Return the next answer, which is of this request."""
        frame = read_frame(self.sock)
        assert frame, "the server closed the connection"
        _, at = decode_response_header(frame, 0, len(frame), module.API_KEY, version)
        return module.decode_response(frame, version, at, len(frame))

    def ask(self, module: ModuleType, request: Any, version: int) -> Any:
        """Send a request and return its answer."""
        self.send(module, request, version)
        return self.receive(module, version)
