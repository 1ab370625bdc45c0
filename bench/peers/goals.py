"""What we set out to reach beside Apache Kafka, and how far the worst row of each goal is from it.

A goal is a least ratio over some rows. It is met when each of them reaches it; the row that is
furthest behind is named either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.peers import kafka_rows
from bench.peers.compact_rows import SECTION as COMPACTION
from bench.peers.contest import Row
from bench.peers.kafka import KafkaBroker
from bench.peers.start_rows import SECTION as START


@dataclass(frozen=True, slots=True)
class Goal:
    """A least ratio for rows of some sections whose names begin in some way."""

    text: str
    least: float
    sections: tuple[str, ...]
    begins: tuple[str, ...]

    def rows(self, rows: Sequence[Row]) -> list[tuple[float, Row]]:
        """Return the rows that it is about, the worst first."""
        found = [
            (row.ratio, row)
            for row in rows
            if row.peer == KafkaBroker.name and row.ratio is not None
            if row.section in self.sections and row.name.startswith(self.begins)
        ]
        return sorted(found, key=lambda pair: pair[0])


_CACHE: Final = (kafka_rows.SAME_CACHE, kafka_rows.SAME_CACHE_ALL)
_SYNCED: Final = (kafka_rows.SAME_SYNCED,)
_OF_A_GB: Final = ("CPU, produce 64 KiB", "CPU, produce 1 MiB", "CPU, fetch")
GOALS: Final = (
    Goal("produce, page cache on both sides", 1, _CACHE, ("produce",)),
    Goal("produce, synced before the answer on both sides", 5, _SYNCED, ("produce",)),
    Goal("one at a time", 1, (*_CACHE, *_SYNCED), ("one at a time",)),
    Goal("end to end", 1, (*_CACHE, *_SYNCED), ("end to end",)),
    Goal("fetch", 1, (kafka_rows.FETCH,), ("fetch",)),
    Goal("CPU of a GB", 1, (*_CACHE, kafka_rows.FETCH), _OF_A_GB),
    Goal("start-up at most a fifth", 5, (START,), ("start, empty",)),
    Goal("memory at most an eighth", 8, (START,), ("memory",)),
    Goal("compaction", 1, (COMPACTION,), ("compact",)),
    Goal("start after kill -9", 1, (START,), ("start after kill",)),
)  # fmt: skip
