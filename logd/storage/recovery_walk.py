"""The walk of recovery over one segment: take in good batches, judge bad ones.

The judgement is a pure function, `judge`; the rest carries it out. See `recovery` for what R is and
why.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.record.batch import CONTROL_BIT, HEADER_BYTES, TRANSACTIONAL_BIT, BatchHeader, read_header
from logd.storage.damage import DamagedRange, DamageList
from logd.storage.files import Files, OpenFile
from logd.storage.log_settings import LogSettings
from logd.storage.partition_files import EpochStart
from logd.storage.producer_state import ProducerStates
from logd.storage.recovery_report import RecoveryReport
from logd.storage.segment import Segment
from logd.storage.segment_files import IndexBuilder
from logd.storage.segment_scan import (
    ScannedBatch,
    find_next_batch,
    is_old_message,
    scan_in_order,
)
from logd.storage.tail_cut import cut_tail
from logd.units import INT32_MAX

MISSING_BEHIND: Final = "records are missing between this segment and the next"

_OFFSET = struct.Struct(">q")


class RecoveryPoint(NamedTuple):
    """R: everything below was synced. Ordered by segment, then position."""

    segment_base: int
    position: int
    offset: int


class Verdict(enum.Enum):
    """What is done with bytes that are no batch."""

    CUT = "cut"
    DAMAGE = "damage"


def judge(
    *, is_below_recovery_point: bool, same_boot: bool, is_torn: bool, batch_follows: bool
) -> Verdict:
    """Return what is done with the first bytes that are no valid batch.

    Args:
        same_boot: the kernel has lost nothing since the last write.
        is_torn: they look like the beginning of a write, and the file ends there.
        batch_follows: a valid batch lies behind them.
    """
    if is_below_recovery_point:
        return Verdict.DAMAGE
    if not same_boot:
        return Verdict.CUT
    return Verdict.CUT if is_torn and not batch_follows else Verdict.DAMAGE


@dataclass(slots=True)
class WalkContext:
    """What the walks over all segments of a log share and add to.

    Attributes:
        epochs_known: `epochs` was read from its file; else the batches tell it.
        compacted_below: a round of compaction went over all offsets below.
    """

    files: Files
    directory: str
    settings: LogSettings
    damage: DamageList
    producers: ProducerStates
    epochs: list[EpochStart]
    epochs_known: bool
    recovery_point: RecoveryPoint
    same_boot: bool
    report: RecoveryReport
    compacted_below: int = 0

    def may_miss(self, offset: int) -> bool:
        """Return whether no record need be there right before `offset`: compaction took some."""
        return self.settings.is_compacted or offset <= self.compacted_below


class SegmentWalk:
    """The walk over one segment.

    Attributes:
        position, next_offset: how far it has come; after `run`, where the segment ends.
        is_damaged: damage was met on the way, new or known.
    """

    def __init__(
        self,
        context: WalkContext,
        segment: Segment,
        file: OpenFile,
        builder: IndexBuilder,
        *,
        is_last: bool,
        position: int,
        next_offset: int,
    ) -> None:
        assert position >= 0
        assert next_offset >= segment.base_offset
        self._context = context
        self._segment = segment
        self._file = file
        self._builder = builder
        self._is_last = is_last
        self._size = context.files.size(file)
        self.position = position
        self.next_offset = next_offset
        self.is_damaged = False

    def run(self) -> None:
        """Walk to the segment's end, whatever lies on the way.

        Raises:
            UnsupportedFormatError: transactional or control batches, or an old message format.
            DiskFullError: no space to save what must be cut; nothing was cut.
            OSError: the segment cannot be read.
        """
        while self.position < self._size:
            start = self.position
            try:
                for batch in scan_in_order(
                    self._context.files,
                    self._file,
                    start,
                    self._size,
                    next_offset=self.next_offset,
                    end_bound=self._end_bound(),
                ):
                    self._check(batch)
                    self._take(batch)
                self._segment.verified.add(start, self.position)
            except CorruptFileError as error:
                self._segment.verified.add(start, self.position)
                self._meet_bad_bytes(error.reason)
            assert self.position >= start
        self._find_missing_end()

    def _end_bound(self) -> int:
        return min(self._segment.end_bound, self._segment.base_offset + INT32_MAX + 1)

    def _check(self, batch: ScannedBatch) -> None:
        header = batch.header
        reason = None
        if not batch.crc_ok:
            reason = "a batch fails its CRC-32C"
        elif self._contradicts_recovery_point(batch):
            reason = f"its last offset is {header.last_offset}, the sync journal says otherwise"
        elif self._context.epochs_known and header.leader_epoch > self._context.epochs[-1].epoch:
            reason = f"leader epoch {header.leader_epoch} never began"
        if reason is not None:
            raise CorruptFileError(self._file.path, batch.position, reason)
        if header.attributes & (TRANSACTIONAL_BIT | CONTROL_BIT):
            kind = "control" if header.attributes & CONTROL_BIT else "transactional"
            raise UnsupportedFormatError(
                self._file.path,
                f"holds a {kind} batch at offset {header.base_offset}; "
                "this version has no transactions",
            )

    def _contradicts_recovery_point(self, batch: ScannedBatch) -> bool:
        point = self._context.recovery_point
        return (
            self._is_last
            and point.segment_base == self._segment.base_offset
            and point.position == batch.position + batch.header.size
            and point.offset != batch.header.next_offset
        )

    def _take(self, batch: ScannedBatch) -> None:
        context = self._context
        header: BatchHeader = batch.header
        if header.producer_id >= 0:
            context.producers.replay(header)
        if not context.epochs or header.leader_epoch > context.epochs[-1].epoch:
            context.epochs.append(EpochStart(max(header.leader_epoch, 0), header.base_offset))
        self._builder.add(header, batch.position)
        context.report.walked_bytes += header.size
        assert header.base_offset >= self.next_offset
        self.next_offset = header.next_offset
        self.position = batch.position + header.size

    # --- bad bytes -----------------------------------------------------------------------------

    def _meet_bad_bytes(self, reason: str) -> None:
        if self._step_over_known_damage():
            return
        if is_old_message(self._context.files, self._file, self.position, self._size):
            raise UnsupportedFormatError(
                self._file.path,
                f"holds a message of format 0 or 1 at position {self.position}; "
                "only record batches (format 2) are read",
            )
        below = (self._segment.base_offset, self.position) < self._context.recovery_point[:2]
        following = None
        if below or self._context.same_boot:
            following = self._find_following()
        verdict = judge(
            is_below_recovery_point=below,
            same_boot=self._context.same_boot,
            is_torn=self._is_torn(),
            batch_follows=following is not None,
        )
        if verdict is Verdict.CUT:
            self._cut(reason)
        else:
            self._quarantine(following, reason)

    def _step_over_known_damage(self) -> bool:
        for entry in self._context.damage.in_segment(self._segment.base_offset):
            if entry.position <= self.position < entry.end_position:
                self.position = min(entry.end_position, self._size)
                self.next_offset = max(self.next_offset, entry.next_offset)
                self.is_damaged = True
                return True
        return False

    def _find_following(self) -> ScannedBatch | None:
        high_offset = self._segment.base_offset + INT32_MAX
        if not self._is_last:
            high_offset = min(high_offset, self._segment.end_bound - 1)
        return find_next_batch(
            self._context.files,
            self._file,
            self.position + 1,
            self._size,
            low_offset=self.next_offset,
            high_offset=max(high_offset, self.next_offset),
        )

    def _is_torn(self) -> bool:
        """Whether the rest of the file is the beginning of one write of ours, and no more."""
        rest = self._context.files.read_at(self._file, self.position, HEADER_BYTES)
        expected = _OFFSET.pack(self.next_offset)
        if rest[: len(expected)] != expected[: len(rest)]:
            return False
        if len(rest) < HEADER_BYTES:
            return True
        return self.position + read_header(rest).size > self._size

    def _cut(self, reason: str) -> None:
        context = self._context
        cut = cut_tail(
            context.files,
            context.directory,
            self._file,
            base_offset=self._segment.base_offset,
            position=self.position,
            size=self._size,
            reason=reason,
        )
        context.report.cuts.append(cut)
        self._size = self.position

    def _quarantine(self, following: ScannedBatch | None, reason: str) -> None:
        assert following is None or following.position > self.position
        end_offset = self._end_of_damage() if following is None else following.header.base_offset
        end_position = self._size if following is None else following.position
        self._add_damage(end_offset, end_position, reason)
        self.position = end_position
        self.next_offset = end_offset

    def _add_damage(self, end_offset: int, end_position: int, reason: str) -> None:
        entry = DamagedRange(
            first_offset=self.next_offset,
            next_offset=end_offset,
            base_offset=self._segment.base_offset,
            file=self._file.path.rpartition("/")[2],
            position=self.position,
            end_position=end_position,
            reason=reason,
        )
        self._context.damage.add(entry)
        self._context.report.damaged.append(entry)
        self.is_damaged = True

    def _end_of_damage(self) -> int:
        """Return an offset behind all that damage up to the end of the file can have held."""
        if not self._is_last:
            return self._segment.end_bound
        point = self._context.recovery_point
        low = self.next_offset + 1
        if point.segment_base == self._segment.base_offset:
            low = max(low, point.offset)
        if not self._context.same_boot:
            return low
        # All that was written is there, also behind R; a segment's range bounds its offsets.
        return max(low, self._segment.base_offset + self._context.settings.segment_offsets)

    def _find_missing_end(self) -> None:
        """Quarantine what should follow the segment's last byte and does not."""
        point = self._context.recovery_point
        if not self._is_last:
            self._find_gap()
        elif (
            point.segment_base == self._segment.base_offset
            and self._size < point.position
            and self.next_offset < point.offset
        ):
            self._miss(point.offset, f"the file ends here, synced were {point.position} bytes")

    def _find_gap(self) -> None:
        end_bound = self._segment.end_bound
        assert self.next_offset <= end_bound
        if self.next_offset < end_bound and not self._context.may_miss(end_bound):
            self._miss(end_bound, MISSING_BEHIND)

    def _miss(self, end_offset: int, reason: str) -> None:
        known = any(
            entry.first_offset <= self.next_offset and end_offset <= entry.next_offset
            for entry in self._context.damage.ranges
        )
        if not known:
            self._add_damage(end_offset, self.position, reason)
        self.is_damaged = True
        self.next_offset = end_offset
