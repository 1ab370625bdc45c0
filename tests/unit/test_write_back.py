"""Having the device take bytes without a sync: what compaction does while it writes."""

from __future__ import annotations

import errno
import os

import pytest

from logd.record.batch import read_header
from logd.record.build import encode_batch
from logd.storage.cleaned_segment import CleanedWriter
from logd.storage.files import Files, OpenFile
from tests.unit.storage_faults import FaultyFiles

MIB = 1024 * 1024


def writer_of(files: Files, directory: str) -> CleanedWriter:
    return CleanedWriter(
        files, directory, base_offset=0, attempt=1, index_bytes_max=MIB,
        index_interval_bytes=4096, on_write=lambda _: None,
    )  # fmt: skip


def add(writer: CleanedWriter, count: int) -> None:
    for offset in range(count):
        batch = encode_batch([(b"key", bytes(MIB // 4), [], 0)], base_offset=offset)
        writer.add(read_header(batch), batch)


def test_bytes_stay_what_they_are(directory: str) -> None:
    """On a real disk: what was written back is read as it was written."""
    files = Files()
    file = files.create(f"{directory}/a")
    files.write_at(file, 0, [b"x" * 10_000])
    files.write_back(file, 0, 10_000)
    assert files.read_at(file, 0, 10_001) == b"x" * 10_000


def test_where_there_is_no_such_call_nothing_is_done() -> None:
    """A pipe has no ranges: no error."""
    ends = [OpenFile(fd, "pipe") for fd in os.pipe()]
    Files().write_back(ends[1], 0, 1)


def test_an_error_is_raised(directory: str) -> None:
    """Else it would be lost: the kernel tells it once a descriptor."""
    fd = os.open(directory, os.O_PATH)  # A descriptor that no call may be made with.
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        Files().write_back(OpenFile(fd, "named"), 0, 1)
    assert (caught.value.errno, caught.value.filename) == (errno.EBADF, "named")


def test_compaction_syncs_a_segment_once(directory: str) -> None:
    """The device gets each MiB when it is written, and one sync at the end makes it durable."""
    files = FaultyFiles()
    writer = writer_of(files, directory)
    add(writer, 9)
    assert files.calls.count("write_back") == 2
    assert "sync" not in files.calls
    assert "sync_data" not in files.calls
    writer.finish()
    assert files.calls.index("sync") > max(
        at for at, call in enumerate(files.calls) if call == "write_back"
    )


def test_a_device_that_refuses_ends_the_round(directory: str) -> None:
    """The writer does not go on behind bytes that the device did not take."""
    files = FaultyFiles()
    files.failing["write_back"] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        add(writer_of(files, directory), 9)
