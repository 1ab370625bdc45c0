"""From nodes to a run: the range is fetched, its batches are walked and checked, it is kept.

    blocks are verified by the store that gives them (ec) ──▶ batches walked, CRCs checked (in a
                                                              thread, but for few long ones)

So a byte is looked at twice before it leaves. A first batch that is longer than what was read is
read on. What fewer than k chunks are left for ends the run before; a run that would begin there
fails, and says from which offset on it may go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from logd.cold.read_metrics import ReadMetrics
from logd.cold.runs import FilePart, MemoryPart, Part, Run
from logd.errors import ColdRangeError, CorruptFileError
from logd.events import EventLog
from logd.metrics import Registry
from logd.policy.cold.values import Generation
from logd.storage.batch_run import LENGTH_AT, LENGTH_END, BatchRun, scan_views
from logd.storage.released import SourcePiece
from logd.units import MIB

if TYPE_CHECKING:
    from ec.errors import EcError
    from ec.manifest import Manifest
    from ec.read import Piece
    from logd.cold.chunk_access import ChunkAccess, Fetched, OnDamage, Tier

T = TypeVar("T")

QUICK_BYTES_MAX: Final = 5 * MIB
QUICK_BATCHES_MAX: Final = 96
"""Bytes of at most so many batches are walked on the loop: a thread would cost about as much (64
batches of 64 KiB take 0.5 ms, 0.2 of them for the CRCs), and those who wait for it some turns."""


class UnreadableError(ColdRangeError):
    """The first batch of a run cannot be had.

    Attributes:
        to_offset: the first offset behind it that may be readable.
    """

    def __init__(self, reason: str, to_offset: int) -> None:
        super().__init__(reason)
        self.to_offset = to_offset


@dataclass(frozen=True, slots=True)
class Rest:
    """What a run left of the bytes that were read for it, verified: where the next one begins.

    Attributes:
        start: behind the run's last batch.
        offset: behind the run.
        pieces: the bytes from there on.
    """

    start: int
    offset: int
    pieces: tuple[Piece, ...]

    @property
    def end(self) -> int:
        """Where they end."""
        return self.pieces[-1].source.end if self.pieces else self.start


# Waits until the run in front is there; None: it failed.
RestInFront = Callable[[], Awaitable[Rest | None]]


class RunReader:
    """See the module. One per server.

    Attributes:
        on_damage: told of each chunk that a read found damaged or missing.
    """

    def __init__(
        self, tier: Tier, events: EventLog, registry: Registry, metrics: ReadMetrics
    ) -> None:
        self._tier = tier
        self._events = events
        self._registry = registry
        self._metrics = metrics
        self._access: ChunkAccess | None = None
        self.on_damage: OnDamage | None = None
        self._nursery: trio.Nursery | None = None

    def work_in(self, nursery: trio.Nursery | None) -> None:
        """Have what reading needs in the background done in a nursery; None: no more."""
        self._nursery = nursery
        if nursery is not None and self._access is not None:
            nursery.start_soon(self._access.alarms.run)

    def ready(self) -> ChunkAccess:
        """Return what asks the nodes; the coding library comes with the first read."""
        if self._access is None:
            from logd.cold.chunk_access import ChunkAccess

            self._access = ChunkAccess(self._tier, self._events, self._registry)
            self._access.on_damage = self._tell_damage
            self.work_in(self._nursery)
        return self._access

    def _tell_damage(self, encoding: str, index: int, node: str, error: EcError) -> None:
        if self.on_damage is not None:
            self.on_damage(encoding, index, node, error)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, in a thread of the cold tier."""
        return await self._tier.offload.run(function, *args)

    async def read_source(self, generation: Generation, start: int, end: int) -> bytes:
        """Return bytes of a segment's source as they are.

        Raises:
            ColdRangeError: they cannot be read.
        """
        manifest = await self.ready().manifest(generation)
        fetched = await self._fetch(generation, manifest, start, end)
        if fetched.missing is not None:
            raise ColdRangeError(f"{generation.key}: cannot be read: {fetched.missing.reason}")
        return b"".join(piece.data for piece in fetched.pieces)

    async def read_run(
        self, generation: Generation, start: int, size: int, *, from_offset: int, is_ahead: bool
    ) -> tuple[Run, Rest]:
        """Read whole batches from a position on.

        Args:
            size: about how much; more if the first batch is longer.
            from_offset: what is wanted; a known batch that is nearer to it is begun with.

        Raises:
            LogdError: not even the first batch can be had; UnreadableError says which offsets.
        """
        manifest = await self.ready().manifest(generation)
        start = _best_start(manifest, start, from_offset)
        end = min(start + size, manifest.source_bytes)
        fetched = await self._fetch(generation, manifest, start, end)
        return await self._run_of(
            generation, manifest, start, fetched, from_offset=from_offset, is_ahead=is_ahead
        )

    async def read_behind(
        self, generation: Generation, start: int, size: int, *, front: RestInFront, is_ahead: bool
    ) -> tuple[Run, Rest] | None:
        """Read the run behind one that is being read: its bytes are on their way meanwhile.

        Args:
            start: where the bytes for the run in front are expected to end.

        Returns:
            None: there is no run in front.

        Raises:
            As `read_run`.
        """
        manifest = await self.ready().manifest(generation)
        end = min(start + size, manifest.source_bytes)
        fetched = await self._fetch(generation, manifest, start, end)
        rest = await front()
        if rest is None:
            return None
        if rest.end != start:  # Its first batch was longer, or something was missing.
            return await self.read_run(
                generation, rest.start, size, from_offset=rest.offset, is_ahead=is_ahead
            )
        fetched = type(fetched)((*rest.pieces, *fetched.pieces), fetched.missing)
        return await self._run_of(
            generation, manifest, rest.start, fetched, from_offset=rest.offset, is_ahead=is_ahead
        )

    async def _run_of(
        self,
        generation: Generation,
        manifest: Manifest,
        start: int,
        fetched: Fetched,
        *,
        from_offset: int,
        is_ahead: bool,
    ) -> tuple[Run, Rest]:
        while True:
            batches = await self._scan(generation, manifest, start, fetched)
            if not batches.needed_bytes:
                break
            end = start + batches.needed_bytes
            rest = await self._fetch(generation, manifest, _end_of_pieces(fetched, start), end)
            fetched = _joined(fetched, rest)
        from_offset = min([from_offset, *batches.bases[:1]])
        parts = tuple(_parts(self.ready(), generation, manifest, fetched))
        run = Run(generation, from_offset, batches, parts, is_ahead, trio.current_time())
        return run, Rest(batches.end, run.next_offset, tuple(_behind(fetched, batches.end)))

    async def _fetch(
        self, generation: Generation, manifest: Manifest, start: int, end: int
    ) -> Fetched:
        fetched = await self.ready().read(generation, manifest, start, end)
        metrics = self._metrics
        if fetched.pieces:
            (metrics.degraded if fetched.is_degraded else metrics.healthy).value += 1
        metrics.bytes.value += sum(piece.source.size for piece in fetched.pieces)
        return fetched

    async def _scan(
        self, generation: Generation, manifest: Manifest, start: int, fetched: Fetched
    ) -> BatchRun:
        """Walk the batches of what was read.

        Raises:
            UnreadableError: the first one cannot be had, or is bad.
        """
        missing = fetched.missing
        views = [piece.data for piece in fetched.pieces]
        if not views:
            assert missing is not None
            raise UnreadableError(missing.reason, _first_offset_from(manifest, missing.end))
        try:
            if _is_quick(views):
                batches = _scan(generation, start, views)
            else:
                batches = await self.in_thread(_scan, generation, start, views)
        except CorruptFileError as error:
            raise UnreadableError(
                str(error), _first_offset_from(manifest, error.position + 1)
            ) from error
        if batches.needed_bytes and missing is not None:
            raise UnreadableError(missing.reason, _first_offset_from(manifest, missing.end))
        return batches


def _is_quick(views: Sequence[memoryview]) -> bool:
    """Whether walking some bytes takes less than handing them to a thread: few long batches."""
    if sum(map(len, views)) > QUICK_BYTES_MAX:
        return False
    at, count = 0, 0
    for view in views:
        while at + LENGTH_END <= len(view) and count < QUICK_BATCHES_MAX:
            # Whatever it says, this moves on; the walk itself looks at every field.
            at += LENGTH_END + int.from_bytes(view[at + LENGTH_AT : at + LENGTH_END], "big")
            count += 1
        if at + LENGTH_END <= len(view):
            return False
        at = max(0, at - len(view))  # Off by a few bytes where a head lies in two of them.
    return True


def _behind(fetched: Fetched, position: int) -> Iterable[Piece]:
    """Yield what was read behind a position; copied, for the rest of its buffer may go."""
    for piece in fetched.pieces:
        start, end = max(position, piece.source.start), piece.source.end
        if start < end:
            data = memoryview(bytes(piece.data[start - piece.source.start :]))
            yield replace(piece, source=replace(piece.source, start=start), data=data)


def _parts(
    access: ChunkAccess, generation: Generation, manifest: Manifest, fetched: Fetched
) -> Iterable[Part]:
    """Yield where the bytes are from now on: in files here if they can be, else in memory."""
    for piece in fetched.pieces:
        start, end = piece.source.start, piece.source.end
        found = access.local_range(generation, manifest, piece)
        if found is not None:
            yield FilePart(start, end, found.file, found.position)
        else:
            yield MemoryPart(start, end, piece.data)


def _scan(generation: Generation, start: int, views: Sequence[memoryview]) -> BatchRun:
    """Walk the batches of some bytes that lie in several buffers. Perhaps in a thread."""
    first = SourcePiece(
        views[0], start, generation.source_bytes,
        base_offset=generation.key.base_offset, end_bound=generation.next_offset,
        name=f"{generation.key}, generation {generation.number}",
    )  # fmt: skip
    return scan_views(first, views)


def _best_start(manifest: Manifest, start: int, offset: int) -> int:
    """Return the nearest known batch: what lies before it may be in a chunk that is lost."""
    found = [
        first.position
        for first in manifest.first_batches
        if first is not None and first.offset <= offset
    ]
    return max([start, *found])


def _first_offset_from(manifest: Manifest, position: int) -> int:
    """Return the first offset of which it is known that it lies at or behind a position."""
    found = (
        first.offset
        for first in manifest.first_batches
        if first is not None and first.position >= position
    )
    return next(found, manifest.next_offset)


def _end_of_pieces(fetched: Fetched, start: int) -> int:
    return fetched.pieces[-1].source.end if fetched.pieces else start


def _joined(first: Fetched, rest: Fetched) -> Fetched:
    return type(first)((*first.pieces, *rest.pieces), rest.missing)
