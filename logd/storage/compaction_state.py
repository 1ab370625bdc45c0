"""How far a log is compacted: the state file `compaction` in a partition's directory.

A state file (state_file, payload version 1) whose payload is JSON in UTF-8:

    {"first_uncleaned_offset": 1200, "next_horizon_ms": 1700000000000}

`next_horizon_ms` is null where no tombstone waits. The file is written when a round's segments have
taken their places. Where it is missing, or older than the segments, all or more of the log counts
as dirty: the next round looks at records again that it need not have looked at, and comes to the
same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

from logd.storage.files import Files
from logd.storage.json_state import read_json_state
from logd.storage.layout import COMPACTION_NAME
from logd.storage.state_file import write_state
from logd.units import INT64_MAX, KIB

COMPACTION_VERSION: Final = 1
_BYTES_MAX: Final = 4 * KIB


@dataclass(frozen=True, slots=True)
class CompactionState:
    """What the rounds so far came to.

    Attributes:
        first_uncleaned_offset: below it, only the last record of each key is left, as of the last
            round; offsets may be missing there.
        next_horizon_ms: the earliest delete horizon below it, None if no tombstone is left there.
    """

    first_uncleaned_offset: int = 0
    next_horizon_ms: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no round can come to."""
        for value in (self.first_uncleaned_offset, self.next_horizon_ms):
            if value is not None and not (type(value) is int and 0 <= value <= INT64_MAX):
                raise ValueError(f"{value!r} is no offset and no time")

    def to_fields(self) -> dict[str, Any]:
        """Return the state as a JSON object's members."""
        return asdict(self)


NOTHING_COMPACTED: Final = CompactionState()


def write_compaction(files: Files, directory: str, state: CompactionState) -> None:
    """Write the state; durable once this returns.

    Raises:
        OSError: the old state, if any, is still there.
    """
    payload = json.dumps(state.to_fields(), separators=(",", ":")).encode()
    write_state(files, f"{directory}/{COMPACTION_NAME}", payload, version=COMPACTION_VERSION)


def read_compaction(files: Files, directory: str) -> CompactionState:
    """Return the state; `NOTHING_COMPACTED` where there is none.

    Raises:
        CorruptFileError: damaged, or it says what cannot be. UnsupportedFormatError: a newer
        version. OSError: it cannot be read.
    """
    path = f"{directory}/{COMPACTION_NAME}"
    assert directory
    try:
        return read_json_state(
            files,
            path,
            lambda fields: CompactionState(**fields),
            what="state of a compaction",
            limit_bytes=_BYTES_MAX,
            newest_version=COMPACTION_VERSION,
        )
    except FileNotFoundError:
        return NOTHING_COMPACTED
