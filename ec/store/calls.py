"""One call to a node: a request, the judgement of its answer, the body that it brings."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from ec.errors import EcError, StoreUnavailableError
from ec.store import wire
from ec.store.http_client import Connection, Headers, Pool, Reply
from ec.store.patience import Patience, Timeouts

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class NodeCalls:
    """Calls to one node.

    Attributes:
        node: its name, for errors.
        headers: sent with every request.
    """

    pool: Pool
    timeouts: Timeouts
    node: str
    headers: tuple[tuple[str, str], ...]

    def patience(self, seconds: float, what: str) -> Patience:
        """Do something with the node that must be done in time.

        Raises:
            StoreTimeoutError, StoreUnavailableError.
        """
        return Patience(seconds, node=self.node, what=what)

    def exchange(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        answer_s: float | None = None,
    ) -> AbstractAsyncContextManager[tuple[Connection, Reply]]:
        """Send a request; give its connection and the head of its answer.

        Raises:
            StoreTimeoutError, StoreUnavailableError.
        """
        wait_s = self.timeouts.answer_s if answer_s is None else answer_s
        assert wait_s > 0
        return self.pool.exchange(method, target, [*self.headers, *headers], body, answer_s=wait_s)

    async def ask(
        self,
        method: str,
        target: str,
        kind: type[B],
        body: msgspec.Struct | None = None,
        *,
        answer_s: float | None = None,
    ) -> B:
        """Return what the node answers to a request without a chunk in it.

        Raises:
            EcError: what it answers instead; StoreTimeoutError, StoreUnavailableError.
        """
        assert target.startswith("/")
        data = b"" if body is None else msgspec.json.encode(body)
        headers = [] if method == "GET" else [("content-length", str(len(data)))]
        async with self.exchange(method, target, headers, data, answer_s=answer_s) as (
            connection,
            reply,
        ):
            await self.check(connection, reply, 200)
            return self.decoded(await self.body(connection, reply), kind)

    def decoded(self, data: bytes, kind: type[B]) -> B:
        """Return the value that an answer's body stands for.

        Raises:
            StoreUnavailableError: it stands for none.
        """
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreUnavailableError(f"{self.node}: answers what makes no sense") from error

    async def check(self, connection: Connection, reply: Reply, *expected: int) -> None:
        """Check that an answer is the one that was hoped for.

        Raises:
            EcError: what it says instead.
        """
        assert expected
        if reply.status not in expected:
            raise await self.failure(connection, reply)

    async def failure(self, connection: Connection, reply: Reply) -> EcError:
        """Return the error that an answer stands for."""
        assert reply.length >= 0
        if reply.length > wire.JSON_BYTES_MAX or reply.status < 300:
            reason = f"{self.node}: answers {reply.status} with {reply.length} bytes"
            return StoreUnavailableError(reason)
        body = await self.body(connection, reply)
        return wire.decode_failure(body, status=reply.status, node=self.node)

    async def body(self, connection: Connection, reply: Reply) -> bytes:
        """Return the whole body of an answer, within the limit for its kind.

        Raises:
            StoreTimeoutError, StoreUnavailableError.
        """
        limit = wire.TAIL_BYTES_MAX if reply.status == 200 else wire.JSON_BYTES_MAX
        if reply.length > limit:
            raise StoreUnavailableError(f"{self.node}: answers with {reply.length} bytes")
        with self.patience(self.timeouts.body_s(reply.length), "the answer"):
            return await connection.read_all()
