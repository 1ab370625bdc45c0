"""Writing one segment that compaction makes: the log, with its two indexes, under other names.

    <20 digits>.<attempt>.log.cleaned
    <20 digits>.<attempt>.index.cleaned
    <20 digits>.<attempt>.timeindex.cleaned

The digits are the base offset that the segment will have, the attempt is a number that no earlier
run of the cleaner used in this directory. Nobody reads the files until they have their own names
(`swap`); what a crash leaves of them is removed at the next start.

The index entries are collected in memory (`index_bytes`), at most segment.index.bytes of each, and
written behind the log.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from logd.record.batch import BatchHeader
from logd.storage.clean_order import NewSegment
from logd.storage.files import Buffer, Files
from logd.storage.index_bytes import IndexBytes
from logd.storage.layout import (
    CLEANED_SUFFIX,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    TIME_INDEX_SUFFIX,
    cleaned_file_name,
)
from logd.units import INT32_MAX, MIB

SUFFIXES: Final = (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX)
_WRITE_BYTES: Final = MIB
_WRITE_BACK_BYTES: Final = MIB
"""The device has no more than this to do before an append's sync has its turn."""


class CleanedWriter:
    """Takes batches in order; `finish` makes them durable.

    Args:
        base_offset: of the segment, at or below all offsets in it.
        on_write: is told of bytes before they are written; what it raises stops the round.

    Raises:
        OSError: from every method; `unlink_cleaned` then removes what is there.
    """

    def __init__(
        self,
        files: Files,
        directory: str,
        *,
        base_offset: int,
        attempt: int,
        index_bytes_max: int,
        index_interval_bytes: int,
        on_write: Callable[[int], None],
    ) -> None:
        assert base_offset >= 0
        self._files = files
        self._directory = directory
        self._attempt = attempt
        self._on_write = on_write
        self.base_offset = base_offset
        self.size = 0
        self._file = files.create(self._path(LOG_SUFFIX))
        self._buffers: list[Buffer] = []
        self._written = 0
        self._written_back = 0
        self._indexes = IndexBytes(
            base_offset=base_offset,
            index_bytes_max=index_bytes_max,
            index_interval_bytes=index_interval_bytes,
        )

    def _path(self, suffix: str) -> str:
        return f"{self._directory}/{cleaned_file_name(self.base_offset, self._attempt, suffix)}"

    def fits(self, header: BatchHeader, size: int) -> bool:
        """Whether an index entry's 32 bits can name the batch's position and offset."""
        relative = header.last_offset - self.base_offset
        return not self.size or (self.size + size <= INT32_MAX and relative <= INT32_MAX)

    def add(self, header: BatchHeader, data: Buffer) -> None:
        """Append a batch; the buffer must stay as it is until `finish`.

        Args:
            header: as it is in `data`, as far as offsets, timestamps and count go.
        """
        size = len(data)
        assert self.fits(header, size)
        self._indexes.add(header, self.size, size)
        self._buffers.append(data)
        self.size += size
        if self.size - self._written >= _WRITE_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._written + sum(map(len, self._buffers)) == self.size
        self._on_write(self.size - self._written)
        self._files.write_at(self._file, self._written, self._buffers)
        self._buffers = []
        self._written = self.size
        if (size := self._written - self._written_back) >= _WRITE_BACK_BYTES:
            # Else one sync at the end holds up all others; as would one a MiB, by its commits.
            self._files.write_back(self._file, self._written_back, size)
            self._written_back = self._written

    def finish(self) -> NewSegment:
        """Write what is left, and the indexes; all bytes are on the device once this returns.

        The names are durable after the caller synced the directory.
        """
        if self._buffers:
            self._flush()
        assert self._written == self.size
        self._files.sync(self._file)
        index, time_index = self._indexes.finish()
        for suffix, data in ((INDEX_SUFFIX, index), (TIME_INDEX_SUFFIX, time_index)):
            file = self._files.create(self._path(suffix))
            if data:
                self._files.write_at(file, 0, [data])
            self._files.sync(file)
        return NewSegment(self.base_offset, self.size, len(index), len(time_index))


def unlink_cleaned(files: Files, directory: str, attempt: int) -> None:
    """Remove what one run of the cleaner wrote and nobody took over; best effort."""
    assert attempt >= 0
    with contextlib.suppress(OSError):  # What stays is removed at the next start.
        for name in files.list_directory(directory, suffix=CLEANED_SUFFIX):
            if any(name.endswith(f".{attempt}{suffix}{CLEANED_SUFFIX}") for suffix in SUFFIXES):
                with contextlib.suppress(OSError):
                    files.unlink(f"{directory}/{name}")
