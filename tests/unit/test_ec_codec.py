"""Both kernels against reedsolo's arithmetic, and every pattern of losses."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
import reedsolo

from ec import field
from ec.codec import Codec
from ec.errors import KernelError, NotEnoughChunksError
from ec.kernels import isal
from ec.kernels.choose import check_against_portable, choose
from ec.kernels.isal import IsalKernel
from ec.kernels.operands import Kernel
from ec.kernels.portable import PIECE_BYTES, PortableKernel
from ec.matrix import coefficient, parity_rows
from ec.profile import Profile

PROFILES = [Profile(k, m) for m in range(1, 5) for k in range(2, 11)] + [
    Profile(12, 4),
    Profile(16, 4),
]
SEED = 20_260


def isal_kernel() -> Kernel:
    """Return the fast kernel, or skip where the machine has none."""
    try:
        return isal.load()
    except KernelError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["portable", "isal"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return PortableKernel() if request.param == "portable" else isal_kernel()


def reference_parity(data: Sequence[bytes], m: int) -> list[bytes]:
    """Return the parity as reedsolo's field has it, byte by byte."""
    reedsolo.init_tables(prim=field.POLYNOMIAL, generator=2, c_exp=8)
    rows = []
    for row in range(m):
        factors = [coefficient(row, column) for column in range(len(data))]
        rows.append(bytes(_sum_of_products(factors, column) for column in zip(*data, strict=True)))
    return rows


def _sum_of_products(factors: Sequence[int], values: Sequence[int]) -> int:
    total = 0
    for factor, value in zip(factors, values, strict=True):
        total ^= reedsolo.gf_mul(factor, value)
    return total


def windows(count: int, size: int, seed: int = SEED) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(size) for _ in range(count)]


@pytest.mark.parametrize("profile", PROFILES, ids=str)
def test_every_loss_pattern_is_mended(kernel: Kernel, profile: Profile) -> None:
    """Parity equals the reference, and any k chunks give all others, for each profile."""
    data = windows(profile.k, 67)
    chunks = data + reference_parity(data, profile.m)
    codec = Codec(profile, kernel)
    parity = [bytearray(67) for _ in range(profile.m)]
    codec.encode(data, parity)
    assert [bytes(row) for row in parity] == chunks[profile.k :]
    patterns = list(combinations(range(profile.chunks), profile.k))
    if profile.k > 10:  # 4845 patterns of 16+4 are those of the kernels' speed, not of ours.
        patterns = random.Random(SEED).sample(patterns, 300)
    for have in patterns:
        lost = [index for index in range(profile.chunks) if index not in have]
        wanted = {index: bytearray(67) for index in lost}
        codec.rebuild({index: chunks[index] for index in have}, wanted)
        assert all(bytes(wanted[index]) == chunks[index] for index in lost), (SEED, have)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 63, 64, 65, 1000, PIECE_BYTES, PIECE_BYTES + 1])
def test_every_length_is_coded_alike(kernel: Kernel, size: int) -> None:
    """Lengths around the steps of vector code, and of the portable kernel's pieces."""
    for profile in (Profile(2, 1), Profile(6, 3), Profile(16, 4)):
        data = windows(profile.k, size)
        parity = [bytearray(size) for _ in range(profile.m)]
        Codec(profile, kernel).encode(data, parity)
        at = slice(max(0, size - 70), size)
        expected = reference_parity([window[at] for window in data], profile.m)
        assert [bytes(row[at]) for row in parity] == expected


def test_every_factor_is_computed_right(kernel: Kernel) -> None:
    """Each of the 256 factors times each of the 256 bytes, alone and among others."""
    values = bytes(range(256))
    for factor in range(256):
        target = bytearray(256)
        kernel.multiply((bytes([factor]),), [values], [target])
        assert target == field.times_table(factor)
        mixed = bytes([factor, 3, 5, 7])
        kernel.multiply((mixed,), [values] * 4, [target])
        assert list(target) == [_sum_of_products(mixed, [value] * 4) for value in range(256)]


def test_nothing_beside_a_target_is_written(kernel: Kernel) -> None:
    """The bytes before and behind each target stay as they are, at any alignment."""
    data = windows(4, 100)
    expected = reference_parity(data, 2)
    for start in range(66):
        around = [bytearray(b"\xee" * 300) for _ in range(2)]
        targets = [memoryview(buffer)[start : start + 100] for buffer in around]
        kernel.multiply(parity_rows(4, 2), data, targets)
        for buffer, row in zip(around, expected, strict=True):
            assert buffer[start : start + 100] == row
            assert set(buffer[:start] + buffer[start + 100 :]) == {0xEE}


def test_zero_windows_cost_nothing_and_count_as_zeros(kernel: Kernel) -> None:
    """None stands for zeros, among the data and among the survivors."""
    data = [*windows(2, 80), bytes(80), bytes(80)]
    expected = reference_parity(data, 2)
    codec = Codec(Profile(4, 2), kernel)
    parity = [bytearray(80), bytearray(80)]
    codec.encode([data[0], data[1], None, None], parity)
    assert [bytes(row) for row in parity] == expected
    lost = bytearray(b"\xee" * 80)
    codec.rebuild({0: data[0], 2: None, 3: None, 4: expected[0]}, {1: lost})
    assert lost == data[1]
    codec.encode([None] * 4, parity)
    assert [bytes(row) for row in parity] == [bytes(80)] * 2


def test_surplus_survivors_are_not_used(kernel: Kernel) -> None:
    """Of more than k chunks, the data chunks come first."""
    data = windows(3, 64)
    lost = bytearray(64)
    survivors = {0: data[0], 1: data[1], 3: reference_parity(data, 1)[0], 4: b"\xff" * 64}
    Codec(Profile(3, 2), kernel).rebuild(survivors, {2: lost})
    assert lost == data[2]


def test_too_few_survivors_are_refused(kernel: Kernel) -> None:
    """Nothing is computed from fewer than k."""
    target = bytearray(8)
    with pytest.raises(NotEnoughChunksError):
        Codec(Profile(3, 2), kernel).rebuild({0: b"a" * 8, 1: b"b" * 8}, {2: target})
    assert target == bytes(8)


SIXTY_FOUR = bytes(64)
OVERLAP = bytearray(200)


@pytest.mark.parametrize(
    ("rows", "sources", "targets"),
    [
        ((b"\1",), [], [bytearray(64)]),
        ((), [SIXTY_FOUR], []),
        ((b"\1", b"\2"), [SIXTY_FOUR], [bytearray(64)]),
        ((b"\1\2",), [SIXTY_FOUR], [bytearray(64)]),
        ((b"\1",), [SIXTY_FOUR], [bytearray(63)]),
        ((b"\1\1",), [SIXTY_FOUR, bytes(65)], [bytearray(64)]),
        ((b"\1" * 256,), [SIXTY_FOUR] * 256, [bytearray(64)]),
        ((b"\1",), [SIXTY_FOUR], [SIXTY_FOUR]),
        ((b"\1",), [memoryview(bytes(128))[::2]], [bytearray(64)]),
        ((b"\1",), [SIXTY_FOUR], [memoryview(bytearray(128))[::2]]),
    ],
)
def test_what_does_not_fit_never_reaches_the_library(
    kernel: Kernel, rows: Any, sources: Any, targets: Any
) -> None:
    """Wrong counts and lengths, read-only targets, scattered buffers: refused, nothing written."""
    with pytest.raises((ValueError, BufferError)):
        kernel.multiply(rows, sources, targets)
    assert not any(map(any, map(bytes, targets)))


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([OVERLAP[:64]], [memoryview(OVERLAP)[0:64], memoryview(OVERLAP)[63:127]]),
        ([memoryview(OVERLAP)[10:74]], [memoryview(OVERLAP)[70:134]]),
        ([memoryview(OVERLAP)[70:134]], [memoryview(OVERLAP)[10:74]]),
        ([memoryview(OVERLAP)[0:64]], [memoryview(OVERLAP)[0:64]]),
    ],
)
def test_overlapping_memory_is_refused(sources: Any, targets: Any) -> None:
    """A target that shares memory with another buffer would be read half written."""
    rows = tuple(b"\1" * len(sources) for _ in targets)
    with pytest.raises(ValueError, match="shares memory"):
        isal_kernel().multiply(rows, sources, targets)


def test_sources_may_share_memory() -> None:
    """Reading the same bytes twice is fine; so are neighbours that touch."""
    whole = bytearray(random.Random(SEED).randbytes(192))
    view = memoryview(whole)
    isal_kernel().multiply((b"\1\1",), [view[:64], view[:64]], [view[64:128]])
    assert view[64:128] == bytes(64)


def test_buffers_are_let_go_after_a_call() -> None:
    """A buffer can be resized after a call, and after a refused one."""
    target = bytearray(64)
    kernel = isal_kernel()
    kernel.multiply((b"\1",), [SIXTY_FOUR], [target])
    with pytest.raises((ValueError, BufferError)):
        kernel.multiply((b"\1\1",), [SIXTY_FOUR, target], [memoryview(SIXTY_FOUR)])
    target.extend(b"more")


class Lying:
    """A kernel that has one bit wrong, in the last byte."""

    name = "isal"
    origin = "liar"

    def multiply(self, rows: Any, sources: Any, targets: Any) -> None:
        PortableKernel().multiply(rows, sources, targets)
        targets[-1][-1] ^= 1


def test_a_kernel_that_computes_wrong_is_refused() -> None:
    """It is found at start, and the portable one runs; asked for by name, it is an error."""
    with pytest.raises(KernelError, match="wrong"):
        check_against_portable(Lying())
    kernel, why = choose("auto", load=Lying)
    assert kernel.name == "portable"
    assert "liar" in why
    with pytest.raises(KernelError):
        choose("isal", load=Lying)


def test_a_missing_library_is_no_error() -> None:
    """The portable kernel runs, and says why."""

    def nothing() -> Kernel:
        raise KernelError("no ISA-L")

    assert choose("auto", load=nothing)[0].name == "portable"
    assert choose("portable", load=nothing)[0].name == "portable"
    with pytest.raises(KernelError):
        choose("isal", load=nothing)


def test_a_library_without_the_calls_is_refused() -> None:
    """Any other library under that name is an error of ours, not a crash."""
    with pytest.raises(KernelError, match="no ISA-L"):
        IsalKernel(ctypes.CDLL(None), "the process itself")
