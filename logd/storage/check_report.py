"""What a check of a data directory found: counts, damage, and notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from logd.errors import CorruptFileError, LogdError

Severity = Literal["damage", "note"]

FINDINGS_MAX = 10_000
"""More are counted, not listed: a directory that bad needs no longer list."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be.

    Attributes:
        severity: "damage": bytes are wrong or missing; "note": worth knowing, nothing is lost.
        path: the file or directory.
        position: where in the file, None where that means nothing.
        reason: what was found.
        first_offset, next_offset: the offsets concerned, if any can be named.
    """

    severity: Severity
    path: str
    position: int | None
    reason: str
    first_offset: int | None = None
    next_offset: int | None = None


@dataclass(slots=True)
class CheckReport:
    """The result of a check, filled while it goes on."""

    directory: str
    clean_stop: bool = False
    topics: int = 0
    partitions: int = 0
    files: int = 0
    bytes: int = 0
    batches: int = 0
    records: int = 0
    damage: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    not_listed: int = 0
    on_progress: Callable[[int], None] = lambda _: None

    def add(self, finding: Finding) -> None:
        """Add a finding to the list of its severity."""
        found = self.damage if finding.severity == "damage" else self.notes
        if len(found) < FINDINGS_MAX:
            found.append(finding)
        else:
            self.not_listed += 1

    def found_damage(self, path: str, position: int | None, reason: str) -> None:
        """Add damage to a file."""
        self.add(Finding("damage", path, position, reason))

    def found_error(self, path: str, error: LogdError | OSError) -> None:
        """Add the damage that kept a file from being read."""
        if isinstance(error, CorruptFileError):
            self.found_damage(error.path, error.position, error.reason)
        elif isinstance(error, OSError):
            self.found_damage(path, None, f"cannot be read: {error.strerror or error}")
        else:
            self.found_damage(path, None, str(error))

    def note(self, path: str, reason: str) -> None:
        """Add something worth knowing."""
        self.add(Finding("note", path, None, reason))

    def checked(self, size_bytes: int) -> None:
        """Count a file that was looked at as a whole."""
        assert size_bytes >= 0
        self.files += 1
        self.bytes += size_bytes

    @property
    def is_damaged(self) -> bool:
        """Whether any damage was found."""
        return bool(self.damage)
