"""How far scrub has come, so that a restart goes on where it stopped.

The file `scrub` of the data directory: a state file (state_file, payload version 1), JSON in UTF-8:
{"is_paused": …, "cursors": {place: {"start", "at", "began_ms", "previous_ms", "verified_bytes",
"rounds"}}}, as `ScrubCursor` has them. A place is a storage node's name; the empty one is this
server's own sealed segments. Without the file, or with one that cannot be read, every place begins
a round anew, and nothing is lost but time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from logd.policy.cold.scrub_plan import ScrubCursor
from logd.storage.files import Files
from logd.storage.json_state import number, read_json_state, text
from logd.storage.state_file import write_state
from logd.units import MIB

SCRUB_NOTE_VERSION: Final = 1
BYTES_MAX: Final = MIB
_TEXT_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class ScrubNote:
    """What is kept of scrub.

    Attributes:
        cursors: by place.
    """

    is_paused: bool = False
    cursors: Mapping[str, ScrubCursor] = field(default_factory=dict)


def write_scrub_note(files: Files, path: str, note: ScrubNote) -> None:
    """Replace the note; durable once this returns.

    Raises:
        OSError: a reader finds the old note or the new one.
    """
    cursors = {
        place: {
            "start": each.start,
            "at": each.at,
            "began_ms": each.began_ms,
            "previous_ms": each.previous_ms,
            "verified_bytes": each.verified_bytes,
            "rounds": each.rounds,
        }
        for place, each in note.cursors.items()
    }
    payload = json.dumps({"is_paused": note.is_paused, "cursors": cursors}).encode()
    assert len(payload) <= BYTES_MAX
    write_state(files, path, payload, version=SCRUB_NOTE_VERSION)


def read_scrub_note(files: Files, path: str) -> ScrubNote:
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
        what="note of scrub",
        limit_bytes=BYTES_MAX,
        newest_version=SCRUB_NOTE_VERSION,
    )


def _note(fields: Any) -> ScrubNote:
    cursors = {str(place): _cursor(each) for place, each in fields["cursors"].items()}
    return ScrubNote(bool(fields["is_paused"]), cursors)


def _cursor(fields: Any) -> ScrubCursor:
    at, previous = fields["at"], fields["previous_ms"]
    return ScrubCursor(
        start=_text(fields["start"]),
        at=None if at is None else _text(at),
        began_ms=number(fields["began_ms"]),
        previous_ms=None if previous is None else number(previous),
        verified_bytes=number(fields["verified_bytes"]),
        rounds=number(fields["rounds"]),
    )


def _text(value: Any) -> str:
    return text(value, chars_max=_TEXT_MAX)
