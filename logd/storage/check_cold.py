"""Check what the catalog says of coded segments: against itself, and against the hot files.

The chunks lie on storage nodes and are not looked at here (`logd cold verify` does). Nothing is
damage that the next start, or repair, puts right; an offset that is neither in a hot file nor in k
chunks with a place is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from logd.policy.cold.removal import chunks_to_remove
from logd.policy.cold.states import StartAction, on_start
from logd.policy.cold.values import LIVE, ColdState, Generation
from logd.storage import layout
from logd.storage.catalog import TopicRow
from logd.storage.check_report import CheckReport, Finding, Severity
from logd.storage.files import Files

_AT_START = {
    StartAction.ABORT: "was being coded; the next start gives that up",
    StartAction.REMOVE_HOT: "is released, and its hot file is still there; the next start checks "
    "its chunks and removes it",
    StartAction.SAY_HOT_IS_MISSING: "has no hot file, and is not released; it is read from chunks",
    StartAction.LOOK_AT_SUCCESSORS: "was coded anew; its old chunks go when the new are proved "
    "again",
}


def check_generations(
    files: Files,
    catalog_path: str,
    topics_path: str,
    topics: Sequence[TopicRow],
    generations: Sequence[Generation],
    report: CheckReport,
) -> None:
    """Check all generations; findings go to `report`, under the catalog's path."""
    assert topics_path
    rows = {row.topic_id: row for row in topics}
    for each in generations:
        row = rows[each.key.topic_id]
        if each.key.partition >= row.partitions:
            reason = f"{each}: topic {row.name} has {row.partitions} partitions"
            report.add(_finding("damage", catalog_path, each, reason))
        elif row.state == "live":
            _check_one(each, _has_hot_log(files, topics_path, row, each), catalog_path, report)
    leaving = chunks_to_remove(generations)
    if leaving:
        nodes = sorted({chunk.node for chunk in leaving})
        words = f"{len(leaving)} chunks are still to be removed from {', '.join(nodes)}"
        report.note(catalog_path, words)


def _check_one(each: Generation, has_hot_log: bool, path: str, report: CheckReport) -> None:
    assert each.state not in (ColdState.HOT, ColdState.GONE)
    words = _AT_START.get(on_start(each, has_hot_log=has_hot_log))
    if words is not None:
        report.add(_finding("note", path, each, f"{each} {words}"))
    held, profile = len(each.held), each.profile
    if each.state in LIVE and held < profile.chunks:
        reason = f"{each}: {held} of {profile.chunks} chunks have a place, {profile.k} are needed"
        is_lost = held < profile.k and not has_hot_log
        report.add(_finding("damage" if is_lost else "note", path, each, reason))


def _finding(severity: Severity, path: str, each: Generation, reason: str) -> Finding:
    assert reason
    return Finding(severity, path, None, reason, each.key.base_offset, each.next_offset)


def _has_hot_log(files: Files, topics_path: str, row: TopicRow, each: Generation) -> bool:
    assert each.key.partition < row.partitions
    directory = layout.partition_directory_name(row.name, each.key.partition)
    name = layout.segment_file_name(each.key.base_offset, layout.LOG_SUFFIX)
    return files.exists(f"{topics_path}/{directory}/{name}")


def coded_ranges(
    generations: Iterable[Generation],
) -> Mapping[tuple[bytes, int], tuple[tuple[int, int], ...]]:
    """Return per log (topic id, partition) the ranges of offsets that chunks hold, rising."""
    found: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
    for each in generations:
        if each.state in LIVE:
            key = each.key
            assert key.base_offset <= each.next_offset
            ranges = found.setdefault((key.topic_id, key.partition), [])
            ranges.append((key.base_offset, each.next_offset))
    return {key: tuple(sorted(ranges)) for key, ranges in found.items()}
