"""Removing offsets and groups from the offsets log: tombstones, in batches that the log takes.

A tombstone reaches also what is on its way to the disk when it is written: it lies behind it in the
log, and what is committed later lies behind the tombstone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from logd.broker.group_entry import GroupEntry, LogRecord, OffsetOf
from logd.broker.group_values import restore_group
from logd.broker.groups import Coordinator
from logd.errors import LogdError
from logd.policy.group.group import Group
from logd.policy.group.values import GroupState
from logd.record.group_records import encode_group_key, encode_offset_key
from logd.units import KIB

TOMBSTONES_BATCH_BYTES: Final = 256 * KIB
"""Deletes of many offsets are written in batches of about this size."""


def delete_offsets(
    groups: Coordinator,
    entry: GroupEntry,
    keys: Iterable[OffsetOf],
    then: Callable[[LogdError | None], None],
) -> None:
    """Remove offsets, also those on their way; `then` is called once it is durable."""
    gone = list(keys)

    def done(error: LogdError | None) -> None:
        if error is None:
            for key in gone:
                entry.offsets.pop(key, None)
            groups.forget_if_unused(entry)
        then(error)

    group_id = entry.group.group_id
    records = [(encode_offset_key(group_id, *key), None) for key in gone]
    _append_all(groups, entry, records, done)


def delete_group(
    groups: Coordinator, entry: GroupEntry, then: Callable[[LogdError | None], None]
) -> None:
    """Remove a group and its offsets; `then` is called once it is durable.

    Until then the group is dead. If it cannot be written, the group is as it was, but for its
    members: only a group without any is deleted.
    """
    group = entry.group
    assert group.state is GroupState.EMPTY
    gone = entry.all_offsets()
    groups.run(entry, group.die())
    records: list[LogRecord] = [(encode_offset_key(group.group_id, *key), None) for key in gone]
    records.append((encode_group_key(group.group_id), None))

    def done(error: LogdError | None) -> None:
        if error is not None:
            _revive(groups, entry)
        elif groups.entries.get(group.group_id) is entry:
            del groups.entries[group.group_id]
        then(error)

    _append_all(groups, entry, records, done)


def _revive(groups: Coordinator, entry: GroupEntry) -> None:
    """The group's tombstones were refused: what the log says of it holds."""
    group_id = entry.group.group_id
    entry.group = (
        Group(group_id)
        if entry.stored is None
        else restore_group(group_id, entry.stored, groups.limits, now_ms=groups.now_ms())
    )
    entry.generation = entry.group.generation
    entry.state = entry.group.state
    if entry.stored is not None:
        entry.empty_since_ms = groups.wall_ms()  # Later than it was: nothing expires early.
    groups.arm(entry)


def _append_all(
    groups: Coordinator,
    entry: GroupEntry,
    records: Sequence[LogRecord],
    done: Callable[[LogdError | None], None],
) -> None:
    """Append records in several batches; `done` hears of the last one, or the first error."""
    batches = list(_in_batches(records))
    if not batches:
        done(None)
        return
    outstanding = len(batches)
    failed: LogdError | None = None

    def one_done(error: LogdError | None) -> None:
        nonlocal outstanding, failed
        outstanding -= 1
        failed = failed or error
        if not outstanding:
            done(failed)

    for batch in batches:
        groups.append(entry, batch, one_done)


def _in_batches(records: Sequence[LogRecord]) -> Iterable[list[LogRecord]]:
    batch: list[LogRecord] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record[0])
        if size >= TOMBSTONES_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
