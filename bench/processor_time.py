"""CPU time of a process, in user space and in the kernel apart.

What the kernel does for whoever writes files (copies, pages, block requests) is paid by anyone who
writes as many bytes; what user space does is one's own. So rows that move whole files say both, and
the ceiling's beside them. Writing back in the kernel's own threads is nobody's, on both sides.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

GIB: Final = 1024 * 1024 * 1024
# Of an answer, and of a window's notes.
USER_S: Final = "user_s"
SYSTEM_S: Final = "system_s"


@dataclass(frozen=True, slots=True)
class ProcessorTime:
    """Seconds that this process, with all its threads, has used."""

    user_s: float
    system_s: float

    @classmethod
    def now(cls) -> ProcessorTime:
        """Return what was used so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(usage.ru_utime, usage.ru_stime)

    def spent(self) -> dict[str, float]:
        """Return what was used since, as fields of an answer."""
        now = ProcessorTime.now()
        assert now.user_s >= self.user_s
        return {USER_S: now.user_s - self.user_s, SYSTEM_S: now.system_s - self.system_s}


def per_gib(notes: Sequence[Mapping[str, Any]], size_bytes: int) -> dict[str, float] | None:
    """Return the seconds a GiB of some windows together; None where they do not say."""
    if not notes or not size_bytes or any(USER_S not in each for each in notes):
        return None
    return {
        name: round(sum(each[field] for each in notes) / size_bytes * GIB, 3)
        for name, field in (("user", USER_S), ("system", SYSTEM_S))
    }
