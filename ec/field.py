"""GF(2^8), the field that all coding computes in: polynomial 0x11d, generator 2.

x^8 + x^4 + x^3 + x^2 + 1 is the polynomial of ISA-L, zfec, klauspost/reedsolomon and the RAID-6 of
Linux. The tables come from reedsolo, a library whose arithmetic is independent of both kernels, and
are copied: reedsolo keeps its own in module globals that another user may set anew.

Addition is xor, so subtraction is too.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import reedsolo

POLYNOMIAL: Final = 0x11D
NAME: Final = "gf256-11d"  # What a manifest calls this field.
ORDER: Final = 255  # of the multiplicative group


def _tables() -> tuple[bytes, bytes]:
    log, exp, order = reedsolo.init_tables(prim=POLYNOMIAL, generator=2, c_exp=8)
    assert order == ORDER
    assert len(log) == 256
    return bytes(log), bytes(exp[:ORDER])


_LOG, _EXP = _tables()


def multiply(a: int, b: int) -> int:
    """Return a * b."""
    assert 0 <= a <= 255
    assert 0 <= b <= 255
    if a == 0 or b == 0:
        return 0
    return _EXP[(_LOG[a] + _LOG[b]) % ORDER]


def inverse(a: int) -> int:
    """Return the number that gives 1 when multiplied by a, which is not 0."""
    assert 1 <= a <= 255
    return _EXP[-_LOG[a] % ORDER]


@cache
def times_table(factor: int) -> bytes:
    """Return 256 bytes: what each byte becomes when multiplied by `factor` (`bytes.translate`)."""
    assert 0 <= factor <= 255
    return bytes(multiply(factor, value) for value in range(256))
