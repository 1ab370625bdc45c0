"""Read a catalog without touching it: SQLite may write to a database that it only reads from.

The database and its write-ahead log are copied into a scratch directory, and the copy is opened,
with every check that the server makes at start. So a crash's last transactions are seen as well.
"""

from __future__ import annotations

import json
import os.path
from typing import Final

from logd.errors import CorruptFileError
from logd.storage import layout
from logd.storage.catalog import SqliteCatalog
from logd.storage.files import Files
from logd.storage.state_file import read_state
from logd.units import MIB

WAL_SUFFIX: Final = "-wal"
_COPY_BYTES: Final = MIB
_META_BYTES_MAX: Final = MIB


def read_cluster_id(files: Files, directory: str) -> str:
    """Return the id of the cluster that a data directory belongs to.

    Raises:
        FileNotFoundError: the directory has no `meta`.
        CorruptFileError, UnsupportedFormatError, OSError: it cannot be used.
    """
    path = f"{directory}/{layout.META_NAME}"
    state = read_state(files, path, limit_bytes=_META_BYTES_MAX)
    try:
        cluster_id = json.loads(state.payload)["cluster_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(path, 0, f"holds no cluster id: {error}") from error
    assert isinstance(path, str)
    return str(cluster_id)


def open_catalog_copy(files: Files, path: str, *, cluster_id: str, scratch: str) -> SqliteCatalog:
    """Copy the catalog at `path` into the directory `scratch`, and open the copy.

    Raises:
        CorruptFileError: it is empty, damaged, or no catalog; the error names the original.
        LogdError: as SqliteCatalog.open; OSError: it cannot be read or copied.
    """
    assert os.path.basename(path) == layout.CATALOG_NAME
    if files.stat_size(path) == 0 and not files.exists(path + WAL_SUFFIX):
        raise CorruptFileError(path, 0, "is empty")
    copy = f"{scratch}/{layout.CATALOG_NAME}"
    _copy(files, path, copy)
    if files.exists(path + WAL_SUFFIX):
        _copy(files, path + WAL_SUFFIX, copy + WAL_SUFFIX)
    try:
        return SqliteCatalog.open(copy, cluster_id)
    except CorruptFileError as error:
        raise CorruptFileError(path, error.position, error.reason) from error


def _copy(files: Files, source: str, target: str) -> None:
    reading, writing = files.open_read(source), files.create(target)
    size = files.size(reading)
    assert size >= 0
    for position in range(0, size, _COPY_BYTES):
        data = files.read_at(reading, position, min(_COPY_BYTES, size - position))
        files.write_at(writing, position, [data])
