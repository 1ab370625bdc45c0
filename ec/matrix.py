"""The generator matrix and its inverses: which combination of chunks gives which chunk.

The matrix is systematic: k rows of identity, then m parity rows with the coefficients

    A[r][j] = inv(r xor (8 + j)) * (8 + j)        r < 8, j < 248

a Cauchy matrix 1 / (r xor (8 + j)) whose columns are scaled so that row 0 is all ones. Scaling a
column by a number that is not 0 keeps every square submatrix invertible, and a systematic code
whose parity block has only invertible square submatrices gives all data back from any k chunks.

The one family serves every profile: a coefficient depends neither on k nor on m. So row 0 is plain
xor, a parity row can be added later without touching the others, and two coded segments on disjoint
columns could be merged by xor of their parity.

Vandermonde matrices, which ISA-L offers too, are not always invertible: at 10+6 they lose 46 of
8008 patterns.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final

from ec.field import inverse, multiply

NAME: Final = "cauchy-8-columns-normalised"  # What a manifest calls this family.
ROWS_MAX: Final = 8
COLUMNS_MAX: Final = 248

# One row of coefficients for each chunk that is computed, one byte for each chunk that is read.
Rows = tuple[bytes, ...]


def coefficient(row: int, column: int) -> int:
    """Return the factor of data chunk `column` in parity chunk `row`."""
    assert 0 <= row < ROWS_MAX
    assert 0 <= column < COLUMNS_MAX
    return multiply(inverse(row ^ (ROWS_MAX + column)), ROWS_MAX + column)


@cache
def parity_rows(k: int, m: int) -> Rows:
    """Return the m parity rows for k data chunks."""
    assert 1 <= k <= COLUMNS_MAX
    assert 1 <= m <= ROWS_MAX
    return tuple(bytes(coefficient(row, column) for column in range(k)) for row in range(m))


@lru_cache(maxsize=4096)
def decode_rows(parity: Rows, have: tuple[int, ...], want: tuple[int, ...]) -> Rows:
    """Return the rows that compute the chunks `want` from the k chunks `have`.

    Args:
        parity: the parity rows of the code.
        have: k different chunk indexes; the columns of the result are in their order.
        want: chunk indexes; the rows of the result are in their order.
    """
    k = len(parity[0])
    assert len(have) == len(set(have)) == k
    assert all(0 <= index < k + len(parity) for index in (*have, *want))
    inverted = invert(tuple(generator_row(parity, index) for index in have))
    return tuple(_times(generator_row(parity, index), inverted) for index in want)


def generator_row(parity: Rows, index: int) -> bytes:
    """Return the row of the whole matrix that gives chunk `index` from the data chunks."""
    k = len(parity[0])
    assert 0 <= index < k + len(parity)
    if index >= k:
        return parity[index - k]
    return bytes(int(column == index) for column in range(k))


def invert(rows: Rows) -> Rows:
    """Return the inverse of a square matrix that has one (Gauss and Jordan)."""
    size = len(rows)
    assert all(len(row) == size for row in rows)
    work = [
        bytearray(row) + bytearray(int(column == number) for column in range(size))
        for number, row in enumerate(rows)
    ]
    for column in range(size):
        pivot = next((row for row in range(column, size) if work[row][column]), None)
        assert pivot is not None, "the matrix has no inverse"
        work[column], work[pivot] = work[pivot], work[column]
        _scale(work[column], inverse(work[column][column]))
        for row in range(size):
            if row != column and work[row][column]:
                _add_multiple(work[row], work[column], work[row][column])
    return tuple(bytes(row[size:]) for row in work)


def _scale(row: bytearray, factor: int) -> None:
    assert factor != 0
    row[:] = bytes(multiply(value, factor) for value in row)


def _add_multiple(row: bytearray, other: bytearray, factor: int) -> None:
    assert len(row) == len(other)
    row[:] = bytes(a ^ multiply(b, factor) for a, b in zip(row, other, strict=True))


def _times(row: bytes, matrix: Rows) -> bytes:
    """Return the row vector times the matrix."""
    assert len(row) == len(matrix)
    product = bytearray(len(matrix[0]))
    for factor, other in zip(row, matrix, strict=True):
        _add_multiple(product, bytearray(other), factor)
    return bytes(product)
