"""What was found wrong with chunks, so that a restart forgets nothing of it.

The file `findings` of the data directory: a state file (state_file, payload version 1), JSON in
UTF-8; docs/formats/data-directory.md has its fields. It is replaced as a whole within a second of a
change; a crash loses what was found in that second, and it is found again. Without the file, or
with one that cannot be read, nothing was ever found: scrub finds anew what still is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from logd.policy.cold.condition import LOST, ChunkPlace, ChunkState
from logd.policy.cold.finding_record import FindingRecord, PutAside
from logd.policy.cold.values import SegmentKey, is_encoding
from logd.storage.files import Files
from logd.storage.json_state import number, read_json_state, text
from logd.storage.state_file import write_state
from logd.units import INT32_MAX, MIB

FINDINGS_NOTE_VERSION: Final = 1
BYTES_MAX: Final = 4 * MIB
RECORDS_MAX: Final = 1000
PUT_ASIDE_MAX: Final = 100
_TEXT_MAX: Final = 400


@dataclass(frozen=True, slots=True)
class FindingsNote:
    """What is kept of findings.

    Attributes:
        records: the oldest first.
        found: how many there ever were, by state.
        put_aside: the latest of them; `put_aside_count`: how many there ever were.
    """

    records: tuple[FindingRecord, ...] = ()
    found: Mapping[ChunkState, int] = field(default_factory=dict)
    put_aside: tuple[PutAside, ...] = ()
    put_aside_count: int = 0


def write_findings_note(files: Files, path: str, note: FindingsNote) -> None:
    """Replace the note; durable once this returns.

    Raises:
        OSError: a reader finds the old note or the new one.
    """
    assert len(note.records) <= RECORDS_MAX
    assert len(note.put_aside) <= PUT_ASIDE_MAX
    document = {
        "records": [_record_fields(each) for each in note.records],
        "found": {state.value: count for state, count in note.found.items()},
        "put_aside": [each.as_document() for each in note.put_aside],
        "put_aside_count": note.put_aside_count,
    }
    payload = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
    assert len(payload) <= BYTES_MAX
    write_state(files, path, payload, version=FINDINGS_NOTE_VERSION)


def _record_fields(record: FindingRecord) -> dict[str, Any]:
    return {
        "topic_id": record.key.topic_id.hex(),
        "partition": record.key.partition,
        "base_offset": record.key.base_offset,
        "generation": record.generation,
        "encoding": record.place.encoding,
        "chunk": record.place.index,
        "node": record.place.node,
        "state": record.state.value,
        "block": record.block,
        "reason": record.reason,
        "found_ms": record.found_ms,
        "mended_ms": record.mended_ms,
    }


def read_findings_note(files: Files, path: str) -> FindingsNote:
    """Return the note.

    Raises:
        FileNotFoundError: there is none. CorruptFileError: damaged, or it says what cannot be.
        UnsupportedFormatError: of a newer version. OSError: it cannot be read.
    """
    assert path
    return read_json_state(
        files,
        path,
        _note,
        what="note of findings",
        limit_bytes=BYTES_MAX,
        newest_version=FINDINGS_NOTE_VERSION,
    )


def _note(fields: Any) -> FindingsNote:
    return FindingsNote(
        records=tuple(_record(each) for each in fields["records"][-RECORDS_MAX:]),
        found={_lost(key): number(count) for key, count in fields["found"].items()},
        put_aside=tuple(_put_aside(each) for each in fields["put_aside"][-PUT_ASIDE_MAX:]),
        put_aside_count=number(fields["put_aside_count"]),
    )


def _record(fields: Any) -> FindingRecord:
    mended, block = fields["mended_ms"], fields["block"]
    encoding = _text(fields["encoding"])
    topic_id = bytes.fromhex(_text(fields["topic_id"]))
    if not is_encoding(encoding) or len(topic_id) != _TOPIC_ID_BYTES:
        raise ValueError("an id of another length than ids have")
    return FindingRecord(
        key=SegmentKey(
            topic_id, number(fields["partition"], INT32_MAX), number(fields["base_offset"])
        ),
        generation=number(fields["generation"], INT32_MAX),
        place=ChunkPlace(encoding, number(fields["chunk"], INT32_MAX), _text(fields["node"])),
        state=_lost(fields["state"]),
        block=None if block is None else number(block),
        reason=_text(fields["reason"]),
        found_ms=number(fields["found_ms"]),
        mended_ms=None if mended is None else number(mended),
    )


_TOPIC_ID_BYTES: Final = 16


def _put_aside(fields: Any) -> PutAside:
    return PutAside(
        _text(fields["node"]), _text(fields["chunk"]), _text(fields["reason"]),
        number(fields["at_ms"]),
    )  # fmt: skip


def _lost(value: Any) -> ChunkState:
    state = ChunkState(value)
    if state not in LOST:
        raise ValueError(f"{value!r} is no finding")
    return state


def _text(value: Any) -> str:
    return text(value, chars_max=_TEXT_MAX)
