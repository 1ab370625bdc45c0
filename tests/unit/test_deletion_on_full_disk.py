"""Deleting records where not one block is free: with the ballast's space, whoever else wants it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from logd.broker.deletion import always, delete_before
from logd.errors import DiskFullError
from logd.storage.data_directory import DataDirectory
from logd.storage.files import OpenFile
from logd.storage.log import Log
from logd.units import KIB
from tests.crash.lying_disk import FastFiles
from tests.unit.log_builder import bases, fill, make_log

BALLAST = "ballast"
BALLAST_BYTES = 64 * KIB
BLOCK_BYTES = 4 * KIB
TIMEOUT_S = 60.0


class FullDisk(FastFiles):
    """Has `room` for so many bytes more; new files and allocations take of it, unlinking gives.

    As on a real one, an allocation that fails has taken all there was until it is unlinked.

    Attributes:
        before_refusing: called where an allocation is about to fail, all space taken.
        after_unlink: called with the ballast gone.
        refused: is set by each file that could not be made.
    """

    def __init__(self) -> None:
        self.room = 1 << 30
        self._taken: dict[str, int] = {}
        self.before_refusing: Callable[[], object] = lambda: None
        self.after_unlink: Callable[[], object] = lambda: None
        self.refused = threading.Event()

    def create_or_truncate(self, path: str) -> OpenFile:
        if self.room < BLOCK_BYTES:
            self.refused.set()
            raise OSError(errno.ENOSPC, "No space left on device", path)
        self._take(path, BLOCK_BYTES)
        return super().create_or_truncate(path)

    def allocate(self, file: OpenFile, position: int, size: int) -> None:
        if self.room < size:
            self._take(file.path, self.room)
            self.before_refusing()
            raise OSError(errno.ENOSPC, "No space left on device", file.path)
        self._take(file.path, size)
        super().allocate(file, position, size)

    def _take(self, path: str, size: int) -> None:
        self._taken[path] = self._taken.get(path, 0) + size
        self.room -= size

    def unlink(self, path: str) -> None:
        super().unlink(path)
        self.room += self._taken.pop(path, 0)
        if path.endswith(BALLAST):
            self.after_unlink()


@pytest.fixture
def disk() -> FullDisk:
    return FullDisk()


@pytest.fixture
def data(disk: FullDisk, tmp_path: Path) -> DataDirectory:
    return DataDirectory.open(disk, str(tmp_path / "data"), boot_id="b", pid=1)


@pytest.fixture
def log(disk: FullDisk, directory: str) -> Log:
    log = make_log(directory, files=disk)
    fill(log, 60)
    assert len(bases(directory)) > 2
    return log


def test_the_ballast_makes_room_for_a_deletion(
    disk: FullDisk, data: DataDirectory, log: Log
) -> None:
    """No block is free: the ballast's are taken. Without any, the deletion is refused."""
    assert data.ballast.ensure(BALLAST_BYTES)
    disk.room = 0
    delete_before(log, 40, data.ballast.lent, always)
    assert log.log_start_offset == 40
    disk.room = 0
    with pytest.raises(DiskFullError):
        delete_before(log, 80, data.ballast.lent, always)
    assert log.log_start_offset == 40


def test_no_ballast_is_made_while_a_deletion_needs_the_space(
    disk: FullDisk, data: DataDirectory, log: Log
) -> None:
    """The check of the disk comes round in just that moment: it does not take the space back."""
    assert data.ballast.ensure(BALLAST_BYTES)
    disk.room = 0
    disk.after_unlink = lambda: data.ballast.ensure(BALLAST_BYTES)
    delete_before(log, 40, data.ballast.lent, always)
    assert log.log_start_offset == 40


def test_a_deletion_waits_for_an_attempt_at_making_the_ballast(
    disk: FullDisk, data: DataDirectory, log: Log
) -> None:
    """It holds the last of the space before it fails; what it gives back is enough."""
    job = threading.Thread(target=delete_before, args=(log, 40, data.ballast.lent, always))

    def delete_meanwhile() -> None:
        job.start()
        assert disk.refused.wait(TIMEOUT_S)

    disk.room = BALLAST_BYTES - BLOCK_BYTES
    disk.before_refusing = delete_meanwhile
    assert not data.ballast.ensure(BALLAST_BYTES)
    job.join(TIMEOUT_S)
    assert log.log_start_offset == 40
