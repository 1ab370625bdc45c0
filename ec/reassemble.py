"""Put a segment together from whatever blocks of its chunks are left: offline, blocking.

`ec.read` takes a chunk that is damaged for lost. Here nothing may be wasted: of a chunk with a bad
block only that block is lost, several copies of a chunk complete each other, and a block of a lost
data chunk is computed wherever k good blocks lie at its place. Where a chunk has ended, zeros are
known without it. What cannot be had is left out; the rest is given in pieces, each at its place.

Every block that is used was verified, and what is computed is compared with what a copy's block
checksums, or the manifest's digest of them, say. All copies are of one encoding: of one manifest,
byte for byte.

Memory does not depend on the segment's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from ec import checksums
from ec.checksums import BLOCK_CHECKSUM_BYTES
from ec.chunk_reader import ChunkReader
from ec.codec import Codec
from ec.errors import ChunkDamagedError, GenerationMixError
from ec.geometry import BLOCK_BYTES, ByteRange, blocks_of
from ec.indexes import Indexes
from ec.manifest import Manifest

WINDOW_BLOCKS: Final = 8


@dataclass(slots=True)
class ChunkCopy:
    """One file of a chunk, and which blocks of it are known to be bad."""

    reader: ChunkReader
    bad: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the segment, and where they lie in it."""

    position: int
    data: memoryview
    is_computed: bool = False


class Reassembly:
    """One encoding and all that is left of it.

    Args:
        copies: chunk index -> its files; bad blocks that are found later are added.
        on_trouble: is told of what turns out to be bad while it is read.

    Raises:
        GenerationMixError: a copy is of another encoding.
    """

    def __init__(
        self,
        manifest: Manifest,
        copies: Mapping[int, Sequence[ChunkCopy]],
        codec: Codec,
        on_trouble: Callable[[ChunkDamagedError | OSError], None] = lambda _: None,
    ) -> None:
        assert codec.profile == manifest.profile
        for index, several in copies.items():
            for each in several:
                head = each.reader.head
                if head.manifest != manifest or head.id.index != index:
                    raise GenerationMixError(f"{each.reader.path} is not chunk {index} of the set")
        self.manifest = manifest
        self.shape = manifest.geometry
        self._copies = copies
        self._codec = codec
        self._on_trouble = on_trouble
        self._wrong: set[int] = set()

    def indexes(self) -> Iterator[Indexes]:
        """Yield the indexes that the chunks carry; some entries come more than once."""
        for several in self._copies.values():
            for each in several[:1]:
                yield each.reader.head.indexes

    # --- What can be had ----------------------------------------------------------------------

    def ranges(self) -> tuple[ByteRange, ...]:
        """Return which bytes of the segment can be had, in order; neighbours are one."""
        k = self.shape.profile.k
        found: list[ByteRange] = []
        for chunk in range(k):
            length = self.shape.payload_bytes(chunk)
            for block in range(blocks_of(length)):
                if chunk in self._wrong or not self._can_give(chunk, block):
                    continue
                start = self.shape.cuts[chunk] + block * BLOCK_BYTES
                end = self.shape.cuts[chunk] + min((block + 1) * BLOCK_BYTES, length)
                if found and found[-1].end == start:
                    start = found.pop().start
                found.append(ByteRange(start, end))
        return tuple(found)

    def _can_give(self, chunk: int, block: int) -> bool:
        if self._has(chunk, block):
            return True
        return len(self._sources(block)) >= self.shape.profile.k

    def _has(self, chunk: int, block: int) -> bool:
        return any(block not in each.bad for each in self._copies.get(chunk, ()))

    def _sources(self, block: int) -> tuple[int, ...]:
        """Return the chunks whose bytes at a block are known; behind a chunk's end they are 0."""
        assert block >= 0
        return tuple(
            index
            for index in range(self.shape.profile.chunks)
            if block >= blocks_of(self.shape.payload_bytes(index)) or self._has(index, block)
        )

    # --- Getting it ---------------------------------------------------------------------------

    def pieces(self) -> Iterator[Piece]:
        """Yield all that can be had, each byte once, in the order of windows; then `ranges` holds.

        What turns out to be bad meanwhile is left out, and so is what was computed and is not what
        the manifest says: a piece counts only if `ranges` has it afterwards.
        """
        computed: dict[int, dict[int, bytes]] = {}
        blocks = blocks_of(self.shape.parity_bytes)
        for first in range(0, blocks, WINDOW_BLOCKS):
            window = range(first, min(first + WINDOW_BLOCKS, blocks))
            for start, end in self._runs(window):
                yield from self._run(start, end, computed)
        self._check_computed(computed)

    def _runs(self, window: range) -> Iterator[tuple[int, int]]:
        """Yield stretches of a window in which the same chunks can be read."""
        assert len(window) > 0
        for _, group in groupby(window, key=self._sources):
            blocks = list(group)
            yield blocks[0], blocks[-1] + 1

    def _run(self, first: int, end: int, computed: dict[int, dict[int, bytes]]) -> Iterator[Piece]:
        """Yield what can be had of blocks `first` to `end` of all data chunks."""
        k = self.shape.profile.k
        start, stop = first * BLOCK_BYTES, min(end * BLOCK_BYTES, self.shape.parity_bytes)
        windows: dict[int, memoryview | bytes | None] = {}
        lost: list[int] = []
        for index in range(self.shape.profile.chunks):
            if index >= k and (not lost or len(windows) >= k):
                break
            part = self.shape.beside(index, start, stop)
            data = self._read(index, part.start, part.end) if part.size else memoryview(b"")
            if data is None:
                lost += [index] if index < k else []
                continue
            if index < k and part.size:
                yield Piece(self.shape.cuts[index] + part.start, data)
            if not part.size:
                windows[index] = None
            else:
                whole = part.size == stop - start
                windows[index] = data if whole else bytes(data).ljust(stop - start, b"\0")
        if not lost:
            return
        if len(windows) >= k:
            yield from self._decode(windows, lost, start, stop, computed)
        elif end - first > 1:  # A block went bad just now: the others may be had without it.
            for block in range(first, end):
                yield from self._rest(block, lost, computed)

    def _rest(
        self, block: int, lost: Sequence[int], computed: dict[int, dict[int, bytes]]
    ) -> Iterator[Piece]:
        """Yield what can be had of one block of the chunks in `lost`."""
        for piece in self._run(block, block + 1, computed):
            if any(
                self.shape.cuts[chunk] <= piece.position < self.shape.cuts[chunk + 1]
                for chunk in lost
            ):
                yield piece

    def _read(self, index: int, start: int, end: int) -> memoryview | None:
        """Return a range of whole blocks from the first copy that has it, or None."""
        blocks = range(start // BLOCK_BYTES, blocks_of(end))
        for each in self._copies.get(index, ()):
            if not each.bad.isdisjoint(blocks):
                continue
            try:
                return each.reader.read(start, end)
            except ChunkDamagedError as error:
                self._on_trouble(error)
                each.bad |= _bad_blocks(each.reader, blocks)
            except OSError as error:
                self._on_trouble(error)
                each.bad |= set(blocks)
        return self._read_apart(index, start, end, blocks)

    def _read_apart(self, index: int, start: int, end: int, blocks: range) -> memoryview | None:
        """Return the range with each block from whichever copy has it, or None."""
        if len(blocks) < 2 or not all(self._has(index, block) for block in blocks):
            return None
        parts: list[memoryview] = []
        for block in blocks:
            part = self._read(index, block * BLOCK_BYTES, min((block + 1) * BLOCK_BYTES, end))
            if part is None:
                return None
            parts.append(part)
        joined = memoryview(b"".join(parts))
        assert len(joined) == end - start
        return joined

    def _decode(
        self,
        windows: Mapping[int, memoryview | bytes | None],
        lost: Sequence[int],
        start: int,
        stop: int,
        computed: dict[int, dict[int, bytes]],
    ) -> Iterator[Piece]:
        """Yield the window of lost data chunks, computed."""
        targets = {index: memoryview(bytearray(stop - start)) for index in lost}
        self._codec.rebuild(windows, targets)
        for index, target in targets.items():
            part = self.shape.beside(index, start, stop)
            assert part.size > 0
            found = checksums.block_checksums(target[: part.size])
            is_wrong = any(target[part.size :]) or self._differs(index, start, found)
            if is_wrong:
                self._wrong.add(index)
                continue
            of_chunk = computed.setdefault(index, {})
            of_chunk[start // BLOCK_BYTES] = found
            yield Piece(self.shape.cuts[index] + start, target[: part.size], True)

    def _differs(self, index: int, start: int, found: bytes) -> bool:
        """Whether a copy's checksums of a chunk say something else; they were verified."""
        for each in self._copies.get(index, ()):
            at = start // BLOCK_BYTES * BLOCK_CHECKSUM_BYTES
            return each.reader.head.checksums[at : at + len(found)] != found
        return False

    def _check_computed(self, computed: Mapping[int, Mapping[int, bytes]]) -> None:
        """Compare chunks that were computed whole with the manifest."""
        for index, parts in computed.items():
            table = b"".join(parts[first] for first in sorted(parts))
            entry = self.manifest.chunks[index]
            is_whole = len(table) == blocks_of(entry.payload_bytes) * BLOCK_CHECKSUM_BYTES
            if is_whole and checksums.digest(table) != entry.checksums:
                self._wrong.add(index)


def _bad_blocks(reader: ChunkReader, blocks: range) -> set[int]:
    """Return which of some blocks cannot be read or are damaged."""
    assert len(blocks) > 0
    bad = set()
    for block in blocks:
        try:
            reader.verify_blocks(block, block + 1)
        except (ChunkDamagedError, OSError):
            bad.add(block)
    return bad
