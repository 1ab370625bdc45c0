"""A chunk on its way to a remote node: the head and its consent, the bytes, the receipt.

The node says "100 Continue" when it has reserved the space, so a refusal costs no bytes. It may
refuse later too, say when the disk fills up; that is looked for before each piece, and when it has
hung up. Giving up means to end the body too early: the node drops what it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import h11
import trio

from ec.chunk_id import ChunkId
from ec.chunk_write import Receipt
from ec.errors import ChunkRefusedError, EcError, StoreUnavailableError
from ec.kernels.operands import Buffer
from ec.store import wire
from ec.store.calls import NodeCalls
from ec.store.http_client import Connection


class RemoteUpload:
    """See `ec.store.protocol.Upload`."""

    def __init__(
        self, calls: NodeCalls, connection: Connection, chunk: ChunkId, file_bytes: int
    ) -> None:
        assert file_bytes > 0
        self._calls = calls
        self._connection: Connection | None = connection
        self._chunk = chunk
        self._file_bytes = file_bytes
        self._sent_bytes = 0
        # Whether the node has answered: then it is done with the upload, however that ended.
        self._answered = False

    @classmethod
    async def begin(cls, calls: NodeCalls, chunk: ChunkId, file_bytes: int) -> RemoteUpload:
        """Return an upload that the node has reserved space for.

        Raises:
            As `ec.store.protocol.Store.begin`.
        """
        assert file_bytes > 0
        target = wire.chunk_path(chunk)
        headers = [
            *calls.headers,
            ("content-type", wire.CHUNK_TYPE),
            ("content-length", str(file_bytes)),
            ("expect", "100-continue"),
        ]
        connection = await calls.pool.request("PUT", target, headers)
        try:
            with calls.patience(calls.timeouts.answer_s, f"PUT {target}"):
                reply = await connection.reply(interim=True)
            if reply.status != 100:
                raise await calls.failure(connection, reply)
        except BaseException:  # Whatever it was, nobody else will give it back.
            connection.close()
            calls.pool.give_back(connection)
            raise
        return cls(calls, connection, chunk, file_bytes)

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Upload`."""
        connection = self._running()
        size = sum(map(len, buffers))
        try:
            if self._sent_bytes + size > self._file_bytes:
                raise ChunkRefusedError(f"{self._chunk}: is longer than {self._file_bytes} bytes")
            await self._send(connection, buffers, size)
        except BaseException:  # Whatever it was, half a chunk is no chunk.
            await self.abort()
            raise
        self._sent_bytes += size

    async def _send(self, connection: Connection, buffers: Sequence[Buffer], size: int) -> None:
        calls = self._calls
        assert self._sent_bytes + size <= self._file_bytes
        if connection.has_news():
            raise await self._early_answer(connection)
        try:
            with calls.patience(calls.timeouts.body_s(size), f"sending {self._chunk}"):
                for buffer in buffers:
                    await connection.send(buffer)
        except StoreUnavailableError as error:
            raise await self._early_answer(connection, error) from error

    async def _early_answer(
        self, connection: Connection, otherwise: StoreUnavailableError | None = None
    ) -> EcError:
        """Return why the node wants no more; it may have said so before it hung up."""
        calls = self._calls
        assert not self._answered
        try:
            with calls.patience(calls.timeouts.abort_s, f"PUT of {self._chunk}"):
                reply = await connection.reply()
            self._answered = True
            return await calls.failure(connection, reply)
        except StoreUnavailableError as error:
            return otherwise or error

    async def finish(self) -> Receipt:
        """See `Upload`."""
        connection = self._running()
        calls = self._calls
        assert self._sent_bytes <= self._file_bytes
        try:
            if self._sent_bytes != self._file_bytes:
                sizes = f"{self._sent_bytes} bytes of {self._file_bytes}"
                raise ChunkRefusedError(f"{self._chunk}: only {sizes} came")
            wait_s = calls.timeouts.durable_s + self._file_bytes / calls.timeouts.bytes_per_s_min
            with calls.patience(wait_s, f"PUT of {self._chunk}"):
                reply = await connection.reply()
            self._answered = True
            await calls.check(connection, reply, 200, 201)
            body = calls.decoded(await calls.body(connection, reply), wire.ReceiptBody)
            if body.name != self._chunk.name or body.file_bytes != self._file_bytes:
                raise StoreUnavailableError(f"{calls.node}: gives another chunk's receipt")
        except BaseException:  # Whatever it was, the upload has ended.
            await self.abort()
            raise
        self._connection = None
        calls.pool.give_back(connection)
        return Receipt(self._chunk, body.file_bytes, body.digest, body.outcome, body.damage)

    async def abort(self) -> None:
        """See `Upload`; waits a moment for the node to say that nothing is left."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if not self._answered:
                seconds = self._calls.timeouts.abort_s
                with trio.CancelScope(shield=True), trio.move_on_after(seconds):
                    await _hang_up(connection)
        finally:
            connection.close()
            self._calls.pool.give_back(connection)

    def _running(self) -> Connection:
        if self._connection is None:
            raise StoreUnavailableError(f"{self._calls.node}: the upload has ended")
        return self._connection


async def _hang_up(connection: Connection) -> None:
    """End the body too early, and wait until the node has seen it."""
    try:
        await connection.close_sending()
        await connection.reply()
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError, h11.RemoteProtocolError):
        return  # It is gone, or answers nonsense: either way it has seen the end.
