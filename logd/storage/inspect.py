"""What is in a file of ours, item by item: the substance of `logd dump`.

Read-only, and it trusts nothing: every file may be damaged, cut, or not be what its name says. What
does not fit is an item too, of kind "damage", with the position where the trouble begins; then the
walk goes on behind it where that makes sense. Opening a file here repairs, allocates and locks
nothing, which is why the classes that the server opens its files with are not used.

A file's kind is known by its name (`layout`); `.deleted` or `.cleaned` behind a name does not
change the kind.
"""

from __future__ import annotations

import json
import os.path
import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from logd.errors import CorruptFileError, CorruptRecordsError, UnsupportedFormatError
from logd.record.batch import HEADER_BYTES, LOG_APPEND_TIME_BIT, BatchHeader, read_header
from logd.record.compression import CODEC_NAMES
from logd.record.group_records import (
    GroupKey,
    OffsetKey,
    decode_group_value,
    decode_key,
    decode_offset_value,
)
from logd.record.records import check_records, iterate
from logd.storage import layout, sync_record
from logd.storage.catalog_copy import open_catalog_copy, read_cluster_id
from logd.storage.cold_catalog_sqlite import SqliteColdCatalog
from logd.storage.files import Files, OpenFile
from logd.storage.group_snapshot import read_group_snapshot
from logd.storage.log_walk import Damage, walk_log
from logd.storage.mapped_index import MappedIndex
from logd.storage.offset_index import OffsetIndex
from logd.storage.partition_files import EPOCHS_NAME, LOG_START_NAME
from logd.storage.partition_listing import CUT_SUFFIX
from logd.storage.producer_state import decode_snapshot
from logd.storage.state_file import MAGIC as STATE_MAGIC
from logd.storage.state_file import read_state
from logd.storage.time_index import TimeIndex
from logd.storage.topic_directories import METADATA_NAME, format_topic_id
from logd.units import MIB

DAMAGE: Final = "damage"
STATE_BYTES_MAX: Final = 256 * MIB
TEXT_BYTES_MAX: Final = MIB
_ENTRIES_PER_READ: Final = 65_536
_SLOTS_PER_READ: Final = 4096
_OFFSET: Final = struct.Struct(">q")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing in a file.

    Attributes:
        kind: "batch", "record", "entry", "state", "line", "point", "offset", "group", "unused",
            "damage" and others.
        position: where in the file it begins.
        fields: what it says, in a sensible order; values are numbers, text, bytes, lists or None.
    """

    kind: str
    position: int
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Depth:
    """How deep to look.

    Attributes:
        records: yield the records of batches.
        verify: check the records of batches.
        scratch: an empty directory for a copy of the catalog, None if no catalog is to be shown.
    """

    records: bool = False
    verify: bool = False
    scratch: str | None = None


def inspect_file(files: Files, path: str, depth: Depth) -> Iterator[Item]:
    """Yield what is in a file, in order of position.

    Raises:
        UnsupportedFormatError: the name is none that we give to files.
        OSError: it cannot be read.
    """
    name = layout.base_file_name(os.path.basename(path))
    try:
        yield from _reader(name, files, path)(files, path, depth)
    except CorruptFileError as error:
        yield _damage(error.position, error.reason)


Reader = Callable[[Files, str, Depth], Iterator[Item]]


def _reader(name: str, files: Files, path: str) -> Reader:
    for suffix, reader in _BY_SUFFIX.items():
        if name.endswith(suffix):
            return reader
    if name in _BY_NAME:
        return _BY_NAME[name]
    if files.read_whole(path, limit_bytes=len(STATE_MAGIC)).startswith(STATE_MAGIC):
        return _inspect_state
    raise UnsupportedFormatError(
        path,
        "not a kind of file that logd writes, by its name; give a segment's .log, .index or "
        ".timeindex, a .chunk, or another file of a data directory",
    )


def _damage(position: int, reason: str) -> Item:
    return Item(DAMAGE, position, {"reason": reason})


# --- segments -------------------------------------------------------------------------------------


def _inspect_log(files: Files, path: str, depth: Depth) -> Iterator[Item]:
    file = files.open_read(path)
    base_offset = _base_offset(path)
    if base_offset is None:
        base_offset = _first_offset(files.read_at(file, 0, HEADER_BYTES))
    for found in walk_log(files, file, base_offset=base_offset):
        if isinstance(found, Damage):
            yield Item(DAMAGE, found.position, {"reason": found.reason, "end": found.end})
            continue
        yield Item("batch", found.position, batch_fields(found.header))
        if depth.records or depth.verify:
            yield from record_items(files, file, found.position, found.header, depth)


def record_items(
    files: Files, file: OpenFile, position: int, header: BatchHeader, depth: Depth
) -> Iterator[Item]:
    """Yield the records of the batch at a position, or what is wrong with them, as `depth` says.

    Raises:
        OSError: it cannot be read.
    """
    assert position >= 0
    data = files.read_at(file, position, header.size)
    try:
        if depth.verify:
            check_records(data)
        if depth.records:
            for record in iterate(data):
                yield Item("record", position, record._asdict())
    except CorruptRecordsError as error:
        yield _damage(position, f"the batch of offset {header.base_offset}: {error}")


def batch_fields(header: BatchHeader) -> dict[str, Any]:
    """Return what a batch header says, as it is shown."""
    return {
        "base_offset": header.base_offset,
        "last_offset": header.last_offset,
        "count": header.count,
        "bytes": header.size,
        "codec": CODEC_NAMES[header.codec] if header.codec < len(CODEC_NAMES) else header.codec,
        "timestamp_type": "LogAppendTime"
        if header.attributes & LOG_APPEND_TIME_BIT
        else "CreateTime",
        "base_timestamp_ms": header.base_timestamp,
        "max_timestamp_ms": header.max_timestamp,
        "leader_epoch": header.leader_epoch,
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "attributes": header.attributes,
        "crc": f"{header.crc:08x}",
    }


def _first_offset(head: bytes) -> int:
    """Return the offset that a log under a name of its own begins with."""
    return max(0, read_header(head).base_offset) if len(head) == HEADER_BYTES else 0


def _base_offset(path: str) -> int | None:
    """Return the offset in a segment file's name; None for a copy under another name."""
    name = layout.base_file_name(os.path.basename(path))
    parsed = layout.parse_segment_file_name(name)
    return None if parsed is None else parsed[0]


# --- indexes --------------------------------------------------------------------------------------


def read_entries(
    files: Files, path: str, kind: type[MappedIndex]
) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """Yield (position, entry) of an index as stored; None for where only zeros follow.

    Raises:
        CorruptFileError: the file ends within an entry.
        OSError: it cannot be read.
    """
    size_each = kind.ENTRY.size
    file = files.open_read(path)
    size = files.size(file)
    for start in range(0, size, _ENTRIES_PER_READ * size_each):
        data = files.read_at(file, start, min(_ENTRIES_PER_READ * size_each, size - start))
        for at in range(0, len(data) - size_each + 1, size_each):
            entry = kind.ENTRY.unpack_from(data, at)
            if entry == (0, 0) and not any(memoryview(data)[at:]):
                yield start + at, None
                return
            yield start + at, entry
    if size % size_each:
        raise CorruptFileError(path, size - size % size_each, "ends within an entry")


def _inspect_index(
    files: Files, path: str, kind: type[MappedIndex], names: tuple[str, str]
) -> Iterator[Item]:
    base_offset = _base_offset(path) or 0
    last: tuple[int, int] = (-1, -1)
    for position, entry in read_entries(files, path, kind):
        if entry is None:
            yield Item("unused", position, {"bytes": files.stat_size(path) - position})
            return
        if kind is OffsetIndex:
            offset, other, rises = entry[0], entry[1], entry > last and entry[1] > last[1]
        else:
            other, offset, rises = entry[0], entry[1], entry > last and entry[1] >= last[1]
        yield Item("entry", position, {names[0]: base_offset + offset, names[1]: other})
        if not rises:
            yield _damage(position, "the entries do not rise")
        last = entry


def _inspect_offset_index(files: Files, path: str, _: Depth) -> Iterator[Item]:
    yield from _inspect_index(files, path, OffsetIndex, ("offset", "position"))


def _inspect_time_index(files: Files, path: str, _: Depth) -> Iterator[Item]:
    yield from _inspect_index(files, path, TimeIndex, ("offset", "timestamp_ms"))


# --- small files ----------------------------------------------------------------------------------


def _inspect_state(files: Files, path: str, _: Depth) -> Iterator[Item]:
    state = read_state(files, path, limit_bytes=STATE_BYTES_MAX)
    fields = {"version": state.version, "bytes": len(state.payload)}
    yield Item("state", 0, fields | _state_fields(os.path.basename(path), state.payload))


def _state_fields(name: str, payload: bytes) -> dict[str, Any]:
    if name == LOG_START_NAME and len(payload) == _OFFSET.size:
        return {"log_start_offset": _OFFSET.unpack(payload)[0]}
    try:
        return {"content": json.loads(payload)}
    except (ValueError, RecursionError):
        return {"payload": payload}


def _inspect_text(files: Files, path: str, _: Depth) -> Iterator[Item]:
    data = files.read_whole(path, limit_bytes=TEXT_BYTES_MAX)
    position = 0
    for line in data.splitlines(keepends=True):
        yield Item("line", position, {"text": line.decode(errors="backslashreplace").rstrip("\n")})
        position += len(line)


def _inspect_journal(files: Files, path: str, _: Depth) -> Iterator[Item]:
    """Yield every intact point; slots that were never written or are torn are counted."""
    file = files.open_read(path)
    head = files.read_at(file, 0, sync_record.HEADER.size)
    if len(head) < sync_record.HEADER.size:
        raise CorruptFileError(path, 0, "ends within its header")
    header = sync_record.decode_header(head)
    if header is None:
        raise CorruptFileError(path, 0, "the header is not that of a sync journal")
    version, slots = header
    yield Item("journal", 0, {"version": version, "slots": slots})
    size, step = files.size(file), _SLOTS_PER_READ * sync_record.RECORD_BYTES
    for start in range(sync_record.HEADER_BYTES, size, step):
        data = files.read_at(file, start, min(step, size - start))
        for at in range(0, len(data), sync_record.RECORD_BYTES):
            yield from _journal_point(start + at, data[at : at + sync_record.RECORD_BYTES])


def _journal_point(position: int, raw: bytes) -> Iterator[Item]:
    if not any(raw):
        return
    is_whole = len(raw) == sync_record.RECORD_BYTES and raw.startswith(sync_record.RECORD_MAGIC)
    # Records are overwritten in turn and may tear: that is expected, and not damage.
    if not is_whole or not sync_record.is_intact(raw):
        yield Item("torn", position)
        return
    fields = sync_record.RECORD.unpack(raw)
    _, partition, sequence, topic_id, boot_id, base, synced_offset, synced_position, _ = fields
    yield Item(
        "point",
        position,
        {
            "sequence": sequence,
            "topic_id": topic_id.hex(),
            "partition": partition,
            "segment_base": base,
            "synced_offset": synced_offset,
            "synced_position": synced_position,
            "boot_id": boot_id.hex(),
        },
    )


def _inspect_producers(files: Files, path: str, _: Depth) -> Iterator[Item]:
    state = read_state(files, path, limit_bytes=STATE_BYTES_MAX)
    snapshot = decode_snapshot(path, state.payload)
    yield Item(
        "snapshot",
        0,
        {
            "version": state.version,
            "offset": snapshot.offset,
            "segment_base": snapshot.segment_base,
            "segment_position": snapshot.position,
            "max_timestamp_ms": snapshot.max_timestamp_ms,
            "max_timestamp_offset": snapshot.max_timestamp_offset,
        },
    )
    for producer_id, entry in snapshot.producers.items():
        batches = [batch._asdict() for batch in entry.batches]
        yield Item(
            "producer", 0, {"producer_id": producer_id, "epoch": entry.epoch, "batches": batches}
        )


def _inspect_groups(files: Files, path: str, _: Depth) -> Iterator[Item]:
    snapshot = read_group_snapshot(files, path)
    yield Item(
        "snapshot",
        0,
        {
            "topic_id": format_topic_id(snapshot.topic_id),
            "partition": snapshot.partition,
            "offset": snapshot.offset,
            "keys": len(snapshot.pairs),
        },
    )
    # Keys and values are the last thing in the file.
    position = files.stat_size(path) - sum(len(key) + len(value) for key, value in snapshot.pairs)
    for key, value in snapshot.pairs:
        try:
            yield _group_item(position, key, value)
        except CorruptRecordsError as error:
            yield _damage(position, f"key {key!r}: {error}")
        position += len(key) + len(value)


def _group_item(position: int, key: bytes, value: bytes) -> Item:
    decoded = decode_key(key)
    if isinstance(decoded, OffsetKey):
        return Item("offset", position, decoded._asdict() | decode_offset_value(value)._asdict())
    if isinstance(decoded, GroupKey):
        fields = asdict(decode_group_value(value))
        for member in fields["members"]:
            member["subscription_bytes"] = len(member.pop("subscription"))
            member["assignment_bytes"] = len(member.pop("assignment"))
        return Item("group", position, decoded._asdict() | fields)
    raise CorruptRecordsError(f"keys of version {decoded.version} do not belong here")


def _inspect_catalog(files: Files, path: str, depth: Depth) -> Iterator[Item]:
    assert depth.scratch is not None, "a copy of the catalog needs a place"
    cluster_id = read_cluster_id(files, os.path.dirname(path) or ".")
    catalog = open_catalog_copy(files, path, cluster_id=cluster_id, scratch=depth.scratch)
    try:
        yield Item("catalog", 0, {"cluster_id": catalog.cluster_id})
        for row in catalog.topics():
            fields = asdict(row) | {"topic_id": format_topic_id(row.topic_id)}
            yield Item("topic", 0, fields)
        for name, value in catalog.broker_overrides().items():
            yield Item("server setting", 0, {"name": name, "value": value})
        yield from _inspect_cold(catalog.cold)
    finally:
        catalog.close()


def _inspect_cold(cold: SqliteColdCatalog) -> Iterator[Item]:
    yield Item("cold", 0, {"sequence": cold.sequence()})
    for node in cold.nodes():
        yield Item("node", 0, asdict(node) | {"state": node.state.value})
    for each in cold.generations():
        yield Item(
            "generation",
            0,
            {
                "topic_id": format_topic_id(each.key.topic_id),
                "partition": each.key.partition,
                "base_offset": each.key.base_offset,
                "next_offset": each.next_offset,
                "generation": each.number,
                "encoding": each.encoding,
                "profile": str(each.profile),
                "state": each.state.value,
                "changed_ms": each.changed_ms,
                "held": each.is_held,
                "source_bytes": each.source_bytes,
                "chunks": [f"{index}@{node}" for index, node in each.held.items()],
                "leaving": [f"{at.index}@{at.node}" for at in each.placements if at.is_leaving],
            },
        )


def _inspect_opaque(files: Files, path: str, _: Depth) -> Iterator[Item]:
    yield Item("opaque", 0, {"bytes": files.stat_size(path)})


_BY_SUFFIX: Final[dict[str, Reader]] = {
    layout.LOG_SUFFIX: _inspect_log,
    layout.INDEX_SUFFIX: _inspect_offset_index,
    layout.TIME_INDEX_SUFFIX: _inspect_time_index,
    layout.PRODUCERS_SUFFIX: _inspect_producers,
    CUT_SUFFIX: _inspect_log,
}
_BY_NAME: Final[dict[str, Reader]] = {
    METADATA_NAME: _inspect_text,
    EPOCHS_NAME: _inspect_text,
    layout.LOCK_NAME: _inspect_text,
    layout.JOURNAL_NAME: _inspect_journal,
    layout.BALLAST_NAME: _inspect_opaque,
    layout.GROUPS_SNAPSHOT_NAME: _inspect_groups,
    layout.CATALOG_NAME: _inspect_catalog,
}
