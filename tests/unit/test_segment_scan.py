"""storage.segment_scan: batches found, checked, and searched for behind damage."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from logd.errors import CorruptFileError
from logd.record.batch import set_place
from logd.storage import segment_scan
from logd.storage.files import Files, OpenFile
from logd.storage.segment_scan import find_next_batch, is_old_message, scan_batches
from tests.unit.log_builder import batch_of

FILES = Files()


def placed(base_offset: int, count: int = 2, size: int = 30) -> bytes:
    batch = batch_of([b"v" * size] * count)
    set_place(batch, 0, base_offset=base_offset, leader_epoch=0)
    return bytes(batch)


def file_of(tmp_path: Path, data: bytes) -> OpenFile:
    path = tmp_path / "x.log"
    path.write_bytes(data)
    return FILES.open_read(str(path))


def test_batches_are_found_one_after_the_other(tmp_path: Path) -> None:
    """Positions, headers and CRCs of all batches come in order, with and without verifying."""
    batches = [placed(0), placed(2, 1, 5), placed(3, 3, 3000)]
    file = file_of(tmp_path, b"".join(batches))
    end = sum(map(len, batches))
    for verify in (True, False):
        found = list(scan_batches(FILES, file, 0, end, verify=verify))
        assert [batch.position for batch in found] == [0, len(batches[0]), end - len(batches[2])]
        assert [batch.header.base_offset for batch in found] == [0, 2, 3]
        assert all(batch.crc_ok for batch in found)


def test_a_batch_larger_than_the_window_is_checked_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CRC does not depend on how much is read at a time."""
    monkeypatch.setattr(segment_scan, "WINDOW_BYTES", 100)
    data = placed(0, 5, 200) + placed(5)
    file = file_of(tmp_path, data)
    assert [batch.crc_ok for batch in scan_batches(FILES, file, 0, len(data))] == [True, True]
    flipped = bytearray(data)
    flipped[700] ^= 1
    file = file_of(tmp_path, bytes(flipped))
    assert [batch.crc_ok for batch in scan_batches(FILES, file, 0, len(data))] == [False, True]


def test_every_cut_of_the_last_batch_is_corrupt_at_its_start(tmp_path: Path) -> None:
    """However short the tail, the error names the position where the last batch begins."""
    first, second = placed(0), placed(2)
    for size in range(len(first) + 1, len(first) + len(second)):
        file = file_of(tmp_path, (first + second)[:size])
        with pytest.raises(CorruptFileError) as caught:
            list(scan_batches(FILES, file, 0, size))
        assert caught.value.position == len(first)


def test_zeros_are_no_batch(tmp_path: Path) -> None:
    """A run of zeros, as a power cut leaves it, raises where it begins."""
    file = file_of(tmp_path, placed(0) + bytes(500))
    with pytest.raises(CorruptFileError) as caught:
        list(scan_batches(FILES, file, 0, len(placed(0)) + 500))
    assert caught.value.position == len(placed(0))


@pytest.mark.parametrize("window_bytes", [80, 150, 1 << 20])
def test_the_next_batch_is_found_wherever_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_bytes: int
) -> None:
    """Behind garbage of any length, the first whole batch with fitting offsets is found."""
    monkeypatch.setattr(segment_scan, "WINDOW_BYTES", window_bytes)
    for garbage in (1, 60, 61, 100, 333):
        data = b"\x02" * garbage + placed(7)
        file = file_of(tmp_path, data)
        found = find_next_batch(FILES, file, 0, len(data), low_offset=5, high_offset=100)
        assert found is not None
        assert found.position == garbage
        assert found.header.base_offset == 7


def test_batches_of_other_offsets_or_bad_crc_do_not_count(tmp_path: Path) -> None:
    """Remains of an older log in reused blocks are not taken for part of this one."""
    bad = bytearray(placed(8))
    bad[-1] ^= 1
    data = placed(2) + placed(300) + bytes(bad) + placed(9)[:-1]
    file = file_of(tmp_path, data)
    assert find_next_batch(FILES, file, 0, len(data), low_offset=5, high_offset=100) is None


def test_messages_of_old_formats_are_recognised(tmp_path: Path) -> None:
    """A message of format 1 with its CRC-32 is told apart from garbage."""
    body = struct.pack(">bbqii", 1, 0, 123, -1, 3) + b"abc"
    message = struct.pack(">qiI", 0, len(body) + 4, zlib.crc32(body)) + body
    file = file_of(tmp_path, message)
    assert is_old_message(FILES, file, 0, len(message))
    file = file_of(tmp_path, message[:-1] + b"x")
    assert not is_old_message(FILES, file, 0, len(message))
    file = file_of(tmp_path, bytes(100))
    assert not is_old_message(FILES, file, 0, 100)
