"""What widely used clients get wrong on the wire, and how it is read all the same.

Kafka's own parser ignores bytes behind a request, so such mistakes live on unnoticed. Ours refuses
them; each exception stands here, as narrow as it can be, with who needs it.
"""

from __future__ import annotations

from typing import Final

_METADATA: Final = 3
_FIRST_FLEXIBLE_METADATA: Final = 9
# Four bytes for a null array where the version has one, then two booleans and no tags.
_METADATA_ALL_BYTES: Final = 7


def repair(api_key: int, version: int, frame: bytes, body_position: int) -> bytes:
    """Return the request's frame as it was meant.

    librdkafka (seen in 2.16.0) asks for the metadata of all topics with a null array of four zero
    bytes, of which a flexible version has only the first.
    """
    if (
        api_key == _METADATA
        and version >= _FIRST_FLEXIBLE_METADATA
        and len(frame) - body_position == _METADATA_ALL_BYTES
        and frame.startswith(b"\0\0\0\0", body_position)
        and frame.endswith(b"\0")
    ):
        return frame[:body_position] + frame[body_position + 3 :]
    return frame
