"""One encoding's part in a salvage: its chunk files put together, and written as segments.

What can be had is written to its place in a file that ends in `.salvaging`. If that is all of the
segment, the file gets its name; if not, each run of whole batches becomes a segment of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ec.chunk_reader import ChunkReader
from ec.codec import Codec
from ec.errors import ChunkDamagedError, ChunkVersionError
from ec.indexes import POSITION_ENTRY
from ec.kernels.operands import Kernel
from ec.manifest import Manifest
from ec.reassemble import ChunkCopy, Reassembly
from logd.cold.chunk_search import ChunkFile
from logd.cold.salvage_report import SalvagedSegment
from logd.policy.cold.salvage import FoundSet, Offsets
from logd.storage.files import Files, OpenFile
from logd.storage.salvaged_log import PartialSegment, Run, add_indexes, find_runs, write_run
from logd.storage.segment_files import segment_paths
from logd.units import MIB

SALVAGING_SUFFIX: Final = ".salvaging"

TELL_BYTES: Final = 16 * MIB
"""How much is written between two words about it."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One encoding, its files, and what the planner is told of it."""

    manifest: Manifest
    files: tuple[ChunkFile, ...]
    found: FoundSet


class SegmentWriter:
    """Writes what encodings give; blocking."""

    def __init__(self, files: Files, kernel: Kernel) -> None:
        self._files = files
        self._kernel = kernel

    def open(self, manifest: Manifest, chunks: Iterable[ChunkFile]) -> Reassembly:
        """Open an encoding's files; one that is gone meanwhile counts as lost."""
        copies: dict[int, list[ChunkCopy]] = {}
        for each in chunks:
            with contextlib.suppress(ChunkDamagedError, ChunkVersionError, OSError):
                reader = ChunkReader.open(self._files, each.path, each.id)
                if reader.head.manifest == manifest:
                    copies.setdefault(each.id.index, []).append(ChunkCopy(reader, set(each.bad)))
        return Reassembly(manifest, copies, Codec(manifest.profile, self._kernel))

    def write(
        self,
        directory: str,
        encoding: Encoding,
        wanted: Sequence[Offsets],
        *,
        on_written: Callable[[int], None],
    ) -> list[SalvagedSegment]:
        """Write what an encoding gives of the wanted offsets.

        Args:
            on_written: is told now and then how many bytes are written.

        Raises:
            OSError: it cannot be written; segments that are there are complete.
        """
        assert wanted
        manifest = encoding.manifest
        path = segment_paths(directory, manifest.base_offset).log + SALVAGING_SUFFIX
        raw = self._files.create(path)
        try:
            parts = self.open(manifest, encoding.files)
            is_computed = self._fill(raw, parts, on_written)
            segment = PartialSegment(
                file=raw,
                ranges=[(each.start, each.end) for each in parts.ranges()],
                boundaries=_boundaries(parts),
                base_offset=manifest.base_offset,
                next_offset=manifest.next_offset,
                wanted=[(each.first, each.next_offset) for each in wanted],
            )
            runs = find_runs(self._files, segment)
            if len(runs) == 1 and (runs[0].start, runs[0].end) == (0, manifest.source_bytes):
                self._keep(directory, raw, path, encoding.found.offsets)
            else:
                for run in runs:
                    self._copy(directory, raw, run, _given(run, manifest, wanted))
        finally:
            with contextlib.suppress(FileNotFoundError):  # It has its own name now.
                self._files.unlink(path)
        return [
            SalvagedSegment(
                _given(run, manifest, wanted),
                run.end - run.start,
                manifest.generation,
                manifest.encoding,
                is_whole=run.end - run.start == manifest.source_bytes,
                is_computed=is_computed,
            )
            for run in runs
        ]

    def _fill(self, raw: OpenFile, parts: Reassembly, on_written: Callable[[int], None]) -> bool:
        """Write all that can be had to its place; return whether a part was computed."""
        is_computed = False
        told = 0
        done = 0
        for piece in parts.pieces():
            self._files.write_at(raw, piece.position, [piece.data])
            done += len(piece.data)
            if done - told >= TELL_BYTES:
                told = done
                on_written(done)
            is_computed = is_computed or piece.is_computed
        return is_computed

    def _keep(self, directory: str, raw: OpenFile, path: str, offsets: Offsets) -> None:
        """Give a segment that is whole its name."""
        self._files.sync(raw)
        final = segment_paths(directory, offsets.first).log
        assert not self._files.exists(final)
        self._files.rename(path, final)
        add_indexes(
            self._files, directory, self._files.open_read(final),
            base_offset=offsets.first, end_bound=offsets.next_offset,
        )  # fmt: skip

    def _copy(self, directory: str, raw: OpenFile, run: Run, offsets: Offsets) -> None:
        write_run(
            self._files, directory, raw, run,
            base_offset=offsets.first, end_bound=offsets.next_offset,
        )  # fmt: skip


def _given(run: Run, manifest: Manifest, wanted: Sequence[Offsets]) -> Offsets:
    """Return the offsets that a run answers for: to the segment's ends, where it reaches them.

    Offsets between two batches of a run were compacted away, and are no gap.
    """
    first = manifest.base_offset if run.start == 0 else run.first_offset
    last = manifest.next_offset if run.end == manifest.source_bytes else run.next_offset
    holder = next(
        each
        for each in wanted
        if each.first <= run.first_offset and run.next_offset <= each.next_offset
    )
    return Offsets(max(first, holder.first), min(last, holder.next_offset))


def _boundaries(parts: Reassembly) -> list[int]:
    """Return positions in the segment at which batches begin, from the manifest and indexes."""
    known = {0} | {first.position for first in parts.manifest.first_batches if first is not None}
    for indexes in parts.indexes():
        known |= {position for _, position in POSITION_ENTRY.iter_unpack(indexes.offsets)}
    return sorted(at for at in known if 0 <= at < parts.manifest.source_bytes)
