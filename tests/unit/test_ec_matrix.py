"""The field and the matrix: against reedsolo's arithmetic, and every square submatrix."""

from __future__ import annotations

from itertools import combinations

import pytest
import reedsolo

from ec import field, matrix
from ec.errors import ProfileError
from ec.profile import Profile


@pytest.fixture(autouse=True)
def tables() -> None:
    """Another user of reedsolo may have set its tables to another field."""
    reedsolo.init_tables(prim=field.POLYNOMIAL, generator=2, c_exp=8)


def test_multiplication_is_the_field_s() -> None:
    """All 65,536 products equal those of carry-less multiplication modulo 0x11d."""
    for a in range(256):
        table = field.times_table(a)
        for b in range(256):
            expected = reedsolo.gf_mult_noLUT(a, b, field.POLYNOMIAL)
            assert field.multiply(a, b) == expected == table[b]


def test_every_inverse_gives_one() -> None:
    """a * inverse(a) is 1 for each a but 0."""
    assert all(field.multiply(a, field.inverse(a)) == 1 for a in range(1, 256))


def test_the_tables_are_our_own() -> None:
    """A user who sets reedsolo to another field changes nothing here."""
    before = field.multiply(200, 201)
    reedsolo.init_tables(prim=0x187)
    assert field.multiply(200, 201) == before


def test_coefficients_are_those_of_the_formula() -> None:
    """A[r][j] = inv(r xor (8+j)) * (8+j), for all 8 rows and 248 columns."""
    for row in range(8):
        for column in range(248):
            expected = reedsolo.gf_mul(reedsolo.gf_inverse(row ^ (8 + column)), 8 + column)
            assert matrix.coefficient(row, column) == expected


def test_known_rows() -> None:
    """Row 0 is xor; the rows of 6+3 are these, for ever."""
    assert matrix.parity_rows(16, 1) == (b"\1" * 16,)
    assert [row.hex() for row in matrix.parity_rows(6, 3)] == [
        "010101010101",
        "9cac99dcab3c",
        "a62c4626bb30",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_every_square_submatrix_has_an_inverse(size: int) -> None:
    """So any k of k+m chunks give the data back, for all profiles up to 16+4."""
    rows = matrix.parity_rows(16, 4)
    for chosen in combinations(rows, size):
        for columns in combinations(range(16), size):
            square = tuple(bytes(row[column] for column in columns) for row in chosen)
            inverse = matrix.invert(square)
            assert _product(square, inverse) == _identity(size)


def test_a_singular_matrix_is_a_bug() -> None:
    """Nothing is computed with a matrix that has no inverse."""
    with pytest.raises(AssertionError):
        matrix.invert((b"\1\2", b"\1\2"))


def test_decoding_one_lost_data_chunk_is_xor() -> None:
    """With parity 0 at hand, all factors are 1."""
    parity = matrix.parity_rows(6, 3)
    assert matrix.decode_rows(parity, (0, 1, 3, 4, 5, 6), (2,)) == (b"\1" * 6,)


@pytest.mark.parametrize("text", ["2+1", "16+4", "4+2", "10+4"])
def test_profiles_are_read_as_they_are_written(text: str) -> None:
    """k+m, within the bounds."""
    assert str(Profile.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["1+1", "17+3", "4+0", "4+5", "4", "+2", "4+2 ", "04+2", "٤+٢", ""]
)
def test_other_profiles_are_refused(text: str) -> None:
    """What is no profile, or out of bounds, is named."""
    with pytest.raises(ProfileError):
        Profile.parse(text)


def _identity(size: int) -> matrix.Rows:
    return tuple(bytes(int(a == b) for b in range(size)) for a in range(size))


def _product(left: matrix.Rows, right: matrix.Rows) -> matrix.Rows:
    result = []
    for row in left:
        sums = bytearray(len(right[0]))
        for factor, other in zip(row, right, strict=True):
            for at, value in enumerate(other):
                sums[at] ^= reedsolo.gf_mul(factor, value)
        result.append(bytes(sums))
    return tuple(result)
