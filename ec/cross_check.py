"""Does every chunk of an encoding follow from the others? All of it is read, and every chunk is
left out once.

Checksums show that chunks are what was written; this shows that what was written is one code word.
In every window each chunk that can be read is computed from k others and compared. One block of the
segment is computed with reedsolo's arithmetic too (`ec.reference`), as a check on the kernel.

A chunk that cannot be read is reported and left aside; the others are compared all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from ec import reference
from ec.codec import Codec
from ec.errors import ChunkDamagedError, EcError
from ec.geometry import BLOCK_BYTES
from ec.manifest import Manifest
from ec.offload import Offload
from ec.store.protocol import Store

# Of every chunk at once.
WINDOW_BYTES: Final = 1024 * 1024
assert WINDOW_BYTES % BLOCK_BYTES == 0

_Windows = Mapping[int, bytes]


@dataclass(frozen=True, slots=True, order=True)
class Mismatch:
    """A chunk that the others say is another one.

    Attributes:
        index: of the chunk that was left out.
        position: of the first byte of its payload that differs.
        arithmetic: "codec" or "reedsolo".
    """

    index: int
    position: int
    arithmetic: str


class CrossCheck:
    """One check of one encoding.

    Args:
        stores: chunk index -> where it is.
        on_trouble: is told of a chunk that cannot be read, each time.
        on_read: is told of payload bytes that were read.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Mapping[int, Store],
        *,
        codec: Codec,
        offload: Offload,
        on_trouble: Callable[[int, EcError], None],
        on_read: Callable[[int], None],
    ) -> None:
        assert codec.profile == manifest.profile
        self._manifest = manifest
        self._shape = manifest.geometry
        self._stores = dict(stores)
        self._codec = codec
        self._offload = offload
        self._on_trouble = on_trouble
        self._on_read = on_read
        self._coefficients = [bytes.fromhex(row) for row in manifest.coefficients]
        self.decoded_bytes = 0

    async def run(self) -> tuple[Mismatch, ...]:
        """Check all windows; return the first mismatch of each chunk with each arithmetic."""
        longest = self._shape.parity_bytes
        blocks = -(-longest // BLOCK_BYTES)
        # One block of the segment, by chance: over many segments each place has its turn.
        drawn = int(self._manifest.encoding[:8], 16) % blocks * BLOCK_BYTES if blocks else -1
        found: dict[tuple[int, str], Mismatch] = {}
        for start in range(0, longest, WINDOW_BYTES):
            end = min(start + WINDOW_BYTES, longest)
            windows = await self._read(start, end)
            if len(windows) <= self._shape.profile.k:
                continue
            mismatches = await self._offload.run(self._compare, windows, start)
            if start <= drawn < end:
                mismatches += await self._offload.run(self._refer, windows, start, drawn)
            self.decoded_bytes += len(windows) * (end - start)
            for each in mismatches:
                found.setdefault((each.index, each.arithmetic), each)
        return tuple(sorted(found.values()))

    async def _read(self, start: int, end: int) -> dict[int, bytes]:
        """Return the window of each chunk that can be read, zeros behind shorter ones."""
        windows: dict[int, bytes] = {}

        async def ask(index: int, store: Store) -> None:
            part = self._shape.beside(index, start, end)
            data: memoryview | bytes = b""
            if part.size:
                try:
                    data = await store.read(self._manifest.chunk_id(index), part.start, part.end)
                except EcError as error:
                    self._on_trouble(index, error)
                    if not isinstance(error, ChunkDamagedError):
                        self._stores.pop(index, None)  # It is not asked again.
                    return
                self._on_read(len(data))
            windows[index] = bytes(data).ljust(end - start, b"\0")

        async with trio.open_nursery() as nursery:
            for index, store in tuple(self._stores.items()):
                nursery.start_soon(ask, index, store)
        return windows

    def _compare(self, windows: _Windows, start: int) -> list[Mismatch]:
        """Compute each chunk's window from the others. In a thread."""
        found = []
        for index, window in windows.items():
            others = {other: data for other, data in windows.items() if other != index}
            target = bytearray(len(window))
            self._codec.rebuild(others, {index: target})
            if target != window:
                found.append(Mismatch(index, start + _first_difference(target, window), "codec"))
        return found

    def _refer(self, windows: _Windows, start: int, drawn: int) -> list[Mismatch]:
        """Compute one block of each chunk with reedsolo's arithmetic. In a thread."""
        at = drawn - start
        parts = {index: window[at : at + BLOCK_BYTES] for index, window in windows.items()}
        found = []
        for index, part in parts.items():
            others = sorted(other for other in parts if other != index)[: self._shape.profile.k]
            computed = reference.compute(
                self._coefficients, {other: parts[other] for other in others}, index
            )
            if computed != part:
                position = drawn + _first_difference(computed, part)
                found.append(Mismatch(index, position, "reedsolo"))
        return found


def _first_difference(one: bytes | bytearray, other: bytes | bytearray) -> int:
    """Return where two windows of one length differ first; they do."""
    assert len(one) == len(other)
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] != other[low:middle]:
            high = middle
        else:
            low = middle
    return low
