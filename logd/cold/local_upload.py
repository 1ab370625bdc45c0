"""A chunk on its way to a directory here, on a disk that may hang.

As the library's `LocalUpload`, with limits: each call has its time, and one that does not end in it
is left to its thread (`work_gate`), which gives the write up when it returns. Until then the
chunk counts as being written, and nothing else is begun on the disk: so neither a second attempt
nor a removal meets what the thread may still do. What it does at worst is to finish the chunk of an
encoding that was given up, which is removed like the other chunks of that encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from ec.chunk_write import ChunkWrite, Receipt
from ec.kernels.operands import Buffer
from ec.store.patience import Patience, Timeouts
from logd.cold.work_gate import WorkGate

T = TypeVar("T")


class HangProofUpload:
    """See the module, and `ec.store.protocol.Upload`."""

    def __init__(self, write: ChunkWrite, gate: WorkGate, *, node: str, timeouts: Timeouts) -> None:
        assert write.written_bytes == 0
        self._write = write
        self._gate = gate
        self._node = node
        self._timeouts = timeouts
        self._is_given_up = False

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """See `Upload`."""
        wait_s = self._timeouts.durable_s + self._taking_s(sum(map(len, buffers)))
        await self._call(lambda: self._write.write(buffers), wait_s)

    async def finish(self) -> Receipt:
        """See `Upload`."""
        wait_s = self._timeouts.durable_s + self._taking_s(self._write.file_bytes)
        return await self._call(self._write.finish, wait_s)

    def _taking_s(self, size: int) -> float:
        return size / self._timeouts.bytes_per_s_min

    async def _call(self, function: Callable[[], T], wait_s: float) -> T:
        self._gate.check()
        try:
            with Patience(wait_s, node=self._node, what=f"writing {self._write.chunk}"):
                return await self._gate.run_or_undo(function, lambda _: self._write.abort())
        except BaseException:  # Whatever it was, the write has ended, or its thread ends it.
            self._is_given_up = True
            raise

    async def abort(self) -> None:
        """See `Upload`; where the disk hangs, its thread does it later."""
        if self._is_given_up:
            return
        self._is_given_up = True
        with trio.move_on_after(self._timeouts.abort_s):
            await self._gate.run_or_undo(
                self._write.abort, lambda _: self._write.abort(), always=True
            )
