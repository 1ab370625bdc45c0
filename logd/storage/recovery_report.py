"""What a recovery found and did, for the log line at start-up and for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from logd.storage.damage import DamagedRange
from logd.units import format_byte_count


@dataclass(frozen=True, slots=True)
class CutTail:
    """A tail that recovery cut off, and where it was saved.

    Attributes:
        path: the segment.
        position: its new length.
        size_bytes: what was cut.
        saved_path: the file that has the bytes.
        reason: why nothing from `position` on could stay.
    """

    path: str
    position: int
    size_bytes: int
    saved_path: str
    reason: str


@dataclass(slots=True)
class RecoveryReport:
    """The outcome of one log's recovery.

    Attributes:
        name: the partition.
        end_offset: the next offset to be assigned.
        walked_bytes: bytes of log that were read and checked.
        cuts: tails that were cut off.
        damaged: ranges that are quarantined since this recovery.
        rebuilt: index files that were built anew.
        removed: leftovers of an earlier crash that were removed.
        unknown: files that are not ours; left alone.
        replaced: a replacement of segments, which a crash had cut short, was finished.
        new_epoch: the leader epoch that begins with this start, None if the old one goes on.
    """

    name: str
    end_offset: int = 0
    walked_bytes: int = 0
    cuts: list[CutTail] = field(default_factory=list)
    damaged: list[DamagedRange] = field(default_factory=list)
    rebuilt: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    replaced: bool = False
    new_epoch: int | None = None

    def lines(self) -> list[str]:
        """Return one sentence for each thing that an operator should know; often none."""
        lines = [
            f"{self.name}: {format_byte_count(cut.size_bytes)} behind position {cut.position} of "
            f"{cut.path} were not a whole record batch ({cut.reason}); saved as {cut.saved_path}"
            for cut in self.cuts
        ]
        lines += [
            f"{self.name}: offsets {entry.first_offset} to {entry.next_offset - 1} are damaged and "
            f"quarantined: {entry.file} at position {entry.position}: {entry.reason}"
            for entry in self.damaged
        ]
        if self.replaced:
            lines.append(f"{self.name}: a compaction was committed and is finished now")
        lines += [f"{self.name}: {path} was rebuilt" for path in self.rebuilt]
        lines += [f"{self.name}: {path} is not a file of ours; left alone" for path in self.unknown]
        if self.new_epoch is not None:
            lines.append(
                f"{self.name}: leader epoch {self.new_epoch} begins at offset {self.end_offset}: "
                "readers may have seen records that are lost (flush.mode is not commit)"
            )
        return lines
