"""What time it was in the last run, so that the next one can doubt a wall clock that jumped.

The file `clock` of the data directory: a state file (state_file, payload version 1), JSON in UTF-8:
{"time_ms": …, "boot_ms": …, "boot_id": "…"}, as `ClockNote` has them. Without it nothing is lost
but the doubt.
"""

from __future__ import annotations

import json
from typing import Any, Final

from logd.policy.clock_guard import ClockNote
from logd.storage.files import Files
from logd.storage.json_state import number, read_json_state
from logd.storage.state_file import write_state
from logd.units import KIB

CLOCK_NOTE_VERSION: Final = 1
_BYTES_MAX: Final = KIB


def write_clock_note(files: Files, path: str, note: ClockNote) -> None:
    """Replace the note; durable once this returns.

    Raises:
        OSError: a reader finds the old note or the new one.
    """
    assert note.boot_id
    fields = {"time_ms": note.time_ms, "boot_ms": note.boot_ms, "boot_id": note.boot_id}
    write_state(files, path, json.dumps(fields).encode(), version=CLOCK_NOTE_VERSION)


def read_clock_note(files: Files, path: str) -> ClockNote:
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
        what="note of the clock",
        limit_bytes=_BYTES_MAX,
        newest_version=CLOCK_NOTE_VERSION,
    )


def _note(fields: Any) -> ClockNote:
    return ClockNote(
        time_ms=number(fields["time_ms"]),
        boot_ms=number(fields["boot_ms"]),
        boot_id=str(fields["boot_id"]),
    )
