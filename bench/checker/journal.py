"""The journal: one JSON line an event, written by the clients, read by the judge.

Each process writes a file of its own and appends only. Times are of the machine's monotonic clock,
which all processes share. A record is known by its key, which says who sent it where and as which
in sequence, and by the digest of all its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, TextIO

Outcome = Literal["ok", "info"]
"""How an attempt ended: acknowledged, or nobody knows (an error or no answer at all)."""


UNKNOWN_OFFSET: Final = -1
"""The offset of a record that was not acknowledged, or acknowledged without saying where."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A producer is about to send a record."""

    key: str
    producer: str  # one incarnation: order holds within it
    partition: int
    sequence: int
    digest: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What a producer was told about a record; `offset` may be UNKNOWN_OFFSET."""

    key: str
    outcome: Outcome
    offset: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A reader was shown a record. Readers are named `tail…` or `final…`."""

    reader: str
    partition: int
    offset: int
    key: str
    digest: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Watermark:
    """A reader learnt a partition's high watermark."""

    reader: str
    partition: int
    offset: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class ReaderError:
    """A reader was given an error that is not a lost connection."""

    reader: str
    error: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Killed:
    """The server was killed."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The server was ready again, so many seconds after its start."""

    seconds: float
    at_ns: int


@dataclass(frozen=True, slots=True)
class Stalled:
    """A producer got no acknowledgement for so many seconds, although the server was ready."""

    producer: str
    seconds: float
    at_ns: int


Event = Sent | Settled | Seen | Watermark | ReaderError | Killed | Ready | Stalled

KINDS: Final[dict[str, type[Event]]] = {
    "sent": Sent,
    "settled": Settled,
    "seen": Seen,
    "watermark": Watermark,
    "reader-error": ReaderError,
    "killed": Killed,
    "ready": Ready,
    "stalled": Stalled,
}
_NAMES: Final = {kind: name for name, kind in KINDS.items()}


class JournalError(Exception):
    """A line of a journal is no event: a client was cut off, or the file is something else."""


class JournalWriter:
    """Appends events to one file."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, event: Event) -> None:
        """Append one event."""
        self._file.write(json.dumps({"t": _NAMES[type(event)], **asdict(event)}) + "\n")

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Write the rest, and close the file."""
        self._file.close()


def read_journals(paths: Iterable[Path]) -> Iterator[Event]:
    """Yield the events of all files, file by file.

    Raises:
        JournalError: a line is not an event, with file and line number.
    """
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                yield _event(line, f"{path}:{number}")


def _event(line: str, place: str) -> Event:
    try:
        fields = json.loads(line)
        return KINDS[fields.pop("t")](**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(f"{place}: not an event: {line[:100]!r}") from error
