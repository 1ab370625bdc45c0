"""The kernel in plain Python: complete, and fast enough for a slow disk or network.

Bytes become one long integer, where `^` and `&` run at memory speed. A row is computed for all its
sources at once. Let h be one half in the field, that is 1/x. The powers 1, h, ..., h^7 are a basis,
so every factor is a sum of some of them, and with S_i the xor of the sources whose factor has h^i

    target = S_0 + h * (S_1 + h * (S_2 + ... h * S_7))

Halving is cheap in integers of many bytes side by side: where a byte's lowest bit is set, the
polynomial (0x11d) is added, which clears that bit; then every byte is read one bit further up.
Nothing is shifted but the next S_i, and 7 halvings serve any number of sources. Which sources each
S_i is made of is worked out once for a row. Rows with at most two factors other than 0 and 1 are
quicker by table (`bytes.translate`), the all-ones row is xor.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Final

from ec.field import POLYNOMIAL, inverse, multiply, times_table
from ec.kernels.operands import Buffer, WritableBuffer, check_counts, check_length
from ec.matrix import Rows

# Long integers of this size, those of all sources, stay in the processor's second cache; shorter
# ones cost more calls.
PIECE_BYTES: Final = 16 * 1024
_TABLE_FACTORS_MAX: Final = 2
# Without the lowest bit: that one would carry into the highest bit of the byte before.
_REDUCTION: Final = POLYNOMIAL & ~1
# For the last argument of int.to_bytes.
_ORDER: Final = "little"


class PortableKernel:
    """See the module."""

    name = "portable"
    origin = "Python"

    def multiply(
        self, rows: Rows, sources: Sequence[Buffer], targets: Sequence[WritableBuffer]
    ) -> None:
        """See `Kernel`."""
        check_counts(rows, sources, targets)
        views = [_view(source) for source in sources]
        outputs = [_view(target) for target in targets]
        length = check_length([len(view) for view in (*views, *outputs)])
        if any(output.readonly for output in outputs):
            raise BufferError("a target is read-only")
        for start in range(0, length, PIECE_BYTES):
            size = min(PIECE_BYTES, length - start)
            pieces = [int.from_bytes(view[start : start + size], _ORDER) for view in views]
            for row, output in zip(rows, outputs, strict=True):
                output[start : start + size] = _combine(row, pieces, size)


def _view(buffer: Buffer) -> memoryview:
    """Return the buffer as bytes side by side.

    Raises:
        BufferError: it is none.
    """
    view = memoryview(buffer)
    if not view.c_contiguous:
        raise BufferError("a buffer is not contiguous")
    return view.cast("B")


def _combine(row: bytes, pieces: Sequence[int], size: int) -> bytes:
    assert len(row) == len(pieces)
    others = sum(factor > 1 for factor in row)
    if others <= _TABLE_FACTORS_MAX:
        total = 0
        for factor, piece in zip(row, pieces, strict=True):
            if factor == 1:
                total ^= piece
            elif factor:
                table = times_table(factor)
                total ^= int.from_bytes(piece.to_bytes(size, _ORDER).translate(table), _ORDER)
        return total.to_bytes(size, _ORDER)
    return _by_halving(row, pieces, size)


def _by_halving(row: bytes, pieces: Sequence[int], size: int) -> bytes:
    """Return the row's sum, the way the module says; `shift` is how far up bytes are read."""
    lowest = _lowest_bits(size)
    total = 0
    for shift, chosen in enumerate(_sums(row)):
        if chosen:
            addend = pieces[chosen[0]]
            for at in chosen[1:]:
                addend ^= pieces[at]
            total = total ^ addend << shift if shift else addend
        if shift < 7:
            odd = total & lowest[shift]
            total ^= odd ^ (odd * _REDUCTION)
    return (total >> 7).to_bytes(size, _ORDER)


@lru_cache(maxsize=1024)
def _sums(row: bytes) -> tuple[tuple[int, ...], ...]:
    """Return which sources S_7 is the sum of, then those of S_6, down to S_0."""
    digits = [_halves(factor) for factor in row]
    assert digits
    return tuple(
        tuple(at for at, digit in enumerate(digits) if digit >> power & 1)
        for power in range(7, -1, -1)
    )


@cache
def _halves(factor: int) -> int:
    """Return a number whose bit i says whether the factor has h^i in it."""
    assert 0 <= factor <= 255
    # Times x^7, h^i becomes x^(7-i), and the ordinary bits are the digits, backwards.
    scaled = multiply(factor, 1 << 7)
    assert multiply(scaled, inverse(1 << 7)) == factor
    return int(f"{scaled:08b}"[::-1], 2)


@lru_cache(maxsize=4)
def _lowest_bits(size: int) -> tuple[int, ...]:
    """Return the mask of each byte's lowest bit, for bytes read 0 to 6 bits further up."""
    assert 0 < size <= PIECE_BYTES
    mask = int.from_bytes(b"\1" * size, _ORDER)
    return tuple(mask << shift for shift in range(7))
