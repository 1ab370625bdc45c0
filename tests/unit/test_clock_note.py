"""storage.clock_note: what the last run said of the time, or a typed error."""

from __future__ import annotations

from pathlib import Path

import pytest

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.policy.clock_guard import ClockNote
from logd.storage.clock_note import read_clock_note, write_clock_note
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files
from logd.storage.state_file import write_state

NOTE = ClockNote(1_700_000_000_000, 5_000_000, "boot")


def test_what_was_written_is_read(directory: str) -> None:
    """The newest note counts."""
    path = f"{directory}/clock"
    write_clock_note(Files(), path, ClockNote(1, 2, "old"))
    write_clock_note(Files(), path, NOTE)
    assert read_clock_note(Files(), path) == NOTE


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"null", b'{"time_ms": 1, "boot_ms": 1}', b"[" * 900,
     b'{"time_ms": -1, "boot_ms": 1, "boot_id": "a"}',
     b'{"time_ms": 1.5, "boot_ms": 1, "boot_id": "a"}',
     b'{"time_ms": true, "boot_ms": 1, "boot_id": "a"}',
     b'{"time_ms": 9223372036854775808, "boot_ms": 1, "boot_id": "a"}'],
)  # fmt: skip
def test_what_cannot_be_is_refused(directory: str, payload: bytes) -> None:
    """Intact, but no note: named as corrupt, never guessed at."""
    path = f"{directory}/clock"
    write_state(Files(), path, payload, version=1)
    with pytest.raises(CorruptFileError, match="clock"):
        read_clock_note(Files(), path)


def test_a_newer_version_is_refused(directory: str) -> None:
    """A newer server's note is not half understood."""
    path = f"{directory}/clock"
    write_state(Files(), path, b"{}", version=2)
    with pytest.raises(UnsupportedFormatError):
        read_clock_note(Files(), path)


def open_directory(path: str) -> DataDirectory:
    return DataDirectory.open(Files(), path, boot_id="boot", pid=1)


def test_the_next_run_reads_the_note(directory: str) -> None:
    """A data directory hands the note on; a new one has none."""
    first = open_directory(directory)
    assert first.last_clock is None
    first.write_clock_note(NOTE)
    first.close()
    assert open_directory(directory).last_clock == NOTE


def test_a_damaged_note_is_a_finding_and_no_obstacle(directory: str) -> None:
    """The start goes on without it, and says so."""
    open_directory(directory).close()
    Path(directory, "clock").write_bytes(b"rubbish")
    opened = open_directory(directory)
    assert opened.last_clock is None
    assert any("clock" in problem for problem in opened.problems)
