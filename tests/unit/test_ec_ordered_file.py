"""Files written from beginning to end: the same bytes whichever way they take."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec import ordered_file
from ec.alignment import ALIGNMENT_BYTES, aligned_buffer, aligned_part, is_aligned
from ec.ordered_file import OrderedFile
from logd.storage.files import Buffer, Files, OpenFile
from tests.ec_samples import noise

PAGE = ALIGNMENT_BYTES
NOISE = noise(40 * PAGE)
WAYS = ("direct", "none", "refused when used")


class Ways(Files):
    """A file system with a direct way, without, or with one that it refuses when it is used."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.direct_bytes = 0

    def open_direct(self, file: OpenFile, *, writable: bool) -> OpenFile | None:
        return None if self.way == "none" else super().open_direct(file, writable=writable)

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
        if is_direct(file):
            if self.way == "refused when used":
                raise OSError(errno.EINVAL, "no such way")
            self.direct_bytes += sum(map(len, buffers))
        return super().write_at(file, position, buffers)


def is_direct(file: OpenFile) -> bool:
    flags = Path(f"/proc/self/fdinfo/{file.fd}").read_text(encoding="ascii").split("flags:")[1]
    return bool(int(flags.split()[0], 8) & os.O_DIRECT)


@given(
    way=st.sampled_from(WAYS),
    pieces=st.lists(
        st.tuples(
            st.sampled_from((0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 5 * PAGE + 7)),
            st.booleans(),
        ),
        min_size=1,
        max_size=7,
    ),
)
@settings(deadline=None, max_examples=60)
def test_all_bytes_arrive_in_order(way: str, pieces: list[tuple[int, bool]]) -> None:
    """Of any lengths, from aligned buffers and others, several at once; the rest with `settle`."""
    expected = NOISE[: sum(size for size, _ in pieces)]
    buffers: list[Buffer] = []
    at = 0
    for size, aligned in pieces:
        part = expected[at : at + size]
        at += size
        view = aligned_buffer(size)
        view[:] = part
        buffers.append(view if aligned else part)
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ordered_file, "STAGE_BYTES", 2 * PAGE)
        path = f"{directory}/file"
        file = OrderedFile(Ways(way), path, size=max(1, at))
        file.append(buffers[:2])
        for buffer in buffers[2:]:
            file.append([buffer])
        file.settle()
        file.sync()
        assert Path(path).read_bytes()[:at] == expected


def test_whole_pages_go_past_the_cache(tmp_path: Path) -> None:
    """All but the bytes behind the last page; without a copy where the buffer begins at a page."""
    files = Ways("direct")
    view = aligned_buffer(8 * PAGE + 5)
    view[:] = NOISE[: len(view)]
    file = OrderedFile(files, str(tmp_path / "file"), size=len(view))
    if file.direct is None:
        pytest.skip("this file system has no direct way")
    file.append([view])
    assert files.direct_bytes == 8 * PAGE
    file.settle()
    assert files.direct_bytes == 8 * PAGE
    assert (tmp_path / "file").read_bytes() == bytes(view)


def test_a_buffer_may_be_used_again_at_once(tmp_path: Path) -> None:
    """What waits in the stage is a copy."""
    path = tmp_path / "file"
    buffer = bytearray(b"a" * 10)
    file = OrderedFile(Files(), str(path), size=20)
    file.append([buffer])
    buffer[:] = b"b" * 10
    file.append([buffer])
    file.settle()
    assert path.read_bytes() == b"a" * 10 + b"b" * 10


def test_other_errors_are_not_taken_for_a_refusal(tmp_path: Path) -> None:
    """A device that cannot write is not asked the other way."""

    class Broken(Ways):
        def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
            raise OSError(errno.EIO, "broken")

    file = OrderedFile(Broken("direct"), str(tmp_path / "file"), size=PAGE)
    with pytest.raises(OSError, match="broken"):
        file.append([aligned_buffer(PAGE)])


def test_buffers_begin_at_pages() -> None:
    """Of any length; a slice of a page is aligned, one byte on is not, and bytes never count."""
    for size in (0, 1, PAGE, 3 * PAGE + 1):
        assert bytes(aligned_buffer(size)) == bytes(size)
        assert len(aligned_buffer(size, zeroed=False)) == size
        assert not size or is_aligned(aligned_buffer(size, zeroed=False))
    view = aligned_buffer(3 * PAGE)
    assert is_aligned(view)
    assert is_aligned(view[PAGE:])
    assert not is_aligned(view[1:])
    assert not is_aligned(memoryview(bytes(PAGE)))
    assert [aligned_part(size) for size in (0, PAGE - 1, PAGE, PAGE + 1)] == [0, 0, PAGE, PAGE]
