"""Read a range of a coded segment from its nodes, whatever k of them are left.

`ec.plan` says which chunks; here they are asked. A chunk that cannot be read, or is damaged, counts
as lost for this call, is reported, and the plan is made again without it, until the range is whole
or fewer than k chunks are left. Then the part that no chunk holds is a gap, and the rest is served.

A node that is slow costs at most one hedge delay: when a direct read takes longer, the range is
computed from the others at the same time, and what comes first counts. A decode whose survivors
are slow asks the remaining chunks after the same time; one of them that fails is replaced at once.

Only chunks of the manifest's own encoding are ever asked for: its uuid is a part of every name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from ec.alarms import Alarm, Alarms
from ec.alignment import recycled_buffer
from ec.codec import Codec
from ec.errors import ChunkRefusedError, EcError
from ec.geometry import ByteRange, ChunkRange
from ec.manifest import Manifest
from ec.offload import Offload
from ec.plan import Decode, Direct, Gap, Step, plan_read
from ec.store.protocol import Store

HEDGE_S: Final = 0.5

# Told of a chunk's index and of what was wrong with it or its node.
OnTrouble = Callable[[int, EcError], None]
# Told of a chunk's index: others were asked because it took too long, and were faster.
OnSlow = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the segment: as they lie in a chunk, or computed."""

    source: ByteRange
    data: memoryview
    is_decoded: bool


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A range of a segment: pieces and gaps, together all of it, each in order."""

    pieces: tuple[Piece, ...]
    gaps: tuple[Gap, ...]

    @property
    def data(self) -> bytes:
        """All pieces one behind the other; of use where there is no gap."""
        assert not self.gaps
        return b"".join(piece.data for piece in self.pieces)


@dataclass(slots=True)
class _Call:
    """One read: which chunks it can still use."""

    usable: set[int]
    preferred: Sequence[int] = ()
    spare: bool = True
    pieces: list[Piece] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)


class SegmentReader:
    """Reads one encoding of one segment; holds no state, so calls may overlap.

    Args:
        stores: chunk index -> where that chunk is; one that is not in it is lost.
        last_resort: the same for nodes that had better not be asked, because their breakers are
            open say: only for what would otherwise be a gap.
        on_trouble: told of every chunk that could not be used, also when the read succeeds.
        on_slow: told of every chunk that was overtaken by others.
        hedge_s: how long a chunk may take before others are asked as well.
        alarms: what tells when that is over, if it runs; else each read has a task for it.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Mapping[int, Store],
        *,
        codec: Codec,
        offload: Offload,
        on_trouble: OnTrouble,
        on_slow: OnSlow | None = None,
        hedge_s: float = HEDGE_S,
        last_resort: Mapping[int, Store] | None = None,
        alarms: Alarms | None = None,
    ) -> None:
        assert codec.profile == manifest.profile
        assert hedge_s > 0
        assert all(0 <= index < codec.profile.chunks for index in stores)
        self.manifest = manifest
        self._shape = manifest.geometry
        self._first = frozenset(stores)
        self._stores = {**(last_resort or {}), **stores}
        self._codec = codec
        self._offload = offload
        self._on_trouble = on_trouble
        self._on_slow = on_slow or _ignore
        self._hedge_s = hedge_s
        self._alarms = alarms

    async def read(
        self, start: int, end: int, *, without: frozenset[int] = frozenset(),
        preferred: Sequence[int] = (), spare: bool = True,
    ) -> ReadResult:  # fmt: skip
        """Return the segment's bytes `start` to `end`.

        Args:
            without: chunks that must not be used, as if they were lost.
            preferred: those to decode from first.
            spare: whether a small range is decoded from whichever k of k + 1 chunks come first.
        """
        assert 0 <= start <= end <= self._shape.source_bytes
        call = _Call(set(self._first - without), preferred, spare)
        await self._read_part(call, ByteRange(start, end))
        others = self._stores.keys() - self._first - without
        if call.gaps and others:
            gaps, call.gaps = call.gaps, []
            call.usable |= others
            for gap in gaps:
                await self._read_part(call, gap.source)
        call.pieces.sort(key=lambda piece: piece.source.start)
        call.gaps.sort(key=lambda gap: gap.source.start)
        found = sum(p.source.size for p in call.pieces) + sum(g.source.size for g in call.gaps)
        assert found == end - start
        return ReadResult(tuple(call.pieces), tuple(call.gaps))

    async def _read_part(self, call: _Call, wanted: ByteRange) -> None:
        """Carry out the plan for a range, its steps side by side."""
        plan = plan_read(
            self._shape, wanted, call.usable, preferred=call.preferred, spare=call.spare
        )
        if len(plan.steps) == 1:
            await self._take_step(call, plan.steps[0])
            return
        async with trio.open_nursery() as nursery:
            for step in plan.steps:
                nursery.start_soon(self._take_step, call, step)

    async def _take_step(self, call: _Call, step: Step) -> None:
        """Carry out one step; one that fails is planned anew without the chunk that failed."""
        if isinstance(step, Gap):
            call.gaps.append(step)
            return
        if isinstance(step, Direct):
            piece = await self._direct(call, step)
        else:
            piece = await self._decode(call, step)
        if piece is None:
            await self._read_part(call, step.source)
        else:
            call.pieces.append(piece)

    # --- From the chunk itself --------------------------------------------------------------

    async def _direct(self, call: _Call, step: Direct) -> Piece | None:
        """Read a living chunk; when that takes long, compute the range from others as well."""
        found: list[Piece] = []

        async def hedge() -> None:
            others = call.usable - {step.part.chunk}
            plan = plan_read(self._shape, step.source, others, preferred=call.preferred)
            for other in plan.steps:
                if isinstance(other, Decode):
                    piece = await self._decode(call, other)
                    if piece is not None:
                        found.append(piece)
                        self._on_slow(step.part.chunk)
                        nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            alarm = self._after_delay(nursery, lambda: nursery.start_soon(hedge))
            try:
                data = await self._ask(call, step.part)
                if data is not None:
                    found.append(Piece(step.source, data, is_decoded=False))
            finally:
                alarm.cancel()
            if nursery.child_tasks:
                nursery.cancel_scope.cancel()
        return found[0] if found else None

    def _after_delay(self, nursery: trio.Nursery, call: Callable[[], None]) -> Alarm:
        """Have something called when the hedge delay is over, unless the alarm is cancelled."""
        if self._alarms is not None and self._alarms.is_running:
            return self._alarms.at(trio.current_time() + self._hedge_s, call)
        alarm = _OwnAlarm(call)
        nursery.start_soon(alarm.wait, self._hedge_s)
        return alarm

    async def _ask(self, call: _Call, part: ChunkRange) -> memoryview | None:
        """Return a range of a chunk; None if it cannot be had, and the chunk is not asked again."""
        if not part.size:
            return memoryview(b"")
        store = self._stores[part.chunk]
        try:
            found = await store.read(self.manifest.chunk_id(part.chunk), part.start, part.end)
            if len(found) != part.size:
                raise ChunkRefusedError(f"{store.node}: gave {len(found)} of {part.size} bytes")
        except EcError as error:
            call.usable.discard(part.chunk)
            self._on_trouble(part.chunk, error)
            return None
        return found

    # --- From others ------------------------------------------------------------------------

    async def _decode(self, call: _Call, step: Decode) -> Piece | None:
        """Compute a range from the first k chunks that answer well; None if fewer than k do."""
        windows = await self._gather(call, step)
        if windows is None:
            return None
        target = recycled_buffer(step.part.size)  # Filled, or not handed out.
        await self._offload.run(self._rebuild, windows, step.part, target)
        return Piece(step.source, target, is_decoded=True)

    async def _gather(self, call: _Call, step: Decode) -> dict[int, memoryview] | None:
        """Return one range of k chunks: of the planned ones, else of whatever others there are."""
        k = self._shape.profile.k
        windows: dict[int, memoryview] = {}
        asked: set[int] = set()
        overtaken: set[int] = set()
        planned = {part.chunk for part in step.survivors}
        rest = sorted(call.usable - planned - {step.part.chunk})
        spares = [self._shape.beside(index, step.part.start, step.part.end) for index in rest]

        def begin(part: ChunkRange) -> None:
            asked.add(part.chunk)
            nursery.start_soon(ask, part)

        async def ask(part: ChunkRange) -> None:
            try:
                found = await self._ask(call, part)
            finally:
                asked.discard(part.chunk)
            if found is not None:
                windows[part.chunk] = found
            elif spares:
                begin(spares.pop(0))
            if len(windows) >= k or not asked:
                alarm.cancel()
                if asked:
                    nursery.cancel_scope.cancel()

        def widen() -> None:
            if asked and spares:  # Whoever is asked keeps the nursery open.
                overtaken.update(asked)
                while spares:
                    begin(spares.pop(0))

        async with trio.open_nursery() as nursery:
            alarm = self._after_delay(nursery, widen)
            for part in step.survivors[1:]:
                begin(part)
            asked.add(step.survivors[0].chunk)
            await ask(step.survivors[0])
        if len(windows) < k:
            return None
        for index in overtaken - windows.keys():
            self._on_slow(index)
        return windows

    def _rebuild(
        self, windows: Mapping[int, memoryview], part: ChunkRange, target: memoryview
    ) -> None:
        padded = {index: _padded(window, part.size) for index, window in windows.items()}
        self._codec.rebuild(padded, {part.chunk: target})


class _OwnAlarm(Alarm):
    """An alarm with a task of its own, where there is no clock for all."""

    __slots__ = ("_scope",)

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(call)
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        """See `Alarm`."""
        super().cancel()
        self._scope.cancel()

    async def wait(self, seconds: float) -> None:
        """Make the call after a while."""
        with self._scope:
            await trio.sleep(seconds)
            if self.call is not None:
                self.call()


def _padded(window: memoryview, size: int) -> memoryview | bytes | None:
    """Return a window with the zeros behind it that are not stored; None for zeros alone."""
    assert len(window) <= size
    if not len(window):
        return None
    return window if len(window) == size else bytes(window).ljust(size, b"\0")


def _ignore(_index: int) -> None:
    """Where nobody asked to be told."""
