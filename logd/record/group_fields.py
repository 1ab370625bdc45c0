"""The fields that keys and values of `__consumer_offsets` are made of: strings, bytes, lists.

Kafka writes them in two ways. Up to a message's first flexible version a length is a fixed number
of bytes (2 for strings, 4 for bytes and lists, -1 for null); from it on it is an unsigned varint
of length + 1 (0 for null), and each structure ends with tagged fields, which a reader skips where
it does not know them.

Every length is compared with the bytes that are left before it is used.

Source: Apache Kafka, "Protocol Primitive Types"; KIP-482 (flexible versions).
"""

from __future__ import annotations

import struct
from typing import Final

from logd.errors import CorruptRecordsError
from logd.units import INT16_MAX

INT16: Final = struct.Struct(">h")
INT32: Final = struct.Struct(">i")
INT64: Final = struct.Struct(">q")

_VARINT_BYTES_MAX: Final = 5
_UINT32_MAX: Final = 2**32 - 1


class FieldReader:
    """Reads one key or value from its first byte to its last.

    Args:
        flexible: lengths are varints, and structures end with tagged fields.
    """

    __slots__ = ("_data", "_flexible", "_position")

    def __init__(self, data: bytes, position: int, *, flexible: bool = False) -> None:
        self._data = data
        self._position = position
        self._flexible = flexible

    def int32(self) -> int:
        """Return the next four bytes as a signed number."""
        return self._number(INT32)

    def int64(self) -> int:
        """Return the next eight bytes as a signed number."""
        return self._number(INT64)

    def string(self) -> str:
        """Return a string that must be there.

        Raises:
            CorruptRecordsError: null, no UTF-8, or longer than what is left; so do the others.
        """
        text = self.nullable_string()
        if text is None:
            raise CorruptRecordsError(f"null at position {self._position}, where a string must be")
        return text

    def nullable_string(self) -> str | None:
        """Return a string, or None where it is null."""
        length = self._length(INT16)
        if length < 0:
            return None
        raw = self._take(length)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise CorruptRecordsError(f"a string is no UTF-8: {error}") from error

    def byte_string(self) -> bytes:
        """Return bytes that must be there."""
        length = self._length(INT32)
        if length < 0:
            raise CorruptRecordsError(f"null at position {self._position}, where bytes must be")
        return self._take(length)

    def list_length(self, entry_bytes_min: int) -> int:
        """Return how many entries follow, each of which takes `entry_bytes_min` at least."""
        assert entry_bytes_min > 0
        count = self._length(INT32)
        if not 0 <= count <= (len(self._data) - self._position) // entry_bytes_min:
            raise CorruptRecordsError(f"a list of {count} entries does not fit what is left")
        return count

    def end_structure(self) -> None:
        """Skip the tagged fields that end a structure of a flexible version."""
        if not self._flexible:
            return
        for _ in range(self._varint()):
            self._varint()  # the tag: whatever it is, we do not know it
            self._take(self._varint())

    def end(self) -> None:
        """Check that nothing follows."""
        rest = len(self._data) - self._position
        if rest:
            raise CorruptRecordsError(f"{rest} bytes follow the last field")

    def _length(self, fixed: struct.Struct) -> int:
        """Return a length, -1 for null."""
        length = self._varint() - 1 if self._flexible else self._number(fixed)
        if length < -1:
            raise CorruptRecordsError(f"a length of {length} cannot be")
        return length

    def _number(self, layout: struct.Struct) -> int:
        (number,) = layout.unpack(self._take(layout.size))
        return int(number)

    def _varint(self) -> int:
        value = 0
        for index in range(_VARINT_BYTES_MAX):
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value > _UINT32_MAX:
                    break
                return value
        raise CorruptRecordsError(f"the varint before position {self._position} has no end")

    def _take(self, size: int) -> bytes:
        start, end = self._position, self._position + size
        if end > len(self._data):
            left = len(self._data) - start
            raise CorruptRecordsError(f"{size} bytes at position {start}, but {left} are left")
        self._position = end
        return self._data[start:end]


def write_string(out: bytearray, text: str | None) -> None:
    """Append a string or null, not flexible.

    Raises:
        ValueError: longer than the format can hold.
    """
    if text is None:
        out += INT16.pack(-1)
        return
    raw = text.encode()
    if len(raw) > INT16_MAX:
        raise ValueError(f"a string of {len(raw)} bytes is longer than {INT16_MAX}")
    out += INT16.pack(len(raw))
    out += raw


def write_bytes(out: bytearray, raw: bytes) -> None:
    """Append bytes, not flexible."""
    out += INT32.pack(len(raw))
    out += raw
