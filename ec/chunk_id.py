"""What names a chunk: its segment, the encoding that made it, and its index.

    <topic id>-<partition>-<base offset>-g<generation>-<encoding>-<index>.chunk

The encoding's uuid is a part of the name, so the chunks of two encodings never meet under one name:
not in a directory, not in a request, not in a cache. A name is parsed and checked whole before
anything is opened by it; it never is a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from ec.errors import ChunkNameError
from ec.profile import CHUNKS_MAX

SUFFIX: Final = ".chunk"
PARTITION_MAX: Final = 2**31 - 1
OFFSET_MAX: Final = 2**63 - 1
GENERATION_MAX: Final = 2**53 - 1  # Exact in every JSON reader.

_HEX_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAME = re.compile(
    r"(?P<topic>[0-9a-f]{32})-(?P<partition>0|[1-9][0-9]{0,9})-(?P<base>[0-9]{20})"
    r"-g(?P<generation>[1-9][0-9]{0,15})-(?P<encoding>[0-9a-f]{32})-(?P<index>[0-9]{2})\.chunk",
    re.ASCII,
)
NAME_CHARACTERS_MAX: Final = 32 + 1 + 10 + 1 + 20 + 2 + 16 + 1 + 32 + 1 + 2 + len(SUFFIX)


def is_hex_id(text: str) -> bool:
    """Return whether the text is a 128-bit id as we write them: 32 small hex digits."""
    return _HEX_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, order=True)
class ChunkId:
    """Names one chunk of one encoding of one segment.

    Attributes:
        topic_id, encoding: 32 hex digits each.
        base_offset: the segment's first offset.
        generation: number of the encoding, from 1; the catalog gives it out.
        index: 0 to k-1 are data chunks, k to k+m-1 parity chunks.

    Raises:
        ChunkNameError: a part is out of its bounds.
    """

    topic_id: str
    partition: int
    base_offset: int
    generation: int
    encoding: str
    index: int

    def __post_init__(self) -> None:
        if not is_hex_id(self.topic_id) or not is_hex_id(self.encoding):
            raise ChunkNameError("topic id and encoding must be 32 hex digits")
        if not 0 <= self.partition <= PARTITION_MAX or not 0 <= self.base_offset <= OFFSET_MAX:
            raise ChunkNameError(f"partition {self.partition}, base offset {self.base_offset}")
        if not 1 <= self.generation <= GENERATION_MAX or not 0 <= self.index < CHUNKS_MAX:
            raise ChunkNameError(f"generation {self.generation}, index {self.index}")

    @classmethod
    def parse(cls, name: str) -> ChunkId:
        """Return the id that a file name stands for.

        Raises:
            ChunkNameError: it stands for none.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise ChunkNameError(f"{name[:NAME_CHARACTERS_MAX]!r} is no name of a chunk")
        return cls(
            topic_id=found["topic"],
            partition=int(found["partition"]),
            base_offset=int(found["base"]),
            generation=int(found["generation"]),
            encoding=found["encoding"],
            index=int(found["index"]),
        )

    @property
    def name(self) -> str:
        """The file name."""
        return (
            f"{self.topic_id}-{self.partition}-{self.base_offset:020d}"
            f"-g{self.generation}-{self.encoding}-{self.index:02d}{SUFFIX}"
        )

    def sibling(self, index: int) -> ChunkId:
        """Return the id of another chunk of the same encoding."""
        assert 0 <= index < CHUNKS_MAX
        return replace(self, index=index)

    def __str__(self) -> str:
        return self.name
