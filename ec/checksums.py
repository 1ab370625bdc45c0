"""The two checksums of chunk files: XXH3-64 for a block, XXH3-128 for what binds many of them.

They find what disks, cables and bugs do; they are no protection against somebody who wants to
forge. Both are stored big-endian, as xxhash's canonical form has it.
"""

from __future__ import annotations

from typing import Final

import xxhash

from ec.geometry import BLOCK_BYTES, blocks_of
from ec.kernels.operands import Buffer

BLOCK_CHECKSUM_BYTES: Final = 8
DIGEST_BYTES: Final = 16


def block_checksums(payload: Buffer) -> bytes:
    """Return the checksums of the blocks that begin in a payload, or in a part of one.

    The part begins at a block and, unless it is the last one, ends at one.
    """
    view = memoryview(payload)
    assert view.itemsize == 1
    digest = xxhash.xxh3_64_digest
    if len(view) == BLOCK_BYTES:
        return digest(view)
    return b"".join(
        [digest(view[at : at + BLOCK_BYTES]) for at in range(0, len(view), BLOCK_BYTES)]
    )


def first_difference(payload: Buffer, checksums: Buffer) -> int | None:
    """Return the number of the first block whose checksum is not the expected one."""
    found = block_checksums(payload)
    assert len(found) == len(checksums) == blocks_of(len(payload)) * BLOCK_CHECKSUM_BYTES
    if found == checksums:
        return None
    return next(
        at // BLOCK_CHECKSUM_BYTES
        for at in range(0, len(found), BLOCK_CHECKSUM_BYTES)
        if found[at : at + BLOCK_CHECKSUM_BYTES] != checksums[at : at + BLOCK_CHECKSUM_BYTES]
    )


def digest(*parts: Buffer) -> str:
    """Return the XXH3-128 of all parts one behind the other: 32 hex digits."""
    assert parts
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part)
    return str(hasher.hexdigest())


def checksum(data: Buffer) -> int:
    """Return the XXH3-64 of some bytes."""
    return int(xxhash.xxh3_64_intdigest(data))
