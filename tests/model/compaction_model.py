"""Compaction, said of records alone: what a log in files has to agree with."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.unit.compaction_rig import Row


@dataclass(slots=True)
class Model:
    """What a consumer is to see.

    Attributes:
        rows: the records that are there, in order, by offset.
        batch_of: the number of the batch that a record came in.
        horizons: delete horizons by batch.
    """

    retention_ms: int
    rows: dict[int, Row] = field(default_factory=dict)
    batch_of: dict[int, int] = field(default_factory=dict)
    horizons: dict[int, int] = field(default_factory=dict)
    start: int = 0
    batches: int = 0

    def append(self, rows: list[Row]) -> None:
        """Take in a batch."""
        for row in rows:
            self.rows[row.offset] = row
            self.batch_of[row.offset] = self.batches
        self.batches += 1

    def compact(self, *, first_dirty: int, end: int, now_ms: int) -> None:
        """The whole of compaction, said of records."""
        last = {
            row.key: row.offset for row in self.rows.values() if first_dirty <= row.offset < end
        }
        for offset, row in list(self.rows.items()):
            if offset >= end:
                continue
            superseded = row.key is None or last.get(row.key, -1) > offset
            horizon_ms = self.horizons.get(self.batch_of[offset])
            forgotten = row.value is None and horizon_ms is not None and now_ms >= horizon_ms
            if superseded or forgotten:
                del self.rows[offset]
        for offset, row in self.rows.items():
            if offset < end and row.value is None:
                self.horizons.setdefault(self.batch_of[offset], now_ms + self.retention_ms)

    def visible(self) -> list[Row]:
        """Return what a consumer sees."""
        return [row for offset, row in self.rows.items() if offset >= self.start]
