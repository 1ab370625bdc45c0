"""A storage node behind its HTTP server, in this process on a loopback port, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from ec.file_system import FileSystem
from ec.node.home import NodeHome
from ec.node.service import Gates, NodeService
from ec.offload import Offload, ThreadOffload
from ec.store.patience import Timeouts
from ec.store.remote import RemoteStore
from logd.net.http import HttpServer, Limits, Request

TOKEN = "a-token-of-the-tests"
NODE_LIMITS = Limits(body_bytes=2**40)
QUICK = Timeouts(connect_s=5, answer_s=10, durable_s=10, scan_s=10, abort_s=5)


class NodeRig:
    """A node that serves.

    Attributes:
        notes: what it told its operator.
        failures: exceptions that nobody expected.
    """

    def __init__(
        self,
        files: FileSystem,
        path: str,
        *,
        offload: Offload | None = None,
        token: str | None = TOKEN,
        limits: Limits = NODE_LIMITS,
        puts_max: int = 8,
        node: str | None = None,
    ) -> None:
        self.notes: list[tuple[str, dict[str, str]]] = []
        self.failures: list[Exception] = []
        self.token = token
        self.port = 0
        gate = offload or ThreadOffload(8)
        self.home = NodeHome(files, path, gate, node=node, reserve_bytes=0)
        self.service = NodeService(
            self.home, Gates(gate, gate, gate, gate),
            token=token, puts_max=puts_max, rack="r1", note=self._note,
        )  # fmt: skip
        self.http = HttpServer(self.service.handle, self._failed, limits=limits)

    def _note(self, event: str, values: Mapping[str, str]) -> None:
        self.notes.append((event, dict(values)))

    def _failed(self, _request: Request, error: Exception) -> None:
        self.failures.append(error)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve while in here; an exception that nobody expected fails the test."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.http.serve, listener)
            yield
            nursery.cancel_scope.cancel()
        self.home.close()
        assert self.failures == []

    def client(
        self,
        *,
        node: str = "a",
        cluster: str | None = None,
        node_id: str | None = None,
        timeouts: Timeouts = QUICK,
        token: str | None = TOKEN,
    ) -> RemoteStore:
        """A store that asks this node."""
        return RemoteStore(
            "127.0.0.1", self.port, node=node, node_id=node_id, cluster_id=cluster,
            token=token, timeouts=timeouts,
        )  # fmt: skip
