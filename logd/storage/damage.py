"""Damaged ranges of a log: known, durable, and in nobody's way.

Damage below the recovery point is never cut. It is quarantined: the range [first bad offset, next
valid batch) is written down, a fetch in it gets an error that says so, and a fetch behind it is
served. Only a repair from redundancy, or deleting the records, ends a quarantine: a segment that is
released is read from its chunks, which are such a repair.

The state file `damaged` of a partition's directory holds a JSON list, a range an object. It is
absent while nothing is damaged.

Concurrency: reading threads and recovery add, the event loop asks. The ranges are one tuple,
replaced as a whole under a lock; who asks sees some complete state.
"""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import asdict, dataclass
from typing import Final

from logd.errors import CorruptFileError, DamagedRangeError
from logd.storage.files import Files
from logd.storage.state_file import read_state, remove_state, write_state
from logd.units import MIB

DAMAGED_NAME: Final = "damaged"
FORMAT_VERSION: Final = 1
STATE_BYTES_MAX: Final = MIB
RANGES_MAX: Final = 4096
"""More are not listed one by one: a range that comes on top is joined with its neighbour before
it."""


@dataclass(frozen=True, slots=True, order=True)
class DamagedRange:
    """Offsets that cannot be read, and the bytes that should hold them.

    Attributes:
        first_offset, next_offset: the offsets lost, the second one exclusive; equal where bytes
            are bad that no record is missed from.
        base_offset: of the segment.
        file: the segment's file name.
        position, end_position: the bytes; equal where they are missing altogether.
        reason: what was found.
    """

    first_offset: int
    next_offset: int
    base_offset: int
    file: str
    position: int
    end_position: int
    reason: str

    def error(self) -> DamagedRangeError:
        """Return the error for a reader that asks for an offset in here."""
        return DamagedRangeError(
            f"offsets {self.first_offset} to {self.next_offset - 1} are damaged: "
            f"{self.file} at position {self.position}: {self.reason}"
        )


class DamageList:
    """The damaged ranges of one log, in order; those in `ranges` are durable unless a write
    failed."""

    __slots__ = ("_files", "_lock", "_path", "ranges")

    def __init__(self, files: Files, directory: str, ranges: tuple[DamagedRange, ...] = ()) -> None:
        self._files = files
        self._path = f"{directory}/{DAMAGED_NAME}"
        self._lock = threading.Lock()
        self.ranges = ranges

    @classmethod
    def load(cls, files: Files, directory: str) -> DamageList:
        """Read what is known to be damaged.

        Raises:
            CorruptFileError, UnsupportedFormatError, OSError: the state file cannot be used.
        """
        damage = cls(files, directory)
        with contextlib.suppress(FileNotFoundError):
            _, payload = read_state(
                files, damage._path, limit_bytes=STATE_BYTES_MAX, newest_version=FORMAT_VERSION
            )
            damage.ranges = _decode(damage._path, payload)
        return damage

    def find(self, offset: int) -> DamagedRange | None:
        """Return the range that holds `offset`, if any."""
        for damaged in self.ranges:
            if damaged.first_offset <= offset < damaged.next_offset:
                return damaged
        return None

    def in_segment(self, base_offset: int) -> list[DamagedRange]:
        """Return the ranges of one segment, in order."""
        return [damaged for damaged in self.ranges if damaged.base_offset == base_offset]

    def add(self, damaged: DamagedRange) -> None:
        """Quarantine a range, durably.

        Raises:
            OSError: it is quarantined, but not durably; the next recovery finds it again.
        """
        assert damaged.first_offset <= damaged.next_offset
        assert damaged.position <= damaged.end_position
        with self._lock:
            kept = [known for known in self.ranges if not _covers(damaged, known)]
            if any(_covers(known, damaged) for known in kept):
                return
            self.ranges = _bounded(sorted([*kept, damaged]))
            self._write()

    def forget_below(self, offset: int) -> None:
        """Forget the ranges that lie wholly below `offset`, which nobody can read any more."""
        with self._lock:
            kept = tuple(known for known in self.ranges if known.next_offset > offset)
            if kept != self.ranges:
                self.ranges = kept
                self._write()

    def forget_within(self, first_offset: int, next_offset: int) -> None:
        """Forget the ranges of these offsets: their records are read from elsewhere.

        Raises:
            OSError: they are forgotten, but not durably; whoever forgets them again mends that.
        """
        with self._lock:
            kept = tuple(
                known
                for known in self.ranges
                if known.first_offset < first_offset or known.next_offset > next_offset
            )
            if kept != self.ranges:
                self.ranges = kept
                self._write()

    def _write(self) -> None:
        if not self.ranges:
            remove_state(self._files, self._path)
            return
        payload = json.dumps([asdict(damaged) for damaged in self.ranges]).encode()
        assert len(payload) <= STATE_BYTES_MAX
        write_state(self._files, self._path, payload, version=FORMAT_VERSION)


def _covers(outer: DamagedRange, inner: DamagedRange) -> bool:
    return (
        outer.base_offset == inner.base_offset
        and outer.first_offset <= inner.first_offset
        and inner.next_offset <= outer.next_offset
        and outer.position <= inner.position
        and inner.end_position <= outer.end_position
    )


def _bounded(ranges: list[DamagedRange]) -> tuple[DamagedRange, ...]:
    """Keep the number of ranges within its limit, by taking good records into quarantine."""
    while len(ranges) > RANGES_MAX:
        last, before = ranges.pop(), ranges.pop()
        joined = DamagedRange(
            first_offset=before.first_offset,
            next_offset=max(before.next_offset, last.next_offset),
            base_offset=before.base_offset,
            file=before.file,
            position=before.position,
            end_position=last.end_position
            if last.base_offset == before.base_offset
            else before.end_position,
            reason=before.reason,
        )
        ranges.append(joined)
    return tuple(ranges)


def _decode(path: str, payload: bytes) -> tuple[DamagedRange, ...]:
    try:
        return tuple(sorted(DamagedRange(**entry) for entry in json.loads(payload)))
    except (ValueError, TypeError) as error:
        raise CorruptFileError(path, 0, f"is no list of damaged ranges: {error}") from error
