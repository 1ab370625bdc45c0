"""Profiles: into how many data and parity chunks a segment is coded.

`4+2` is always data then parity. The bounds are those of what is tested (every loss pattern of each
profile) and of the matrix, which has rows and columns to spare (`ec.matrix`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ec.errors import ProfileError

DATA_CHUNKS_MIN: Final = 2
DATA_CHUNKS_MAX: Final = 16
PARITY_CHUNKS_MIN: Final = 1
PARITY_CHUNKS_MAX: Final = 4
CHUNKS_MAX: Final = DATA_CHUNKS_MAX + PARITY_CHUNKS_MAX

_TEXT = re.compile(r"(?P<k>[1-9][0-9]?)\+(?P<m>[1-9])", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Profile:
    """k data chunks and m parity chunks.

    Raises:
        ProfileError: outside 2+1 to 16+4.
    """

    k: int
    m: int

    def __post_init__(self) -> None:
        if not DATA_CHUNKS_MIN <= self.k <= DATA_CHUNKS_MAX:
            bounds = f"{DATA_CHUNKS_MIN} to {DATA_CHUNKS_MAX}"
            raise ProfileError(f"{self.k}+{self.m}: data chunks must be {bounds}")
        if not PARITY_CHUNKS_MIN <= self.m <= PARITY_CHUNKS_MAX:
            bounds = f"{PARITY_CHUNKS_MIN} to {PARITY_CHUNKS_MAX}"
            raise ProfileError(f"{self.k}+{self.m}: parity chunks must be {bounds}")

    @classmethod
    def parse(cls, text: str) -> Profile:
        """Return the profile that `k+m` stands for.

        Raises:
            ProfileError: it stands for none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ProfileError(f"{text!r} is no profile; one looks like 4+2")
        return cls(k=int(found["k"]), m=int(found["m"]))

    @property
    def chunks(self) -> int:
        """How many chunks there are: k + m."""
        return self.k + self.m

    def __str__(self) -> str:
        return f"{self.k}+{self.m}"
