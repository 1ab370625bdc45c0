"""Loading one partition of `__consumer_offsets` at start: the snapshot, then the log behind it.

What is applied is synced: recovery, or the clean stop, made it so, and the high watermark says how
far. Reading is done in a thread, applying on the loop, a stretch of bounded size at a time. Within
a stretch only the last record of a key is applied, as compaction would leave it: keys do not depend
on each other.

The log is the truth. A snapshot is used only if it is intact, of this very partition, and its
offset lies within the log; any other is left aside with a reason, and the log is replayed from its
start:

* beyond the end of the log: the log lost what the snapshot has, and with it what is acknowledged;
* below its start: what lay between them was deleted, and with it perhaps what the snapshot has.

Ranges that are known to be damaged are told and stepped over, since nothing brings them back. A log
whose rest cannot be read at all (the disk refuses) fails to load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from logd.broker.partition import Partition
from logd.errors import CorruptFileError, LogdError, UnsupportedFormatError
from logd.offload import Offload
from logd.record.group_records import is_known_key, key_version
from logd.record.last_values import LastValues
from logd.storage.group_snapshot import (
    GroupSnapshot,
    group_snapshot_path,
    read_group_snapshot,
)
from logd.storage.log_replay import LogReplay
from logd.units import MIB

Apply = Callable[[int, bytes, bytes | None, int], None]
"""Takes partition, key, value (None: a tombstone) and timestamp (-1: not known)."""

NO_TIMESTAMP: Final = -1

STRETCH_BYTES: Final = 64 * MIB
"""Log read before it is applied; bounds the memory."""

STRETCH_KEYS: Final = 100_000
"""… or so many keys."""

PROBLEMS_MAX: Final = 20
"""Records that cannot be applied, told one by one; more are counted."""

_KIND: Final = "disk"


@dataclass(slots=True)
class Loaded:
    """How the loading of a partition ended.

    Attributes:
        offset: up to where the log was applied.
        snapshot_offset: of the snapshot that was used, None if none was.
        snapshot_pairs: how many keys it had.
        tail_records, tail_bytes: read behind it.
        problems: in words.
        failed: why the rest was not loaded, None if all was.
    """

    offset: int
    snapshot_offset: int | None = None
    snapshot_pairs: int = 0
    tail_records: int = 0
    tail_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    failed: str | None = None


async def load_partition(partition: Partition, offload: Offload, apply: Apply) -> Loaded:
    """Apply everything that a partition holds, in the order of the log."""
    end_offset = partition.high_watermark
    loaded = Loaded(partition.log_start_offset)
    applying = _Applying(partition.index, apply, loaded)
    snapshot, problem = await offload.run(_KIND, find_snapshot, partition)
    if problem is not None:
        loaded.problems.append(problem)
    if snapshot is not None:
        loaded.offset = loaded.snapshot_offset = snapshot.offset
        loaded.snapshot_pairs = len(snapshot.pairs)
        for key, value in snapshot.pairs:
            applying.apply(key, value, NO_TIMESTAMP)
    replay = LogReplay(partition.log, loaded.offset, below=end_offset)
    await _replay(replay, offload, applying)
    applying.sum_up()
    loaded.offset = replay.offset
    loaded.tail_records, loaded.tail_bytes = replay.records_read, replay.bytes_read
    loaded.problems += replay.problems
    loaded.failed = replay.failed
    return loaded


def find_snapshot(partition: Partition) -> tuple[GroupSnapshot | None, str | None]:
    """Return the partition's snapshot if it can be used, and why not otherwise. In a thread."""
    log = partition.log
    path = group_snapshot_path(log.directory)
    try:
        snapshot = read_group_snapshot(log.files, path)
    except FileNotFoundError:
        return None, None
    except (CorruptFileError, UnsupportedFormatError) as error:
        reason: str | None = str(error)  # It names the file.
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
    else:
        reason = _unfit(snapshot, partition)
        if reason is None:
            return snapshot, None
        reason = f"{path} {reason}"
    return None, f"snapshot not used, the log is replayed: {reason}"


def _unfit(snapshot: GroupSnapshot, partition: Partition) -> str | None:
    if (snapshot.topic_id, snapshot.partition) != (partition.topic_id, partition.index):
        return "is another partition's"
    if snapshot.offset > partition.high_watermark:
        return (
            f"has records up to {snapshot.offset}, but the log ends at {partition.high_watermark}"
        )
    if snapshot.offset < partition.log_start_offset:
        return f"ends at {snapshot.offset}, but the log starts at {partition.log_start_offset}"
    return None


async def _replay(replay: LogReplay, offload: Offload, applying: _Applying) -> None:
    applied_bytes = 0
    more = True
    while more:
        last: LastValues = {}
        while (
            more and len(last) < STRETCH_KEYS and replay.bytes_read - applied_bytes < STRETCH_BYTES
        ):
            more = await offload.run(_KIND, replay.step, last)
        applied_bytes = replay.bytes_read
        for key, (value, timestamp_ms) in last.items():
            applying.apply(key, value, timestamp_ms)


class _Applying:
    """Hands records on, and remembers what could not be."""

    def __init__(self, partition: int, apply: Apply, loaded: Loaded) -> None:
        self._partition = partition
        self._apply = apply
        self._loaded = loaded
        self._unknown: Counter[int] = Counter()
        self._unreadable = 0
        self._has_null_key = False

    def apply(self, key: bytes | None, value: bytes | None, timestamp_ms: int) -> None:
        """Apply one record, if it is of a kind that is known."""
        if key is None:
            self._has_null_key = True
        elif not is_known_key(key):
            self._unknown[key_version(key)] += 1
        else:
            try:
                self._apply(self._partition, key, value, timestamp_ms)
            except LogdError as error:
                self._unreadable += 1
                if self._unreadable <= PROBLEMS_MAX:
                    self._loaded.problems.append(f"the record of key {key!r} is unusable: {error}")

    def sum_up(self) -> None:
        """Tell once what there may be many of."""
        problems = self._loaded.problems
        if self._unreadable > PROBLEMS_MAX:
            problems.append(f"{self._unreadable - PROBLEMS_MAX} more records are unusable")
        if self._has_null_key:
            problems.append("records without a key were left out")
        if self._unknown:
            kinds = ", ".join(
                f"{count} of version {v}" for v, count in sorted(self._unknown.items())
            )
            problems.append(f"keys of kinds that this server does not know were left out: {kinds}")
