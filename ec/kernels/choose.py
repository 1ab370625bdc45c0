"""Which kernel runs: ISA-L where it is and computes right, else the portable one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from ec.errors import KernelError
from ec.kernels import isal
from ec.kernels.operands import Kernel
from ec.kernels.portable import PortableKernel
from ec.matrix import parity_rows

Preference = Literal["auto", "isal", "portable"]

# Around the steps in which vector code works, and a few beyond.
_TRIAL_LENGTHS: Final = (64, 65, 95, 96, 97, 127, 128, 129, 191, 255, 257, 1023)
_TRIAL_SHAPES: Final = ((2, 1), (3, 2), (4, 2), (10, 4), (16, 4), (16, 8))


def choose(
    preference: Preference = "auto", *, load: Callable[[], Kernel] = isal.load
) -> tuple[Kernel, str]:
    """Return the kernel to use, and why, for people.

    Raises:
        KernelError: "isal" was asked for and is not there, or computes wrong.
    """
    if preference == "portable":
        return PortableKernel(), "portable, as asked"
    try:
        kernel = load()
        check_against_portable(kernel)
    except KernelError as error:
        if preference == "isal":
            raise
        return PortableKernel(), f"portable: {error}"
    return kernel, f"{kernel.name} of {kernel.origin}"


def check_against_portable(kernel: Kernel) -> None:
    """Compute a few products with both kernels.

    Raises:
        KernelError: they differ.
    """
    portable = PortableKernel()
    noise = _noise(max(_TRIAL_LENGTHS) + 16)
    assert len(noise) > max(_TRIAL_LENGTHS)
    for k, m in _TRIAL_SHAPES:
        rows = parity_rows(k, m)
        for length in _TRIAL_LENGTHS:
            sources = [noise[column : column + length] for column in range(k)]
            ours = [bytearray(length) for _ in range(m)]
            theirs = [bytearray(length) for _ in range(m)]
            portable.multiply(rows, sources, ours)
            kernel.multiply(rows, sources, theirs)
            if ours != theirs:
                raise KernelError(f"{kernel.origin} computes {k}+{m} of {length} bytes wrong")


def _noise(size: int) -> bytes:
    """Return bytes that look random and are always the same."""
    value, noise = 1, bytearray()
    for _ in range(size):
        value = value * 1103515245 + 12345 & 0x7FFFFFFF
        noise.append(value >> 16 & 255)
    return bytes(noise)
