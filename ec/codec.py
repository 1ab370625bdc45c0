"""Data chunks to parity chunks, and any k chunks to any others: windows in memory, no files.

A window is the same range of every chunk of a segment. Chunks are of different lengths and the
shorter ones count as followed by zeros; a window of nothing but such zeros is passed as None, is
neither read nor stored, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ec.errors import NotEnoughChunksError
from ec.kernels.operands import Buffer, Kernel, WritableBuffer
from ec.matrix import Rows, decode_rows, parity_rows
from ec.profile import Profile


class Codec:
    """Codes windows of one profile with one kernel; holds no state, threads may share it."""

    def __init__(self, profile: Profile, kernel: Kernel) -> None:
        self.profile = profile
        self.kernel = kernel
        self._parity = parity_rows(profile.k, profile.m)
        assert len(self._parity) == profile.m

    def encode(self, data: Sequence[Buffer | None], parity: Sequence[WritableBuffer]) -> None:
        """Fill the m parity windows from the k data windows.

        Raises:
            ValueError: counts or lengths do not fit; BufferError: as `Kernel.multiply`.
        """
        if len(data) != self.profile.k or len(parity) != self.profile.m:
            counts = f"{len(data)} data and {len(parity)} parity windows"
            raise ValueError(f"{counts} for {self.profile}")
        self._multiply(self._parity, data, parity)

    def rebuild(
        self, survivors: Mapping[int, Buffer | None], wanted: Mapping[int, WritableBuffer]
    ) -> None:
        """Fill the windows of the chunks `wanted` from those of k others.

        With more than k survivors the lowest k are used: data chunks before parity, so that one
        lost data chunk is the xor of the others and of parity 0.

        Raises:
            NotEnoughChunksError: fewer than k survivors. ValueError, BufferError: as `encode`.
        """
        k = self.profile.k
        assert not survivors.keys() & wanted.keys(), "what is there is not computed"
        if len(survivors) < k:
            raise NotEnoughChunksError(f"{len(survivors)} chunks of {self.profile}, needs {k}")
        if not all(0 <= index < self.profile.chunks for index in (*survivors, *wanted)):
            raise ValueError(f"chunks {sorted({*survivors, *wanted})} of {self.profile}")
        have = tuple(sorted(survivors)[:k])
        rows = decode_rows(self._parity, have, tuple(wanted))
        self._multiply(rows, [survivors[index] for index in have], list(wanted.values()))

    def _multiply(
        self, rows: Rows, sources: Sequence[Buffer | None], targets: Sequence[WritableBuffer]
    ) -> None:
        """Multiply by those columns that have something in them."""
        assert all(len(row) == len(sources) for row in rows)
        if not targets:
            return
        real = [source for source in sources if source is not None]
        if len(real) == len(sources):
            self.kernel.multiply(rows, real, targets)
            return
        if not real:
            for target in targets:
                view = memoryview(target).cast("B")
                view[:] = bytes(len(view))
            return
        columns = [at for at, source in enumerate(sources) if source is not None]
        chosen = tuple(bytes(row[column] for column in columns) for row in rows)
        self.kernel.multiply(chosen, real, targets)
