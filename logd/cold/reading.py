"""Reads from coded segments: whole verified batches, from memory, or as soon as nodes gave them.

A reader asks on the loop (`look`) and is answered at once from what was read before, or is woken
when what it wants was. What is read are runs of batches (`logd.cold.runs`), each by one task that
goes on whoever waits for it: a fetch that is tired of waiting finds the run when it comes again.

    ask the nodes ──▶ blocks are verified (ec) ──▶ batches walked, CRCs checked ──▶ kept

So a byte is looked at twice before it leaves: by its block's checksum in the store that gave it,
and by its batch's CRC-32C, once, when the run is made. The buffer that was verified is the buffer
that is sent; where the chunk is a file here, its verified range is.

Who reads where it stopped the last time reads in sequence, or is there by chance: the more often it
goes on, the more of the next runs are read before it asks, up to `AHEAD_RUNS`, and the larger ones,
across the border to the next coded segment; shared by all readers of the range. Memory is bounded:
what is read ahead and what is being read never exceed cold.read.ahead.bytes (one run of what is
asked for always may be read), and what nobody uses goes.

Offsets that cannot be read answer with ColdRangeError; see `logd.cold.read_failures`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import trio

from logd.cold.loads import Load, Place, Waiter
from logd.cold.read_failures import ReadFailures
from logd.cold.read_metrics import ReadMetrics
from logd.cold.run_reader import RunReader, UnreadableError
from logd.cold.runs import Run, Runs, Slice
from logd.errors import ColdRangeError, CorruptFileError, LogdError
from logd.events import EventLog
from logd.metrics import Registry
from logd.policy.cold.coverage import Coverage
from logd.policy.cold.values import ColdState, Generation
from logd.storage.batch_run import BatchRun
from logd.storage.file_slice import FileSlice
from logd.storage.files import Files
from logd.storage.released import ReleasedRange
from logd.units import MIB

if TYPE_CHECKING:
    from logd.cold.chunk_access import OnDamage, Tier

T = TypeVar("T")

RUN_BYTES: Final = MIB
"""The first runs of a reader; twice as much each time when it goes on. A run costs some 0.7 ms of
CPU here and on its node, however long it is."""

RUN_DOUBLINGS: Final = 2
AHEAD_RUNS: Final = 3
SURE_LEVEL: Final = 2
"""So often a reader must have gone on for a run to be read ahead of it: with fewer, readers at
random places of a log of which all is read are mostly read ahead of, for nothing."""

AHEAD_BYTES_MIN: Final = (AHEAD_RUNS + 1) * RUN_BYTES * 2
READERS_MAX: Final = 4096
"""So many places are remembered at which readers stopped."""

SWEEP_S: Final = 5.0


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
        has_zstd: some of them, or of those beside them, are compressed with zstd.
    """

    slices: tuple[Slice, ...]
    size: int
    next_offset: int
    more: ReleasedRange | None = None
    has_zstd: bool = False


class ColdReads:
    """See the module. One per server; everything here is for the event loop.

    Args:
        ahead_bytes: cold.read.ahead.bytes.
        wake: wakes readers, and lets what they answer be sent.

    Attributes:
        on_bad_index: told of a segment (topic id, partition, base offset) whose index led to where
            no batch is; from then on it must not be believed.
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
        self._metrics = ReadMetrics(metrics)
        self._reader = RunReader(tier, events, metrics, self._metrics)
        self._covered = covered
        self._files = files
        self._events = events
        self._limit_bytes = max(ahead_bytes, AHEAD_BYTES_MIN)
        self._wake = wake
        self._nursery: trio.Nursery | None = None
        self._runs = Runs()
        self._loads: dict[str, list[Load]] = {}
        self._waiting: deque[Load] = deque()
        self._loading_bytes = 0
        self._readers: OrderedDict[tuple[bytes, int, int], int] = OrderedDict()
        self.failures: Final = ReadFailures()
        self.on_bad_index: Callable[[bytes, int, int], None] | None = None
        self._misled: set[str] = set()
        metrics.gauge(
            "logd_cold_read_memory_bytes",
            "Memory of what was read of coded segments, and is being read.",
            lambda: self.memory_bytes,
        )

    @property
    def on_damage(self) -> OnDamage | None:
        """Told of each chunk that a read found damaged or missing, once a minute.

        Encoding, index of the chunk, node, error.
        """
        return self._reader.on_damage

    @on_damage.setter
    def on_damage(self, tell: OnDamage | None) -> None:
        self._reader.on_damage = tell

    @property
    def is_busy(self) -> bool:
        """Whether something is being read."""
        return bool(self._loads)

    @property
    def memory_bytes(self) -> int:
        """What is kept, and what is being read."""
        return self._runs.memory_bytes + self._loading_bytes

    async def run(self) -> None:
        """Read for whoever asks, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._reader.work_in(nursery)
            self._admit()
            try:
                while True:
                    await trio.sleep(SWEEP_S)
                    self._runs.drop_idle(trio.current_time())
                    self.failures.drop_unless(self._is_live)
                    self._misled.clear()
            finally:
                self._nursery = None
                self._reader.work_in(None)

    def distrust(self, encoding: str) -> None:
        """Read anew what is kept of an encoding: a chunk that was good when it was read is bad.

        Files are kept open, also those that were replaced meanwhile: who goes on reading one range
        would get the bad bytes for as long as he does.
        """
        self._runs.drop_all_of(encoding)

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
        # Runs may overlap. All that have the offset are looked at: `_want` takes one that is left
        # for one that ends before the offset.
        while (run := self._runs.find(generation.encoding, at.wanted_offset)) is not None:
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
        return await self._reader.read_source(generation, start, end)

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Return what `function(*args)` returns, in a thread of the cold tier."""
        return await self._reader.in_thread(function, *args)

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
        has_zstd = False
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
            has_zstd = has_zstd or current.batches.has_zstd
            size, offset, position = size + cut.size, cut.next_offset, cut.end
            if cut.end != current.batches.end or size >= max_bytes or current.is_last:
                break
            current = self._runs.find(run.generation.encoding, offset)
        if not slices and offset == at.wanted_offset and run.batches.ends:
            fits = run.batches.cut(offset, max_bytes=max_bytes, below=below, min_one=min_one).size
            if fits:
                return None
        more = _more(at, position, offset) if slices and size < max_bytes else None
        return ColdBatches(tuple(slices), size, offset, more, has_zstd)

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
        if level >= SURE_LEVEL:
            last = self._runs.find(run.generation.encoding, next_offset - 1) or run
            self._read_on(partition, _behind_run(last), level, _ahead_of(level))

    def _read_on(
        self, partition: tuple[bytes, int], place: Place | None, level: int, count: int
    ) -> None:
        """Have so many runs from a place on read, side by side, if they are not there."""
        for done in range(count):
            place = self._at_segment(partition, place)
            if place is None:
                return
            encoding = place.generation.encoding
            run = self._runs.at(encoding, place.start)
            if run is not None:
                place = _behind_run(run)
                continue
            load = self._find_load(encoding, place.start)
            if load is None:
                if place.front is not None and place.front.is_behind:
                    return  # The end of what is under way goes on with it.
                load = Load(
                    partition, place.generation, place.offset, place.start,
                    self._size_of(level, place.generation, place.start),
                    is_ahead=True, level=level, further=count - done - 1, front=place.front,
                )  # fmt: skip
                if not self._begin(load):
                    return
            place = Place(load.generation, load.end, load.from_offset, front=load)

    def _at_segment(self, partition: tuple[bytes, int], place: Place | None) -> Place | None:
        """Return the place, or that where the next coded segment begins; None: there is none."""
        if place is None or place.start < place.generation.source_bytes:
            return place
        offset = place.generation.next_offset
        following = self._covered.coverage(*partition).find(offset)
        if following is None or following.state is not ColdState.RELEASED:
            return None
        return Place(following, 0, offset) if following.key.base_offset == offset else None

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
        # What is there from that position on and ends before the offset need not be read. A run
        # that does not end before it must not be passed: what follows would stand for the offset.
        while (
            run := self._runs.at(generation.encoding, start)
        ) is not None and run.next_offset <= at.wanted_offset:
            start, from_offset = run.batches.end, run.next_offset
        level = self._readers.get((*partition, at.wanted_offset), -1) + 1
        load = self._find_load(generation.encoding, start)
        if load is None:
            size = self._size_of(level, generation, start)
            load = Load(
                partition, generation, min(from_offset, at.wanted_offset), start, size,
                is_ahead=False, level=level, further=_ahead_of(level),
                is_indexed=0 < start == at.position,
            )  # fmt: skip
            self._begin(load)
            if level > SURE_LEVEL:  # Else not beside what somebody waits for, but after it.
                behind = Place(generation, load.end, load.from_offset, front=load)
                self._read_on(partition, behind, level, load.further)
        load.is_ahead = False
        if waiter is not None:
            load.waiters[waiter] = None

    def _size_of(self, level: int, generation: Generation, start: int) -> int:
        """Return how much to read from a position on, for a reader that went on so often.

        What several logs are read of at once shares the memory: a run that goes before its reader
        comes was read in vain.
        """
        size = RUN_BYTES << max(0, min(level - SURE_LEVEL, RUN_DOUBLINGS))
        share = self._limit_bytes // max(1, self._runs.encodings)
        while size > RUN_BYTES and (AHEAD_RUNS + 1) * size > share:
            size //= 2
        return max(1, min(size, generation.source_bytes - start))

    def _find_load(self, encoding: str, position: int) -> Load | None:
        for load in self._loads.get(encoding, ()):
            if load.start <= position < load.start + load.size:
                return load
        return None

    def _begin(self, load: Load) -> bool:
        """Start a load; what nobody waits for only if there is room for it: else return False."""
        encoding = load.generation.encoding
        if load.is_ahead and (
            self._waiting
            or self._find_load(encoding, load.start) is not None
            or not self._make_room(load)
        ):
            return False
        self._loads.setdefault(encoding, []).append(load)
        self._waiting.append(load)
        self._admit()
        return True

    def _make_room(self, load: Load) -> bool:
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
            load.charged_bytes = load.size
            self._loading_bytes += load.charged_bytes
            self._nursery.start_soon(self._carry_out, load)

    async def _carry_out(self, load: Load) -> None:
        began_s = trio.current_time()
        run: Run | None = None
        try:
            run = await self._read(load)
        except LogdError as error:
            await self._failed(load, error)
        except Exception as error:  # Whatever it is, those who wait must hear of it.
            self._events.error("cold read failed", reason=repr(error))
            await self._failed(load, ColdRangeError(f"unexpected: {error!r}"))
        finally:
            self._loading_bytes -= load.charged_bytes
            self._loads[load.generation.encoding].remove(load)
            if not self._loads[load.generation.encoding]:
                del self._loads[load.generation.encoding]
            load.front = None
            load.ended.set()
        now_s = trio.current_time()
        self._metrics.seconds.observe(now_s - began_s)
        if run is not None:
            run.used_s, run.is_ahead = now_s, load.is_ahead  # Somebody may have asked meanwhile.
            self._runs.put(run)
            self._runs.make_room(self._loading_bytes, self._limit_bytes, now_s=now_s, ahead=True)
            if load.further:
                self._read_on(load.partition, _behind_run(run), load.level, load.further)
        self._admit()
        if load.waiters:
            self._wake(load.waiters)

    async def _read(self, load: Load) -> Run | None:
        """Return the run of a load; None: that in front of it failed, so nothing is known of it."""
        generation = load.generation
        if load.front is None or load.front.rest is not None:
            found = await self._reader.read_run(
                generation, load.start, load.size,
                from_offset=load.from_offset, is_ahead=load.is_ahead,
            )  # fmt: skip
        else:
            behind = await self._reader.read_behind(
                generation, load.start, load.size,
                front=load.rest_in_front, is_ahead=load.is_ahead,
            )  # fmt: skip
            if behind is None:
                return None
            found = behind
        run, load.rest = found
        self.failures.was_read(generation.encoding, run.from_offset, run.next_offset)
        for follower in self._loads[generation.encoding]:
            if follower.front is load:
                follower.begin_behind(load.rest)
        return run

    async def _failed(self, load: Load, error: LogdError) -> None:
        if load.front is not None and await load.rest_in_front() is None:
            return  # Where it would have begun is not known, nor that it cannot be read.
        if isinstance(error.__cause__, CorruptFileError) and self._was_misled(load):
            return
        self._metrics.failed.value += 1
        to_offset = load.generation.next_offset
        if isinstance(error, UnreadableError):
            to_offset = error.to_offset
        to_offset = max(to_offset, load.from_offset + 1)
        is_news = self.failures.add(
            load.generation, load.from_offset, to_offset,
            error=error, now_s=trio.current_time(),
        )  # fmt: skip
        if is_news:
            self._events.error(
                "cold read failed",
                segment=str(load.generation.key),
                from_offset=load.from_offset,
                to_offset=to_offset,
                reason=str(error),
            )

    def _was_misled(self, load: Load) -> bool:
        """Have an index distrusted that led to no batch; who waits asks the log again.

        Where that has not helped, the bytes themselves are bad.
        """
        encoding, tell = load.generation.encoding, self.on_bad_index
        if not load.is_indexed or encoding in self._misled or tell is None:
            return False
        self._misled.add(encoding)
        self._events.warning("index leads to no batch", segment=str(load.generation.key))
        tell(*load.partition, load.generation.key.base_offset)
        return True


class _Bell:
    """Wakes a task."""

    def __init__(self) -> None:
        self.rung = trio.Event()

    def wake(self) -> None:
        self.rung.set()


def _behind_run(run: Run) -> Place:
    return Place(run.generation, run.batches.end, run.next_offset)


def _ahead_of(level: int) -> int:
    """Return how many runs are read ahead of a reader that went on so often."""
    return max(0, min(level - SURE_LEVEL + 1, AHEAD_RUNS))


def _end_of(batches: BatchRun) -> int:
    return batches.next_offsets[-1] if batches.next_offsets else 0


def _more(at: ReleasedRange, position: int, offset: int) -> ReleasedRange | None:
    """Return where a reader of the segment goes on; None: its end is reached."""
    if not 0 <= position < at.size_bytes or offset >= at.end_bound:
        return None
    return ReleasedRange(at.base_offset, position, at.size_bytes, offset, at.end_bound)
