"""The kernel that calls ISA-L's `ec_encode_data` through ctypes: 20 to 55 GB/s a core.

The library is the system's `libisal.so.2`, else the copy inside the wheel of pyeclib, of which
nothing else is used: its own calls copy every buffer and reach a ninetieth of this.

ISA-L checks nothing. Here every buffer is held by a `Py_buffer` while the call runs (so it can
neither move nor be resized, and read-only targets are refused by Python itself), counts and
lengths are compared, and memory of targets may not overlap with any other. ctypes lets go of the
interpreter during the call, so threads code side by side.

Calls shorter than `LENGTH_MIN` go to the portable kernel: the library's own way for short rests
reads its tables in a layout that not every version writes.
"""

from __future__ import annotations

import ctypes
import os.path
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Final

from ec.errors import KernelError
from ec.kernels.operands import Buffer, WritableBuffer, check_counts, check_length
from ec.kernels.portable import PortableKernel
from ec.matrix import Rows

LENGTH_MIN: Final = 64
_TABLE_BYTES: Final = 32  # per factor
_SYSTEM_LIBRARY: Final = "libisal.so.2"
_WHEEL: Final = "pyeclib"
_PYBUF_SIMPLE: Final = 0
_PYBUF_WRITABLE: Final = 1


class _PyBuffer(ctypes.Structure):
    """Py_buffer of Python's C interface; `obj` is a bare pointer, its reference is Python's."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


class _Held:
    """Buffers that stay where they are until the `with` ends."""

    def __init__(self, sources: Sequence[Buffer], targets: Sequence[WritableBuffer]) -> None:
        assert sources or targets
        self._wanted = [(source, _PYBUF_SIMPLE) for source in sources]
        self._wanted += [(target, _PYBUF_WRITABLE) for target in targets]
        self._held: list[_PyBuffer] = []

    def __enter__(self) -> list[_PyBuffer]:
        try:
            for buffer, flags in self._wanted:
                held = _PyBuffer()
                _get_buffer(buffer, held, flags)  # Raises what Python raises.
                self._held.append(held)
        except BaseException:  # What is held already must be let go, whatever happened.
            self._release()
            raise
        return self._held

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        while self._held:
            _release_buffer(self._held.pop())


class IsalKernel:
    """See the module.

    Attributes:
        origin: the file of the library.
    """

    name = "isal"

    def __init__(self, library: ctypes.CDLL, origin: str) -> None:
        assert origin
        self.origin = origin
        self._short = PortableKernel()
        try:
            self._encode = library.ec_encode_data
            self._init_tables = library.ec_init_tables
        except AttributeError as error:
            raise KernelError(f"{origin} is no ISA-L with erasure codes: {error}") from error
        self._encode.restype = None
        self._encode.argtypes = (
            ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        self._init_tables.restype = None
        self._init_tables.argtypes = (
            ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        self._tables = lru_cache(maxsize=1024)(self._make_tables)

    def _make_tables(self, rows: Rows) -> ctypes.Array[ctypes.c_char]:
        """Return the expanded factors; they are this library's own and never stored."""
        k = len(rows[0])
        assert all(len(row) == k for row in rows)
        factors = ctypes.create_string_buffer(b"".join(rows), k * len(rows))
        tables = ctypes.create_string_buffer(_TABLE_BYTES * k * len(rows))
        self._init_tables(k, len(rows), factors, tables)
        return tables

    def multiply(
        self, rows: Rows, sources: Sequence[Buffer], targets: Sequence[WritableBuffer]
    ) -> None:
        """See `Kernel`."""
        check_counts(rows, sources, targets)
        with _Held(sources, targets) as held:
            length = check_length([buffer.len for buffer in held])
            if length >= LENGTH_MIN:
                addresses = [buffer.buf for buffer in held]
                _check_apart(addresses, length, sources=len(sources))
                k, m = len(sources), len(targets)
                data = (ctypes.c_void_p * k)(*addresses[:k])
                coding = (ctypes.c_void_p * m)(*addresses[k:])
                self._encode(length, k, m, self._tables(rows), data, coding)
                return
        self._short.multiply(rows, sources, targets)


def _check_apart(addresses: Sequence[int | None], length: int, *, sources: int) -> None:
    """Check that no target overlaps a source or another target.

    Raises:
        ValueError: one does.
    """
    assert all(addresses), "a buffer of this length has an address"
    ordered = sorted((address or 0, at >= sources) for at, address in enumerate(addresses))
    # Two sources may be the same memory, so the nearest neighbour is not always the one that
    # matters: what counts is the last source and the last target below.
    last_any = last_target = -length
    for address, is_target in ordered:
        if address < (last_any if is_target else last_target) + length:
            raise ValueError("a target shares memory with another buffer")
        last_any = address
        if is_target:
            last_target = address


def load() -> IsalKernel:
    """Return the kernel with the first library that is found.

    Raises:
        KernelError: there is none; the message says where it was looked for.
    """
    tried = []
    for path in (_SYSTEM_LIBRARY, *_wheel_libraries()):
        try:
            return IsalKernel(ctypes.CDLL(path), path)
        except (OSError, KernelError) as error:
            tried.append(str(error))
    raise KernelError("no ISA-L: " + "; ".join(tried or ["nothing to try"]))


def _wheel_libraries() -> list[str]:
    """Return the paths of ISA-L inside pyeclib's wheel, whatever name its builder gave it."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        import pyeclib  # Only to know that it can be: its calls are not used.

        listed = files(_WHEEL) or []
    except (ImportError, PackageNotFoundError):
        return []
    assert pyeclib.__name__ == _WHEEL
    return [
        os.path.abspath(str(file.locate()))
        for file in listed
        if file.name.startswith("libisal") and ".so" in file.name
    ]
