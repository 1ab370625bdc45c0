"""Reads from coded segments: whole verified batches, from memory, or as soon as nodes gave them.

A reader asks on the loop (`look`) and is answered at once from what was read before, or is woken
when what it wants was. What is read are runs of batches (`logd.cold.runs`), each by one task that
goes on whoever waits for it: a fetch that is tired of waiting finds the run when it comes again.

    ask the nodes ──▶ blocks are verified (ec) ──▶ batches walked, CRCs checked (thread) ──▶ kept

So a byte is looked at twice before it leaves: by its block's checksum in the store that gave it,
and by its batch's CRC-32C, once, when the run is made. The buffer that was verified is the buffer
that is sent; where the chunk is a file here, its verified range is.

Who reads where it stopped the last time reads in sequence: the next runs are read before it asks,
up to `AHEAD_RUNS`, larger ones each time, across the border to the next coded segment; shared by
all readers of the range. Memory is bounded: what is read ahead and what is being read never exceed
cold.read.ahead.bytes (one run of what is asked for always may be read), and what nobody uses goes.

Offsets that cannot be read answer with ColdRangeError; see `logd.cold.read_failures`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import trio

from logd.cold.read_failures import ReadFailures
from logd.cold.runs import FilePart, MemoryPart, Part, Run, Runs, Slice
from logd.errors import ColdRangeError, CorruptFileError, LogdError
from logd.events import EventLog
from logd.metrics import LATENCY_BOUNDS_SECONDS, Registry
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.values import ColdState, Generation
from logd.storage.batch_run import BatchRun, scan_run
from logd.storage.file_slice import FileSlice
from logd.storage.files import Files
from logd.storage.released import ReleasedRange, SourcePiece
from logd.units import MIB

if TYPE_CHECKING:
    from ec.errors import EcError
    from ec.manifest import Manifest
    from logd.cold.chunk_access import ChunkAccess, Fetched, Tier

RUN_BYTES: Final = MIB
"""The first run of a reader; twice and four times as much when it goes on."""

RUN_DOUBLINGS: Final = 2
AHEAD_RUNS: Final = 2
AHEAD_BYTES_MIN: Final = (AHEAD_RUNS + 1) * (RUN_BYTES << RUN_DOUBLINGS)
READERS_MAX: Final = 4096
"""So many places are remembered at which readers stopped."""

SWEEP_S: Final = 5.0


class Waiter(Protocol):
    """Whoever looks again when it is woken; hashable by identity."""

    def wake(self) -> None:
        """Look again."""
        ...


class CoveredTier(Protocol):
    """What else is needed of `logd.cold.tier.ColdTier`."""

    def coverage(self, topic_id: bytes, partition: int) -> Coverage:
        """Return the live generations of a partition."""
        ...


@dataclass(frozen=True, slots=True)
class ColdBatches:
    """Whole batches of a coded segment.

    Attributes:
        next_offset: where the reader goes on; the wanted offset where nothing fits.
        more: where more can be had that fits; None: not in this segment, or it does not fit.
    """

    slices: tuple[Slice, ...]
    size: int
    next_offset: int
    more: ReleasedRange | None = None


@dataclass(slots=True, eq=False)
class _Load:
    """A run that is being read, or is to be.

    Attributes:
        from_offset: offsets from here on are answered by it.
        start, size: what is read of the source.
        is_ahead: nobody waits for it.
        further: how many runs are to follow it.
    """

    partition: tuple[bytes, int]
    generation: Generation
    from_offset: int
    start: int
    size: int
    is_ahead: bool
    level: int
    further: int
    waiters: dict[Waiter, None] = field(default_factory=dict)


class ColdReads:
    """See the module. One per server; everything here is for the event loop.

    Args:
        ahead_bytes: cold.read.ahead.bytes.
        wake: wakes readers, and lets what they answer be sent.

    Attributes:
        on_damage: told of each chunk that a read found damaged or missing: encoding, index, node,
            error. Once a minute.
        failures: what could not be read.
    """

    def __init__(
        self,
        tier: Tier,
        *,
        covered: CoveredTier,
        files: Files,
        events: EventLog,
        metrics: Registry,
        ahead_bytes: int,
        wake: Callable[[Iterable[Waiter]], None],
    ) -> None:
        self._tier = tier
        self._covered = covered
        self._files = files
        self._events = events
        self._registry = metrics
        self._limit_bytes = max(ahead_bytes, AHEAD_BYTES_MIN)
        self._wake = wake
        self._access: ChunkAccess | None = None
        self._nursery: trio.Nursery | None = None
        self._runs = Runs()
        self._loads: dict[str, list[_Load]] = {}
        self._waiting: deque[_Load] = deque()
        self._loading_bytes = 0
        self._readers: OrderedDict[tuple[bytes, int, int], int] = OrderedDict()
        self.failures: Final = ReadFailures()
        self.on_damage: Callable[[str, int, str, EcError], None] | None = None
        self._metrics = _Metrics(metrics)
        metrics.gauge(
            "logd_cold_read_memory_bytes",
            "Memory of what was read of coded segments, and is being read.",
            lambda: self.memory_bytes,
        )

    @property
    def memory_bytes(self) -> int:
        """What is kept, and what is being read."""
        return self._runs.memory_bytes + self._loading_bytes

    async def run(self) -> None:
        """Read for whoever asks, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._admit()
            try:
                while True:
                    await trio.sleep(SWEEP_S)
                    self._runs.drop_idle(trio.current_time())
                    self.failures.drop_unless(self._is_live)
            finally:
                self._nursery = None

    def _is_live(self, generation: Generation) -> bool:
        key = generation.key
        found = self._covered.coverage(key.topic_id, key.partition).find(key.base_offset)
        return found is not None and found.encoding == generation.encoding

    # --- asking -----------------------------------------------------------------------------------

    def look(
        self,
        topic_id: bytes,
        partition: int,
        at: ReleasedRange,
        *,
        max_bytes: int,
        below: int,
        min_one: bool,
        waiter: Waiter | None = None,
    ) -> ColdBatches | None:
        """Return batches that are there; None: they are being read, `waiter` hears of the end.

        Args:
            max_bytes, below, min_one: as `Log.try_read`.
            waiter: woken once, also when the read fails; the next look tells.

        Raises:
            ColdRangeError: the offset cannot be read.
        """
        generation = self._generation(topic_id, partition, at)
        now_s = trio.current_time()
        run = self._runs.find(generation.encoding, at.wanted_offset)
        if run is not None:
            found = self._take(run, at, max_bytes, below, min_one=min_one)
            if found is not None:
                self._note_reader((topic_id, partition), run, at.wanted_offset, found.next_offset)
                return found
            self._runs.drop(run)  # Its pages left the cache: a thread gets them.
        self.failures.check(generation.encoding, at.wanted_offset, now_s)
        self._want((topic_id, partition), generation, at, waiter)
        return None

    async def read(
        self,
        topic_id: bytes,
        partition: int,
        at: ReleasedRange,
        *,
        max_bytes: int,
        below: int,
        min_one: bool = True,
    ) -> ColdBatches:
        """As `look`, but waits.

        Raises:
            ColdRangeError: the offset cannot be read.
        """
        while True:
            bell = _Bell()
            found = self.look(
                topic_id, partition, at,
                max_bytes=max_bytes, below=below, min_one=min_one, waiter=bell,
            )  # fmt: skip
            if found is not None:
                return found
            await bell.rung.wait()

    async def read_source(
        self, topic_id: bytes, partition: int, *, base_offset: int, start: int, end: int
    ) -> bytes:
        """Return bytes of a segment's source as they are, past the runs: for look-ups by time.

        Raises:
            ColdRangeError: they cannot be read.
        """
        generation = self._covered.coverage(topic_id, partition).find(base_offset)
        if generation is None or generation.source_bytes < end:
            raise ColdRangeError(f"no coded copy of the segment at {base_offset} is known")
        access = self._ready()
        manifest = await access.manifest(generation)
        fetched = await self._fetch(generation, manifest, start, end)
        if fetched.missing is not None:
            raise ColdRangeError(f"{generation.key} cannot be read: {fetched.missing.reason}")
        return b"".join(piece.data for piece in fetched.pieces)

    def _generation(self, topic_id: bytes, partition: int, at: ReleasedRange) -> Generation:
        found = self._covered.coverage(topic_id, partition).find(at.wanted_offset)
        if found is None or (found.key.base_offset, found.source_bytes) != (
            at.base_offset, at.size_bytes,
        ):  # fmt: skip
            # Between two steps of a change; whoever asks again finds it done.
            raise ColdRangeError(f"no coded copy of the segment at {at.base_offset} is known")
        return found

    def _take(
        self, run: Run, at: ReleasedRange, max_bytes: int, below: int, *, min_one: bool
    ) -> ColdBatches | None:
        """Cut what fits out of a run and those behind it; None: not without waiting for a disk."""
        slices: list[Slice] = []
        size, offset = 0, at.wanted_offset
        now_s = trio.current_time()
        current: Run | None = run
        position = -1
        while current is not None:
            cut = current.batches.cut(
                offset, max_bytes=max_bytes - size, below=below, min_one=min_one and not slices
            )
            if slices and (cut.start != position or not cut.size):
                break
            if not cut.size and current.is_last and offset >= _end_of(current.batches):
                offset = current.next_offset  # The segment has no batch from there on.
                break
            part = [*current.slices(cut.start, cut.end)]
            if current.is_claimed and not all(map(self._is_at_hand, part)):
                break  # What was read just now goes out in any case, so that its reader gets on.
            self._metrics.served(current)
            self._runs.use(current, now_s)
            slices += part
            size, offset, position = size + cut.size, cut.next_offset, cut.end
            if cut.end != current.batches.end or size >= max_bytes or current.is_last:
                break
            current = self._runs.find(run.generation.encoding, offset)
        if not slices and offset == at.wanted_offset and run.batches.ends:
            fits = run.batches.cut(offset, max_bytes=max_bytes, below=below, min_one=min_one).size
            if fits:
                return None
        more = _more(at, position, offset) if slices and size < max_bytes else None
        return ColdBatches(tuple(slices), size, offset, more)

    def _is_at_hand(self, part: Slice) -> bool:
        if not isinstance(part, FileSlice):
            return True
        return self._files.is_cached(part.file, part.position, part.size)

    # --- who reads in sequence --------------------------------------------------------------------

    def _note_reader(
        self, partition: tuple[bytes, int], run: Run, wanted_offset: int, next_offset: int
    ) -> None:
        """See whether a reader goes on where one stopped; if so, read ahead of it."""
        if next_offset == wanted_offset:
            return
        level = self._readers.pop((*partition, wanted_offset), -1) + 1
        self._readers[*partition, next_offset] = level
        if len(self._readers) > READERS_MAX:
            self._readers.popitem(last=False)
        if level:
            last = self._runs.find(run.generation.encoding, next_offset - 1) or run
            self._read_on(partition, last, level, AHEAD_RUNS)

    def _read_on(self, partition: tuple[bytes, int], run: Run, level: int, count: int) -> None:
        """Have so many runs behind this one read, one behind the other."""
        for done in range(count):
            generation, start, offset = run.generation, run.batches.end, run.next_offset
            if run.is_last:
                following = self._covered.coverage(*partition).find(offset)
                if following is None or following.state is not ColdState.RELEASED:
                    return
                generation, start = following, 0
                if following.key.base_offset != offset:
                    return
            found = self._runs.at(generation.encoding, start)
            if found is None:
                self._begin(
                    _Load(
                        partition, generation, offset, start, _size_of(level, generation, start),
                        is_ahead=True, level=level, further=count - done - 1,
                    )
                )  # fmt: skip
                return
            run = found

    # --- loading ----------------------------------------------------------------------------------

    def _want(
        self,
        partition: tuple[bytes, int],
        generation: Generation,
        at: ReleasedRange,
        waiter: Waiter | None,
    ) -> None:
        """Have the run read that answers for an offset, if it is not being read already."""
        start, from_offset = at.position, at.wanted_offset
        # What is there from that position on ends before the offset.
        while (run := self._runs.at(generation.encoding, start)) is not None:
            start, from_offset = run.batches.end, run.next_offset
        level = self._readers.get((*partition, at.wanted_offset), -1) + 1
        load = self._find_load(generation.encoding, start)
        if load is None:
            size = _size_of(level, generation, start)
            load = _Load(
                partition, generation, min(from_offset, at.wanted_offset), start, size,
                is_ahead=False, level=level, further=AHEAD_RUNS if level else 0,
            )  # fmt: skip
            self._begin(load)
        load.is_ahead = False
        if waiter is not None:
            load.waiters[waiter] = None

    def _find_load(self, encoding: str, position: int) -> _Load | None:
        for load in self._loads.get(encoding, ()):
            if load.start <= position < load.start + load.size:
                return load
        return None

    def _begin(self, load: _Load) -> None:
        """Start a load; what nobody waits for only if there is room for it."""
        encoding = load.generation.encoding
        if load.is_ahead and (
            self._waiting
            or self._find_load(encoding, load.start) is not None
            or not self._make_room(load)
        ):
            return
        self._loads.setdefault(encoding, []).append(load)
        self._waiting.append(load)
        self._admit()

    def _make_room(self, load: _Load) -> bool:
        return self._runs.make_room(
            load.size + self._loading_bytes, self._limit_bytes,
            now_s=trio.current_time(), ahead=load.is_ahead,
        )  # fmt: skip

    def _admit(self) -> None:
        """Start loads in the order in which they were asked for, as far as memory goes.

        One is always let through: what fills the memory may be for readers that never come back.
        """
        while self._waiting and self._nursery is not None:
            load = self._waiting[0]
            if not self._make_room(load):
                if self._loading_bytes:
                    return
                load.size = min(load.size, RUN_BYTES)
            self._waiting.popleft()
            self._loading_bytes += load.size
            self._nursery.start_soon(self._carry_out, load)

    async def _carry_out(self, load: _Load) -> None:
        began_s = trio.current_time()
        run: Run | None = None
        try:
            run = await self._load(load)
        except LogdError as error:
            self._failed(load, error)
        except Exception as error:  # Whatever it is, those who wait must hear of it.
            self._events.error("cold read failed", reason=repr(error))
            self._failed(load, ColdRangeError(f"unexpected: {error!r}"))
        finally:
            self._loading_bytes -= load.size
            self._loads[load.generation.encoding].remove(load)
            if not self._loads[load.generation.encoding]:
                del self._loads[load.generation.encoding]
        now_s = trio.current_time()
        self._metrics.seconds.observe(now_s - began_s)
        if run is not None:
            run.used_s = now_s
            self._runs.put(run)
            self._runs.make_room(self._loading_bytes, self._limit_bytes, now_s=now_s, ahead=True)
            if load.further:
                self._read_on(load.partition, run, load.level, load.further)
        self._admit()
        if load.waiters:
            self._wake(load.waiters)

    def _failed(self, load: _Load, error: LogdError) -> None:
        self._metrics.failed.value += 1
        to_offset = load.generation.next_offset
        if isinstance(error, _UnreadableError):
            to_offset = error.to_offset
        failure = self.failures.add(
            load.generation, load.from_offset, max(to_offset, load.from_offset + 1),
            error=error, now_s=trio.current_time(),
        )  # fmt: skip
        self._events.error(
            "cold read failed",
            segment=str(load.generation.key),
            from_offset=failure.from_offset,
            to_offset=failure.to_offset,
            reason=failure.reason,
        )

    # --- one load ---------------------------------------------------------------------------------

    def _ready(self) -> ChunkAccess:
        """Return what asks the nodes; the coding library comes with the first read."""
        if self._access is None:
            from logd.cold.chunk_access import ChunkAccess

            self._access = ChunkAccess(self._tier, self._events, self._registry)
            self._access.on_damage = self._tell_damage
        return self._access

    def _tell_damage(self, encoding: str, index: int, node: str, error: EcError) -> None:
        if self.on_damage is not None:
            self.on_damage(encoding, index, node, error)

    async def _load(self, load: _Load) -> Run:
        """Read a run.

        Raises:
            LogdError: not even its first batch can be had.
        """
        access, generation = self._ready(), load.generation
        manifest = await access.manifest(generation)
        start = _best_start(manifest, load.start, load.from_offset)
        end = min(start + load.size, manifest.source_bytes)
        fetched = await self._fetch(generation, manifest, start, end)
        while True:
            batches = await self._scan(generation, manifest, start, fetched)
            if not batches.needed_bytes:
                break
            end = start + batches.needed_bytes
            rest = await self._fetch(generation, manifest, _end_of_pieces(fetched, start), end)
            fetched = _joined(fetched, rest)
        from_offset = min([load.from_offset, *batches.bases[:1]])
        parts = tuple(self._parts(access, generation, manifest, fetched))
        run = Run(generation, from_offset, batches, parts, load.is_ahead, trio.current_time())
        self.failures.was_read(generation.encoding, from_offset, run.next_offset)
        return run

    async def _fetch(
        self, generation: Generation, manifest: Manifest, start: int, end: int
    ) -> Fetched:
        fetched = await self._ready().read(generation, manifest, start, end)
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
            _UnreadableError: the first one cannot be had, or is bad.
        """
        missing = fetched.missing
        views = [piece.data for piece in fetched.pieces]
        if not views:
            assert missing is not None
            raise _UnreadableError(missing.reason, _first_offset_from(manifest, missing.end))
        try:
            batches = await self._tier.offload.run(_scan, generation, start, views)
        except CorruptFileError as error:
            raise _UnreadableError(
                str(error), _first_offset_from(manifest, error.position + 1)
            ) from error
        assert isinstance(batches, BatchRun)
        if batches.needed_bytes and missing is not None:
            raise _UnreadableError(missing.reason, _first_offset_from(manifest, missing.end))
        return batches

    def _parts(
        self, access: ChunkAccess, generation: Generation, manifest: Manifest, fetched: Fetched
    ) -> Iterable[Part]:
        """Yield where the bytes are from now on: in files here if they can be, else in memory."""
        for piece in fetched.pieces:
            start, end = piece.source.start, piece.source.end
            found = access.local_range(generation, manifest, piece)
            if found is not None:
                yield FilePart(start, end, found.file, found.position)
            else:
                yield MemoryPart(start, end, piece.data)


class _Bell:
    """Wakes a task."""

    def __init__(self) -> None:
        self.rung = trio.Event()

    def wake(self) -> None:
        self.rung.set()


class _UnreadableError(ColdRangeError):
    """The first batch of a run cannot be had.

    Attributes:
        to_offset: the first offset behind it that may be readable.
    """

    def __init__(self, reason: str, to_offset: int) -> None:
        super().__init__(reason)
        self.to_offset = to_offset


class _Metrics:
    """What reads count."""

    def __init__(self, registry: Registry) -> None:
        reads = "logd_cold_reads_total"
        about = "Reads of ranges of coded segments, by how it went."
        self.healthy = registry.counter(reads, about, result="healthy")
        self.degraded = registry.counter(reads, about, result="degraded")
        self.failed = registry.counter(reads, about, result="failed")
        self.bytes = registry.counter(
            "logd_cold_read_bytes_total", "Bytes that were read of coded segments, verified."
        )
        self.seconds = registry.histogram(
            "logd_cold_read_seconds", "How long reading a run of batches took.",
            LATENCY_BOUNDS_SECONDS,
        )  # fmt: skip
        self.ahead_hits = registry.counter(
            "logd_cold_read_ahead_hits_total", "Runs that were there before they were asked for."
        )
        self.ahead_bytes = registry.counter(
            "logd_cold_read_ahead_bytes_total", "Bytes of such runs that readers came to use."
        )

    def served(self, run: Run) -> None:
        """Count the first use of a run."""
        if run.is_ahead and not run.is_claimed:
            self.ahead_hits.value += 1
            self.ahead_bytes.value += run.batches.end - run.batches.start


def _scan(generation: Generation, start: int, views: Sequence[memoryview]) -> BatchRun:
    """Walk the batches of some bytes that lie in several buffers. In a thread."""
    data = views[0] if len(views) == 1 else b"".join(views)
    piece = SourcePiece(
        data, start, generation.source_bytes,
        base_offset=generation.key.base_offset, end_bound=generation.next_offset,
        name=f"{generation.key} g{generation.number}",
    )  # fmt: skip
    return scan_run(piece)


def _size_of(level: int, generation: Generation, start: int) -> int:
    """Return how much to read from a position on, for a reader that went on so often."""
    size = RUN_BYTES << min(level, RUN_DOUBLINGS)
    return max(1, min(size, generation.source_bytes - start))


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


def _end_of(batches: BatchRun) -> int:
    return batches.next_offsets[-1] if batches.next_offsets else 0


def _end_of_pieces(fetched: Fetched, start: int) -> int:
    return fetched.pieces[-1].source.end if fetched.pieces else start


def _joined(first: Fetched, rest: Fetched) -> Fetched:
    return type(first)((*first.pieces, *rest.pieces), rest.missing)


def _more(at: ReleasedRange, position: int, offset: int) -> ReleasedRange | None:
    """Return where a reader of the segment goes on; None: its end is reached."""
    if not 0 <= position < at.size_bytes or offset >= at.end_bound:
        return None
    return ReleasedRange(at.base_offset, position, at.size_bytes, offset, at.end_bound)
