"""The building blocks of Kafka messages: bounded readers, writers, and the base of message classes.

The generated modules in `wire.messages` are lists of calls to what is here, plus `struct`.

Readers take the buffer, a position, and the end of the frame (the buffer may go on behind it), and
return the value with the position after it. What they promise about hostile bytes:

* Every failure is a MalformedRequestError once it leaves `decode_body`.
* A varint has at most five bytes and fits a signed 32-bit integer.
* A length or count is compared with the bytes that are left before anything is allocated for it.
* Elements cost more memory and time than the bytes they come from: a message has a budget of them.
* The position only grows. So a fixed-size field read across the end, where the buffer goes on, is
  harmless: no later length fits, and `decode_body` refuses a message that does not end at the end.
* Null is refused where the schema does not allow it, and so is a string that is not UTF-8.

Two encodings exist. The legacy one has 16- or 32-bit lengths, -1 for null. The compact one of
"flexible" versions has varints of length + 1, 0 for null, and a section of tagged fields behind
every struct.

Writers return bytes. They trust their arguments, which are ours.

Source: the Apache Kafka protocol guide; KIP-482 for compact types and tagged fields.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence, Sized
from typing import Any, Final, TypeVar

from logd.errors import MalformedRequestError
from logd.units import INT32_MAX

Buffer = bytes | bytearray | memoryview

NO_UUID: Final = bytes(16)

# The default of array arguments, told apart by identity: a message gets a list of its own.
EMPTY: Final[list[Any]] = []

# Makes an instance without running __init__: a decoder sets every field anyway.
new: Final = object.__new__

# Array elements in one message. The partitions of a large server fit. A frame of 100 MiB that is
# nothing but empty structs would otherwise become 4 GB of objects, and hold up the loop for long.
ELEMENT_COUNT_MAX: Final = 100_000

# Tagged fields in one struct. The schemas know of four at most.
TAG_COUNT_MAX: Final = 32

_INT16: Final = struct.Struct(">h")
_INT32: Final = struct.Struct(">i")
_VARINT_BITS_MAX: Final = 35
_COMPACT_NULL: Final = b"\x00"
_NULL16: Final = _INT16.pack(-1)
_NULL32: Final = _INT32.pack(-1)

T = TypeVar("T")


class Message:
    """The base of all generated classes: slots, equality by fields, a readable repr.

    They are not dataclasses because making 200 of those takes 100 ms at each start.
    """

    __slots__: tuple[str, ...] = ()
    __hash__ = None  # type: ignore[assignment]  # Mutable, so not hashable; as dataclasses do it.

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


def decode_body(
    decode: Callable[[Buffer, int, int, int], tuple[T, int]],
    buffer: Buffer,
    version: int,
    position: int,
    end: int,
) -> T:
    """Return the message that fills the buffer from `position` to `end` exactly.

    Raises:
        MalformedRequestError: whatever else the bytes are.
    """
    assert 0 <= position <= end <= len(buffer)
    try:
        message, stop = decode(buffer, version, position, end)
    except UnicodeDecodeError as error:
        raise MalformedRequestError(f"a string is not UTF-8: {error.reason}") from None
    except (struct.error, IndexError):
        raise MalformedRequestError(
            f"the message ends early: {end - position} bytes are not enough"
        ) from None
    if stop != end:
        raise MalformedRequestError(
            f"the message takes {stop - position} of {end - position} bytes"
        )
    return message


# --- Reading: numbers and counts ----------------------------------------------------------------


def read_varint(buffer: Buffer, position: int) -> tuple[int, int]:
    """Return the unsigned varint at `position`."""
    value = buffer[position]
    position += 1
    if value < 0x80:
        return value, position
    value &= 0x7F
    for shift in range(7, _VARINT_BITS_MAX, 7):
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > INT32_MAX:
                break
            return value, position
    raise MalformedRequestError(f"the varint before position {position} is too large")


def read_compact_count(buffer: Buffer, position: int, end: int, budget: int) -> tuple[int, int]:
    """Return the number of elements of a compact array; an element takes at least a byte."""
    count = buffer[position]
    position += 1
    if count > 0x7F:
        count, position = read_varint(buffer, position - 1)
    if not 0 < count <= end - position + 1:
        raise _bad_length(count - 1, position, end)
    if count - 1 > budget:
        raise _too_many(count - 1, position)
    return count - 1, position


def read_compact_nullable_count(
    buffer: Buffer, position: int, end: int, budget: int
) -> tuple[int, int]:
    """Return the number of elements of a compact array, -1 if it is null."""
    if buffer[position] == 0:
        return -1, position + 1
    return read_compact_count(buffer, position, end, budget)


def read_count(buffer: Buffer, position: int, end: int, budget: int) -> tuple[int, int]:
    """Return the number of elements of a legacy array; an element takes at least a byte."""
    (count,) = _INT32.unpack_from(buffer, position)
    position += 4
    if not 0 <= count <= end - position:
        raise _bad_length(count, position, end)
    if count > budget:
        raise _too_many(count, position)
    return count, position


def read_nullable_count(buffer: Buffer, position: int, end: int, budget: int) -> tuple[int, int]:
    """Return the number of elements of a legacy array, -1 if it is null."""
    (count,) = _INT32.unpack_from(buffer, position)
    if count == -1:
        return -1, position + 4
    return read_count(buffer, position, end, budget)


def read_int32s(buffer: Buffer, position: int, end: int, count: int) -> tuple[list[int], int]:
    """Return `count` 32-bit integers."""
    stop = position + 4 * count
    if stop > end:
        raise _bad_length(4 * count, position, end)
    return list(struct.unpack_from(f">{count}i", buffer, position)), stop


def _too_many(count: int, position: int) -> MalformedRequestError:
    return MalformedRequestError(
        f"{count} elements before position {position}: a message has {ELEMENT_COUNT_MAX} at most"
    )


def _bad_length(length: int, position: int, end: int) -> MalformedRequestError:
    if length == -1:
        return MalformedRequestError(f"null before position {position} where none is allowed")
    return MalformedRequestError(
        f"a length of {length} before position {position}, {max(end - position, 0)} bytes are left"
    )


# --- Reading: strings and bytes -----------------------------------------------------------------


def _compact_span(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return where compact bytes start and stop; they are not null."""
    size = buffer[position]
    position += 1
    if size > 0x7F:
        size, position = read_varint(buffer, position - 1)
    stop = position + size - 1
    if size == 0 or stop > end:
        raise _bad_length(size - 1, position, end)
    return position, stop


def _legacy_span(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return where bytes with a 32-bit length start and stop; they are not null."""
    (size,) = _INT32.unpack_from(buffer, position)
    position += 4
    stop = position + size
    if size < 0 or stop > end:
        raise _bad_length(size, position, end)
    return position, stop


def read_compact_string(buffer: Buffer, position: int, end: int) -> tuple[str, int]:
    """Return a compact string."""
    size = buffer[position]
    position += 1
    if size > 0x7F:
        size, position = read_varint(buffer, position - 1)
    stop = position + size - 1
    if size == 0 or stop > end:
        raise _bad_length(size - 1, position, end)
    return str(buffer[position:stop], "utf-8"), stop


def read_compact_nullable_string(buffer: Buffer, position: int, end: int) -> tuple[str | None, int]:
    """Return a compact string or None."""
    if buffer[position] == 0:
        return None, position + 1
    return read_compact_string(buffer, position, end)


def read_string(buffer: Buffer, position: int, end: int) -> tuple[str, int]:
    """Return a string with a 16-bit length."""
    (size,) = _INT16.unpack_from(buffer, position)
    position += 2
    stop = position + size
    if size < 0 or stop > end:
        raise _bad_length(size, position, end)
    return str(buffer[position:stop], "utf-8"), stop


def read_nullable_string(buffer: Buffer, position: int, end: int) -> tuple[str | None, int]:
    """Return a string with a 16-bit length, or None."""
    if buffer[position] == 0xFF and buffer[position + 1] == 0xFF:
        return None, position + 2
    return read_string(buffer, position, end)


def read_compact_bytes(buffer: Buffer, position: int, end: int) -> tuple[bytes, int]:
    """Return a copy of compact bytes."""
    position, stop = _compact_span(buffer, position, end)
    return bytes(buffer[position:stop]), stop


def read_compact_nullable_bytes(
    buffer: Buffer, position: int, end: int
) -> tuple[bytes | None, int]:
    """Return a copy of compact bytes, or None."""
    if buffer[position] == 0:
        return None, position + 1
    return read_compact_bytes(buffer, position, end)


def read_bytes(buffer: Buffer, position: int, end: int) -> tuple[bytes, int]:
    """Return a copy of bytes with a 32-bit length."""
    position, stop = _legacy_span(buffer, position, end)
    return bytes(buffer[position:stop]), stop


def read_nullable_bytes(buffer: Buffer, position: int, end: int) -> tuple[bytes | None, int]:
    """Return a copy of bytes with a 32-bit length, or None."""
    if _INT32.unpack_from(buffer, position)[0] == -1:
        return None, position + 4
    return read_bytes(buffer, position, end)


def read_compact_records(buffer: Buffer, position: int, end: int) -> tuple[memoryview | None, int]:
    """Return the place of compact records in the buffer, not a copy; or None."""
    size = buffer[position]
    position += 1
    if size == 0:
        return None, position
    if size > 0x7F:
        size, position = read_varint(buffer, position - 1)
    stop = position + size - 1
    if stop > end:
        raise _bad_length(size - 1, position, end)
    return memoryview(buffer)[position:stop], stop


def read_records(buffer: Buffer, position: int, end: int) -> tuple[memoryview | None, int]:
    """Return the place of records with a 32-bit length in the buffer, not a copy; or None."""
    (size,) = _INT32.unpack_from(buffer, position)
    position += 4
    if size == -1:
        return None, position
    stop = position + size
    if size < 0 or stop > end:
        raise _bad_length(size, position, end)
    return memoryview(buffer)[position:stop], stop


# --- Reading: tagged fields ---------------------------------------------------------------------


def skip_tags(buffer: Buffer, position: int, end: int) -> int:
    """Return the position after a section of tagged fields, none of which is known."""
    if buffer[position] == 0:
        return position + 1
    count, position = read_tag_count(buffer, position)
    for _ in range(count):
        _, _, position = read_tag(buffer, position, end)
    return position


def read_tag_count(buffer: Buffer, position: int) -> tuple[int, int]:
    """Return the number of tagged fields of a struct."""
    count, position = read_varint(buffer, position)
    if count > TAG_COUNT_MAX:
        raise MalformedRequestError(
            f"{count} tagged fields before position {position}, {TAG_COUNT_MAX} are allowed"
        )
    return count, position


def read_tag(buffer: Buffer, position: int, end: int) -> tuple[int, int, int]:
    """Return a tagged field's tag, and where its value starts and stops."""
    tag, position = read_varint(buffer, position)
    size, position = read_varint(buffer, position)
    if size > end - position:
        raise _bad_length(size, position, end)
    return tag, position, position + size


def mark_tag(seen: int, tag: int) -> int:
    """Return the bit set of known tags seen so far, with `tag` added; once is the limit."""
    bit = 1 << tag
    if seen & bit:
        raise MalformedRequestError(f"tag {tag} occurs twice")
    return seen | bit


def check_tag_end(position: int, stop: int) -> None:
    """Refuse a known tagged field whose value does not fill its size exactly."""
    if position != stop:
        raise MalformedRequestError(
            f"a tagged field ends at position {position}, its size says {stop}"
        )


# --- Writing ------------------------------------------------------------------------------------


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT_VARINTS: Final = tuple(bytes([value]) for value in range(0x80))


def varint(value: int) -> bytes:
    """Return an unsigned varint."""
    return _SHORT_VARINTS[value] if value < 0x80 else _encode_varint(value)


def compact_size(value: Sized) -> bytes:
    """Return the length that precedes compact bytes or the elements of a compact array."""
    size = len(value) + 1
    return _SHORT_VARINTS[size] if size < 0x80 else _encode_varint(size)


def compact_nullable_size(value: Sized | None) -> bytes:
    """Return the length that precedes compact bytes or elements, or that says null."""
    return _COMPACT_NULL if value is None else compact_size(value)


def size(value: Sized) -> bytes:
    """Return the 32-bit length that precedes bytes or the elements of an array."""
    return _INT32.pack(len(value))


def nullable_size(value: Sized | None) -> bytes:
    """Return the 32-bit length that precedes bytes or elements, or that says null."""
    return _NULL32 if value is None else _INT32.pack(len(value))


def compact_string(value: str) -> bytes:
    """Return a compact string."""
    data = value.encode()
    size = len(data) + 1
    return (_SHORT_VARINTS[size] if size < 0x80 else _encode_varint(size)) + data


def compact_nullable_string(value: str | None) -> bytes:
    """Return a compact string or null."""
    return _COMPACT_NULL if value is None else compact_string(value)


def string(value: str) -> bytes:
    """Return a string with a 16-bit length. Longer ones are a bug of the caller: struct.error."""
    data = value.encode()
    return _INT16.pack(len(data)) + data


def nullable_string(value: str | None) -> bytes:
    """Return a string with a 16-bit length, or null."""
    return _NULL16 if value is None else string(value)


# Lists of broker ids are in every partition of a Metadata answer, and short: one pack for each.
_SHORT_COMPACT_INT32S: Final = tuple(struct.Struct(f">B{count}i") for count in range(16))
_SHORT_INT32S: Final = tuple(struct.Struct(f">i{count}i") for count in range(16))


def compact_int32s(values: Sequence[int]) -> bytes:
    """Return a compact array of 32-bit integers."""
    count = len(values)
    if count < len(_SHORT_COMPACT_INT32S):
        return _SHORT_COMPACT_INT32S[count].pack(count + 1, *values)
    return varint(count + 1) + struct.pack(f">{count}i", *values)


def int32s(values: Sequence[int]) -> bytes:
    """Return an array of 32-bit integers."""
    count = len(values)
    if count < len(_SHORT_INT32S):
        return _SHORT_INT32S[count].pack(count, *values)
    return struct.pack(f">i{count}i", count, *values)


def tagged_field(tag: int, parts: Sequence[Buffer]) -> bytes:
    """Return a tagged field whose value is `parts` joined."""
    value = b"".join(parts)
    return varint(tag) + varint(len(value)) + value


def tag_section(fields: Sequence[bytes]) -> bytes:
    """Return the section of tagged fields behind a struct; `fields` go in ascending order."""
    return varint(len(fields)) + b"".join(fields)
