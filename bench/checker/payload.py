"""Records that can be made again from their key: so any byte of what comes back can be checked."""

from __future__ import annotations

import hashlib
from typing import Final

VALUE_BYTES_MIN: Final = 20
VALUE_BYTES_SPAN: Final = 1200


def key_of(run: str, producer: str, partition: int, sequence: int) -> str:
    """Return the key of a record: it names run, producer incarnation, partition and sequence."""
    return f"{run}/{producer}/{partition}/{sequence}"


def value_of(key: str) -> bytes:
    """Return the value that belongs to `key`: pseudo-random bytes, of a pseudo-random length."""
    length = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "big")
    return hashlib.shake_128(key.encode()).digest(VALUE_BYTES_MIN + length % VALUE_BYTES_SPAN)


def digest_of(key: bytes, value: bytes) -> str:
    """Return a digest of all bytes of a record; the lengths keep key and value apart."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (key, value):
        digest.update(len(part).to_bytes(4, "big") + part)
    return digest.hexdigest()
