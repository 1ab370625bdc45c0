"""Kernels: matrix times vectors of bytes, the one operation that encodes, decodes and repairs.

    target[r] = sum over j of rows[r][j] * source[j]        in GF(2^8), byte by byte

Two of them, and the same bytes from both: `isal` calls Intel's ISA-L, `portable` needs nothing but
Python. Which one runs is decided once, by `choose`; a library that is there but computes anything
else than the portable kernel is refused.
"""
