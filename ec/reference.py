"""A chunk computed from k others with reedsolo's arithmetic: slow, and independent of both kernels.

Neither the matrices nor the products of this library are used: rows come as a manifest has them,
are inverted by reedsolo's multiplication and division, and applied by a table of its products. So
what both agree on is not one mistake made twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import reedsolo

from ec.field import POLYNOMIAL

_ORDER: Final = "little"


def compute(coefficients: Sequence[bytes], survivors: Mapping[int, bytes], wanted: int) -> bytes:
    """Return the window of one chunk, from those of k others.

    Args:
        coefficients: the parity rows, as the manifest has them.
        survivors: chunk index -> window, all of one length.
    """
    k = len(coefficients[0])
    assert len(survivors) == k
    assert wanted not in survivors
    have = list(survivors)
    inverse = _invert([_row(coefficients, index) for index in have])
    factors = _times(_row(coefficients, wanted), inverse)
    length = len(survivors[have[0]])
    total = 0
    for factor, index in zip(factors, have, strict=True):
        product = survivors[index].translate(_table(factor))
        total ^= int.from_bytes(product, _ORDER)
    return total.to_bytes(length, _ORDER)


def _row(coefficients: Sequence[bytes], index: int) -> list[int]:
    k = len(coefficients[0])
    if index >= k:
        return list(coefficients[index - k])
    return [int(column == index) for column in range(k)]


def _times(row: Sequence[int], matrix: Sequence[Sequence[int]]) -> list[int]:
    """Return a row times a matrix."""
    assert len(row) == len(matrix)
    product = [0] * len(matrix[0])
    for factor, line in zip(row, matrix, strict=True):
        table = _table(factor)
        product = [total ^ table[value] for total, value in zip(product, line, strict=True)]
    return product


def _invert(matrix: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the inverse of a matrix that has one."""
    size = len(matrix)
    assert all(len(line) == size for line in matrix)
    work = [[*line, *(int(column == at) for column in range(size))]
            for at, line in enumerate(matrix)]  # fmt: skip
    for column in range(size):
        pivot = next(at for at in range(column, size) if work[at][column])
        work[column], work[pivot] = work[pivot], work[column]
        scale = _table(_inverse(work[column][column]))
        work[column] = [scale[value] for value in work[column]]
        for at in range(size):
            if at != column and work[at][column]:
                table = _table(work[at][column])
                work[at] = [
                    value ^ table[other]
                    for value, other in zip(work[at], work[column], strict=True)
                ]
    return [line[size:] for line in work]


@cache
def _table(factor: int) -> bytes:
    """Return the products of a factor with every byte."""
    _set_field()
    return bytes(reedsolo.gf_mul(factor, value) for value in range(256))


@cache
def _inverse(value: int) -> int:
    _set_field()
    return int(reedsolo.gf_inverse(value))


def _set_field() -> None:
    """Its tables are module globals, and another user may have set them to another field."""
    reedsolo.init_tables(prim=POLYNOMIAL, generator=2, c_exp=8)
