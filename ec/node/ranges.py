"""The Range of a GET, read: pure.

One range of bytes a request: `bytes=A-B`, `bytes=A-`, `bytes=-N`. Several ranges are refused, since
nobody needs them and their sum has no bound. Other units are ignored, as RFC 9110 (14.2) demands.
"""

from __future__ import annotations

import re
from typing import Final

from ec.errors import EcError
from ec.geometry import ByteRange

_RANGE: Final = re.compile(r"bytes=(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})", re.ASCII)


class RangeNotSatisfiableError(EcError):
    """There is no such range of the file; says how long that is."""

    def __init__(self, header: str, size: int) -> None:
        super().__init__(f"{header[:80]!r}: no range of a file of {size} bytes")
        self.size = size


def parse_range(header: str, size: int) -> ByteRange | None:
    """Return the bytes of a file of `size` bytes that a Range header means; None: all of them.

    Raises:
        RangeNotSatisfiableError: none of them, or it is not one range.
    """
    assert size > 0
    if not header.startswith("bytes="):
        return None
    found = _RANGE.fullmatch(header)
    if found is None or found["first"] == found["last"] == "":
        raise RangeNotSatisfiableError(header, size)
    if found["first"] == "":
        wanted = int(found["last"])
        start, end = max(0, size - wanted), size
    else:
        start = int(found["first"])
        end = min(size, int(found["last"]) + 1) if found["last"] else size
    if start >= end:
        raise RangeNotSatisfiableError(header, size)
    return ByteRange(start, end)
