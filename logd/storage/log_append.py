"""The event loop's side of appending: give batches their offsets, hand them over, publish the
outcome.

    stage … stage ──take_staged──▶ StagedWrite ──write──▶ finish_write, or abandon

Nothing here does I/O. Offsets are assigned at `stage`, in order; so what is staged behind a write
that fails is forgotten with it, and its offsets are assigned anew. What decides where a segment
ends is `policy.roll`; its bounds are kept as plain numbers, since every batch is compared with
them.
"""

from __future__ import annotations

from collections.abc import Sequence

from logd.policy.roll import NEVER_MS, RollPoint, must_roll, roll_due, roll_point
from logd.record.batch import LENGTH_OVERHEAD_BYTES, PLACE, BatchHeader, Writable
from logd.storage.log_settings import LogSettings
from logd.storage.log_state import LogState
from logd.storage.log_write import SegmentWriter
from logd.storage.producer_state import ProducerStates
from logd.storage.segment import Segment
from logd.storage.staged import StagedPart, StagedWrite, WriteResult
from logd.units import MIB

CHECKPOINT_BYTES: int = 64 * MIB
"""A restart after a crash walks at most about so much of each log."""


class LogAppender:
    """Stages and publishes appends of one log. All methods run on the event loop."""

    __slots__ = (
        "_base_offset",
        "_first_append_ms",
        "_last_offset_max",
        "_limits",
        "_out",
        "_part",
        "_parts",
        "_position",
        "_producers",
        "_roll_at_ms",
        "_rolls",
        "_size_max",
        "_state",
        "_writer",
        "bytes_since_checkpoint",
        "rolled",
        "staged_bytes",
        "synced_total",
        "written_total",
    )

    def __init__(self, state: LogState, writer: SegmentWriter) -> None:
        self._state = state
        self._writer = writer
        self._producers: ProducerStates = state.producers
        self._out: StagedWrite | None = None
        self.staged_bytes = 0
        self.written_total = 0
        self.synced_total = 0
        self.bytes_since_checkpoint = 0
        self.rolled = False
        self._restart()

    def _restart(self) -> None:
        """Stage from the end of what is written, as at the beginning."""
        self._parts: list[StagedPart] = []
        self._part: StagedPart | None = None
        self._rolls = False
        active = self._state.segment_list.active
        assert active.size >= 0
        self._enter(active.base_offset, active.size, active.first_append_ms)

    def _enter(self, base_offset: int, position: int, first_append_ms: int | None) -> None:
        assert 0 <= base_offset <= self._state.end_offset
        assert position >= 0
        self._base_offset = base_offset
        self._position = position
        self._first_append_ms = first_append_ms
        self._limits: LogSettings = self._state.settings
        self._set_bounds(self._roll_point())

    def _roll_point(self) -> RollPoint:
        settings = self._limits
        return roll_point(
            base_offset=self._base_offset,
            first_append_ms=self._first_append_ms,
            segment_offsets=settings.segment_offsets,
            segment_bytes=settings.segment_bytes,
            segment_ms=settings.segment_ms,
        )

    def _set_bounds(self, point: RollPoint) -> None:
        self._last_offset_max = point.last_offset
        self._size_max = point.size_bytes
        self._roll_at_ms = point.at_ms

    # --- staging -------------------------------------------------------------------------------

    @property
    def roll_pending(self) -> bool:
        """Whether something that is staged begins a new segment."""
        return self._rolls

    def stage(self, buffer: Writable, position: int, header: BatchHeader, now_ms: int) -> int:
        """Assign offsets to a checked batch and queue it; see `Log.stage`."""
        state = self._state
        if state.failed is not None:
            raise state.failed
        base_offset = state.end_offset
        size = header.length + LENGTH_OVERHEAD_BYTES
        last_offset = base_offset + header.last_offset_delta
        part = self._part
        if (
            last_offset > self._last_offset_max
            or self._position + size > self._size_max
            or now_ms >= self._roll_at_ms
            or (part is None and state.plan_is_stale)
        ):
            part = self._plan(last_offset, size, now_ms)
        if part is None:
            part = self._start_part(now_ms)
        PLACE.pack_into(buffer, position, base_offset, header.length, state.leader_epoch)
        timestamp_ms = header.max_timestamp
        if timestamp_ms < 0:
            timestamp_ms = header.base_timestamp
        part.buffers.append(memoryview(buffer)[position : position + size])
        part.batches.append((last_offset, part.size, size, timestamp_ms))
        part.size += size
        part.end_offset = state.end_offset = last_offset + 1
        self._position += size
        self.staged_bytes += size
        if header.producer_id >= 0:
            self._producers.stage(header, last_offset=last_offset, timestamp_ms=now_ms)
        return base_offset

    def stage_run(
        self,
        buffer: Writable,
        position: int,
        *,
        size: int,
        stride: int,
        batches: Sequence[tuple[int, int]],
        now_ms: int,
    ) -> list[int]:
        """Stage batches of one size behind what is staged already; see `Log.stage_run`."""
        state = self._state
        if state.failed is not None:
            raise state.failed
        part = self._part
        if part is None or now_ms >= self._roll_at_ms:
            return []
        assert LENGTH_OVERHEAD_BYTES < size <= stride
        fitting = batches[: max(0, (self._size_max - self._position) // size)]
        offset, part_size = state.end_offset, part.size
        last_offset_max, epoch = self._last_offset_max, state.leader_epoch
        length = size - LENGTH_OVERHEAD_BYTES
        pack = PLACE.pack_into
        view = memoryview(buffer)
        base_offsets: list[int] = []
        for records, timestamp_ms in fitting:
            last_offset = offset + records - 1
            if last_offset > last_offset_max:
                break
            pack(buffer, position, offset, length, epoch)
            part.buffers.append(view[position : position + size])
            part.batches.append((last_offset, part_size, size, timestamp_ms))
            base_offsets.append(offset)
            part_size += size
            position += stride
            offset = last_offset + 1
        staged_bytes = part_size - part.size
        part.size = part_size
        part.end_offset = state.end_offset = offset
        self._position += staged_bytes
        self.staged_bytes += staged_bytes
        return base_offsets

    def _plan(self, last_offset: int, size: int, now_ms: int) -> StagedPart | None:
        """Decide, with all that is known now, where the next batch goes; None: into a new part."""
        self._refresh(now_ms)
        rolls = must_roll(
            self._roll_point(),
            is_empty=self._position == 0,
            index_full=self._index_full(),
            last_offset=last_offset,
            end_position=self._position + size,
            now_ms=now_ms,
        )
        if not rolls:
            return self._part
        self._rolls = True
        self._enter(self._state.end_offset, 0, None)
        part = self._start_part(now_ms)
        part.rolls = True
        assert self._position == 0
        return part

    def _refresh(self, now_ms: int) -> None:
        """Catch up with new settings, with a roll that was not staged, with a late-known time."""
        self._state.plan_is_stale = False  # First: what comes while we look is looked at again.
        active = self._state.segment_list.active
        if self._base_offset < active.base_offset and not self._parts and self._out is None:
            self._enter(active.base_offset, active.size, active.first_append_ms)
        first_append_ms = self._first_append_ms
        if first_append_ms is None and self._base_offset == active.base_offset:
            first_append_ms = active.first_append_ms
        if first_append_ms is not None:
            # Of a segment found at start the first batch's own time may lie ahead of the clock.
            first_append_ms = min(first_append_ms, now_ms)
        self._enter(self._base_offset, self._position, first_append_ms)

    def _start_part(self, now_ms: int) -> StagedPart:
        if self._position == 0 and self._first_append_ms is None:
            self._first_append_ms = now_ms
            self._roll_at_ms = min(now_ms + self._limits.segment_ms, NEVER_MS)
        first_append_ms = self._first_append_ms
        part = self._part = StagedPart(
            self._state.end_offset, now_ms if first_append_ms is None else first_append_ms
        )
        self._parts.append(part)
        return part

    def _index_full(self) -> bool:
        """Whether the segment that is staged into should take no more: its index, or its health."""
        state = self._state
        active = state.segment_list.active
        if self._base_offset != active.base_offset:
            return False
        if state.damage_found_in_active:
            return True
        opened = active.files
        if opened is None or opened.index is None or opened.time_index is None:
            return False
        return opened.index.is_full or opened.time_index.is_full

    def take_staged(self) -> StagedWrite | None:
        """Hand over what is staged; see `Log.take_staged`."""
        assert self._out is None, "one write at a time"
        parts = self._parts
        if not parts:
            return None
        active = self._state.segment_list.active
        first = parts[0]
        first.position = 0 if first.rolls else active.size
        if active.size == 0 and first.first_offset == active.base_offset:
            first.rolls = False  # The log was rolled meanwhile, for another reason.
        self._out = StagedWrite(
            parts,
            rolls=self._rolls or active.files is None,
            size=sum(part.size for part in parts),
        )
        self._parts = []
        self._part = None
        self._rolls = False
        return self._out

    # --- publishing ----------------------------------------------------------------------------

    def finish_write(self, staged: StagedWrite, result: WriteResult) -> None:
        """Publish a write that succeeded."""
        assert staged is self._out
        assert staged.written_parts == len(staged.parts)
        self._out = None
        self._publish(staged)
        self.staged_bytes -= result.size_bytes
        assert self._state.written_offset == result.end_offset

    def abandon(self, staged: StagedWrite) -> None:
        """Publish the parts that a failed write completed; forget the rest and all staged since."""
        assert staged is self._out
        self._out = None
        self._publish(staged)
        assert self._state.written_offset <= self._state.end_offset
        self._state.end_offset = self._state.written_offset
        self._producers.rollback()
        self.staged_bytes = 0
        self._writer.reset()
        self._restart()

    def _publish(self, staged: StagedWrite) -> None:
        state = self._state
        for part in staged.parts[: staged.written_parts]:
            self._publish_part(part)
        for segment in staged.created:
            self._publish_roll_of_write(segment)
        if self._producers.has_staged:
            self._producers.publish(state.written_offset)

    def _publish_part(self, part: StagedPart) -> None:
        segment = part.segment
        assert segment is not None
        assert part.position == segment.size
        segment.appended_from = min(segment.appended_from, part.position)
        if segment.first_append_ms is None or segment.first_append_ms > part.first_append_ms:
            segment.first_append_ms = part.first_append_ms
        segment.max_timestamp = part.max_timestamp
        segment.bytes_since_entry = part.bytes_since_entry
        segment.size += part.size
        segment.boundaries.put(part.first_offset, part.position)
        segment.boundaries.put(part.end_offset, segment.size)
        self._state.written_offset = part.end_offset
        self.written_total += part.size
        self.bytes_since_checkpoint += part.size

    def _publish_roll_of_write(self, segment: Segment) -> None:
        self.publish_roll(segment)
        # Rolling synced all that lies before; only what went into the new segment is not synced.
        if segment.base_offset > self._state.synced_offset:
            self._state.synced_offset = segment.base_offset
            self.synced_total = self.written_total - segment.size

    def publish_roll(self, segment: Segment) -> None:
        """Make a new segment the active one.

        Also called from a thread that has the writing side for itself: so it leaves `synced_offset`
        alone, which a sync may be moving on the loop; the next sync moves it up.
        """
        state = self._state
        old = state.segment_list.active
        assert old.base_offset < segment.base_offset <= state.written_offset
        assert segment.files is not None
        with state.list_lock:
            state.segment_list = state.segment_list.rolled_to(segment)
            state.sealed_bytes += old.size
        state.damage_found_in_active = False
        state.plan_is_stale = True
        if old.files is not None:
            state.open_files.put(old, old.files)
            old.files = None
        self.rolled = True

    def roll_due(self, now_ms: int) -> bool:
        """Whether the idle log is to be rolled for its age, or its age is still to be found out."""
        active = self._state.segment_list.active
        if active.size == 0 or self._parts or self._out is not None:
            return False
        if active.files is None:
            return True
        self._refresh(now_ms)
        return roll_due(self._roll_point(), is_empty=False, now_ms=now_ms)
