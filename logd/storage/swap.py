"""The replacement of n segments by m, with one commit point."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplaceResult:
    """What `Log.replace_segments` did.

    Attributes:
        unlink_paths: files that were renamed out of the log, to be unlinked when nobody reads them.
    """

    unlink_paths: tuple[str, ...]
