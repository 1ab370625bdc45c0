"""Cut the tail of a segment, after saving what is cut beside the log.

    <20-digit base>.<position>.cut      (-1, -2, … where a file of that name holds something else)

The saved bytes are on the device before the segment is shortened; so a crash in between leaves
both. A repetition finds the same bytes saved already and does not save them twice.
"""

from __future__ import annotations

import errno
from typing import Final

from logd.errors import DiskFullError
from logd.storage.files import Files, OpenFile
from logd.storage.layout import TEMP_SUFFIX, offset_name
from logd.storage.partition_listing import CUT_SUFFIX
from logd.storage.recovery_report import CutTail
from logd.units import MIB

COPY_BYTES: Final = MIB
SAVED_TAILS_MAX: Final = 100
"""Different tails cut at the same position; after so many the disk is not to be trusted."""


def cut_tail(
    files: Files,
    directory: str,
    file: OpenFile,
    *,
    base_offset: int,
    position: int,
    size: int,
    reason: str,
) -> CutTail:
    """Save the bytes `position` .. `size` of a segment and cut them off.

    Durability: once this returns, both are on the device.

    Raises:
        DiskFullError: no space to save them; nothing was cut. OSError: as the system gave it.
    """
    assert 0 <= position < size
    try:
        saved_path = _save(files, directory, file, base_offset, position, size)
    except OSError as error:
        raise DiskFullError(
            f"{file.path}: {size - position} bytes behind position {position} must be cut off, "
            f"but cannot be saved first: {error}"
        ) from error
    files.truncate(file, position)
    files.sync(file)
    return CutTail(file.path, position, size - position, saved_path, reason)


def _save(
    files: Files, directory: str, file: OpenFile, base_offset: int, position: int, size: int
) -> str:
    stem = f"{directory}/{offset_name(base_offset)}.{position}"
    for number in range(SAVED_TAILS_MAX):
        path = f"{stem}{f'-{number}' if number else ''}{CUT_SUFFIX}"
        if not files.exists(path):
            _copy(files, directory, file, position, size, path)
            return path
        if _is_same(files, path, file, position, size):
            return path
    raise OSError(errno.EEXIST, "too many different tails were cut here", stem)


def _copy(
    files: Files, directory: str, file: OpenFile, position: int, size: int, path: str
) -> None:
    assert path.endswith(CUT_SUFFIX)
    temp = path + TEMP_SUFFIX
    saved = files.create_or_truncate(temp)
    for at in range(position, size, COPY_BYTES):
        data = files.read_at(file, at, min(COPY_BYTES, size - at))
        files.write_at(saved, at - position, [data])
    files.sync(saved)
    files.rename(temp, path)
    files.sync_directory(directory)


def _is_same(files: Files, path: str, file: OpenFile, position: int, size: int) -> bool:
    saved = files.open_read(path)
    if files.size(saved) != size - position:
        return False
    return all(
        files.read_at(saved, at - position, COPY_BYTES)
        == files.read_at(file, at, min(COPY_BYTES, size - at))
        for at in range(position, size, COPY_BYTES)
    )
