"""The data directory: made, locked, checked, and what is known of the last run.

Names are in `layout`. Beside the topics, the catalog and the sync journal it holds:

* `lock`: held with flock(2) as long as the server runs, so it ends with the process however that
  ends. Its text, "<pid> <boot id>\\n", only serves the message that another server gets.
* `meta`: a state file (state_file, payload version 1 = FORMAT_VERSION), JSON in UTF-8:
  {"cluster_id": "…", "created_by": "<version>"}. It is the first file that a new directory gets. A
  directory with other things in it and without `meta` is somebody else's and is refused.
* `boot`: a state file (payload version 1): the boot id of the run that wrote last, as text.
* `clean-stop`: see clean_stop.
* `clock`: see clock_note; `scrub`: see scrub_note; `findings`: see findings_note.
* `ballast`: see ballast.

The order at a start, which makes each crash safe: the marker of the last clean stop is read by
`open`; logs are opened or recovered, which writes nothing to a log that the marker vouches for;
then `remove_clean_stop` records the boot id and removes the marker, durably; only then does the
first write to a log follow. The boot id is recorded that late on purpose: while logs still wait for
their recovery from a power cut, a second crash must not make that cut look like a mere kill.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os.path
import uuid
from typing import TYPE_CHECKING, Final

from logd import __version__
from logd.errors import CorruptFileError, DataDirectoryError, UnsupportedFormatError
from logd.policy.clock_guard import ClockNote
from logd.storage import layout
from logd.storage.ballast import Ballast
from logd.storage.clean_stop import CleanStop, read_clean_stop, write_clean_stop
from logd.storage.clock_note import read_clock_note, write_clock_note
from logd.storage.files import Files, OpenFile
from logd.storage.state_file import read_state, remove_state, write_state
from logd.units import GIB, KIB

if TYPE_CHECKING:
    from logd.storage.findings_note import FindingsNote
    from logd.storage.scrub_note import ScrubNote

FORMAT_VERSION: Final = 1
BOOT_VERSION: Final = 1
# disk.reserve.bytes, where nothing is said: the smaller of the two.
RESERVE_BYTES_MAX: Final = GIB
RESERVE_FRACTION: Final = 20  # One twentieth, 5 %.

_META_BYTES_MAX: Final = 64 * KIB
_LOCK_BYTES_MAX: Final = 256
_RANDOM_UUID_PATH: Final = "/proc/sys/kernel/random/uuid"
_MAKE_DEPTH_MAX: Final = 64
# What a directory that was never finished, or is a file system's root, may hold.
_NAMES_OF_NO_MEANING: Final = frozenset(
    (layout.LOCK_NAME, layout.META_NAME + layout.TEMP_SUFFIX, "lost+found")
)
# statfs(2) types on which a lock, a sync or a mapping does not mean what it must.
_REFUSED_FILE_SYSTEMS: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0x73757245: "Coda",
    0x564C: "NCP",
    0x9FA0: "proc",
    0x62656572: "sysfs",
}
_VOLATILE_FILE_SYSTEMS: Final = {0x01021994: "tmpfs", 0x858458F6: "ramfs"}


class DataDirectory:
    """An open, locked data directory. Made by `open`; the lock goes with `close` or the process.

    Attributes:
        path: absolute, without links.
        ballast: space that is kept for deleting when the disk is full.
        cluster_id: 22 characters, as Kafka writes ids.
        clean_stop: what the last clean stop noted; None after a crash and in a new directory.
        last_boot_id: of the run that wrote last; None if no run has come so far.
        last_clock: what that run noted of the time; None where it noted nothing.
        problems: what a person should know, one line each.
    """

    def __init__(self, files: Files, path: str, lock: OpenFile, *, boot_id: str) -> None:
        assert os.path.isabs(path)
        self._files = files
        self._lock: OpenFile | None = lock
        self._boot_id = boot_id
        self.path = path
        self.ballast: Final = Ballast(files, self._path_of(layout.BALLAST_NAME))
        self.cluster_id = ""
        self.clean_stop: CleanStop | None = None
        self.last_boot_id: str | None = None
        self.last_clock: ClockNote | None = None
        self.problems: list[str] = []

    @classmethod
    def open(
        cls,
        files: Files,
        path: str,
        *,
        boot_id: str,
        pid: int,
        new_cluster_id: str | None = None,
    ) -> DataDirectory:
        """Open the data directory, or make it, and lock it.

        Args:
            boot_id: of the running kernel.
            pid: of this process, for the message that others get.
            new_cluster_id: for a directory that is made now; None: the kernel's random one.

        Raises:
            DataDirectoryError: it cannot be used; one line says why. Nothing in it was changed, but
                for an empty directory or lock file that may have been made.
        """
        assert boot_id
        assert pid > 0
        try:
            path = files.real_path(path)
            _make_directories(files, path)
            problem = _check_file_system(files, path)
            lock = _take_lock(files, path, boot_id=boot_id, pid=pid)
            directory = cls(files, path, lock, boot_id=boot_id)
            directory._read_meta(new_cluster_id)
            if not files.exists(directory.topics_path):
                files.make_directory(directory.topics_path)
                files.sync_directory(path)
            directory._read_last_run()
        except OSError as error:
            raise _unusable(path, error) from error
        if problem:
            directory.problems.append(problem)
        return directory

    def _read_meta(self, new_cluster_id: str | None) -> None:
        path = self._path_of(layout.META_NAME)
        try:
            state = read_state(
                self._files, path, limit_bytes=_META_BYTES_MAX, newest_version=FORMAT_VERSION
            )
            cluster_id = json.loads(state.payload)["cluster_id"]
        except FileNotFoundError:
            self._make_meta(path, new_cluster_id)
            return
        except UnsupportedFormatError as error:
            raise DataDirectoryError(f"{error}: start a newer logd on {self.path}") from error
        except CorruptFileError as error:
            raise DataDirectoryError(f"{error}; put the file back from a backup") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataDirectoryError(f"{path}: holds no cluster id: {error}") from error
        if not isinstance(cluster_id, str) or not cluster_id:
            raise DataDirectoryError(f"{path}: holds no cluster id")
        if new_cluster_id is not None and new_cluster_id != cluster_id:
            raise DataDirectoryError(
                f"{self.path} belongs to cluster {cluster_id}, not to {new_cluster_id}"
            )
        self.cluster_id = cluster_id

    def _make_meta(self, path: str, new_cluster_id: str | None) -> None:
        foreign = set(self._files.list_directory(self.path)) - _NAMES_OF_NO_MEANING
        if foreign:
            raise DataDirectoryError(
                f"{self.path} is not empty ({min(foreign)!r}) and has no {layout.META_NAME!r}: "
                "it is no data directory of logd; give an empty or a new one"
            )
        self.cluster_id = new_cluster_id or _random_cluster_id(self._files)
        meta = {"cluster_id": self.cluster_id, "created_by": __version__}
        write_state(self._files, path, json.dumps(meta).encode(), version=FORMAT_VERSION)
        assert self.cluster_id

    def _read_last_run(self) -> None:
        boot_path = self._path_of(layout.BOOT_NAME)
        try:
            state = read_state(self._files, boot_path, limit_bytes=_LOCK_BYTES_MAX)
            self.last_boot_id = state.payload.decode("ascii", "replace")
        except FileNotFoundError:
            self.last_boot_id = None  # No run has come as far as writing.
        except (CorruptFileError, UnsupportedFormatError) as error:
            self.problems.append(f"{error}; taken as another boot of the machine")
        marker_path = self._path_of(layout.CLEAN_STOP_NAME)
        try:
            self.clean_stop = read_clean_stop(self._files, marker_path, cluster_id=self.cluster_id)
        except FileNotFoundError:
            self.clean_stop = None  # The last stop was not clean, or there was none.
        except (CorruptFileError, UnsupportedFormatError, OSError) as error:
            self.problems.append(f"{error}; starting as after a crash")
        try:
            self.last_clock = read_clock_note(self._files, self._path_of(layout.CLOCK_NAME))
        except FileNotFoundError:
            self.last_clock = None  # No run came so far.
        except (CorruptFileError, UnsupportedFormatError) as error:
            self.problems.append(f"{error}; retention takes the clock as it is")
        assert self.cluster_id

    # --- paths ------------------------------------------------------------------------------------

    def _path_of(self, name: str) -> str:
        assert "/" not in name
        return f"{self.path}/{name}"

    @property
    def topics_path(self) -> str:
        """The directory of all partition directories."""
        return self._path_of(layout.TOPICS_NAME)

    @property
    def catalog_path(self) -> str:
        """The catalog's database."""
        return self._path_of(layout.CATALOG_NAME)

    @property
    def journal_path(self) -> str:
        """The sync journal."""
        return self._path_of(layout.JOURNAL_NAME)

    # --- clean stop -------------------------------------------------------------------------------

    def remove_clean_stop(self) -> None:
        """Record that this boot writes from now on, and remove the marker of the last clean stop.

        Called when all logs are open and recovered, before the first write to any. Durable once it
        returns: a crash from then on is seen as one.

        Raises:
            OSError: do not write; the marker may be there.
        """
        assert self._lock is not None, "the data directory is closed"
        boot_path = self._path_of(layout.BOOT_NAME)
        if self.last_boot_id != self._boot_id:
            write_state(self._files, boot_path, self._boot_id.encode(), version=BOOT_VERSION)
            self.last_boot_id = self._boot_id
        remove_state(self._files, self._path_of(layout.CLEAN_STOP_NAME))
        self.clean_stop = None

    def write_clean_stop(self, stop: CleanStop) -> None:
        """Leave the marker of a clean stop; all logs are closed and synced. Durable on return.

        Raises:
            OSError: the next start recovers as after a crash, or not; both are right.
        """
        assert self._lock is not None, "the data directory is closed"
        path = self._path_of(layout.CLEAN_STOP_NAME)
        write_clean_stop(self._files, path, stop, cluster_id=self.cluster_id)

    def write_clock_note(self, note: ClockNote) -> None:
        """Note what time it is for the next run; durable once this returns.

        Raises:
            OSError: the last note stays.
        """
        assert self._lock is not None, "the data directory is closed"
        write_clock_note(self._files, self._path_of(layout.CLOCK_NAME), note)

    def read_scrub_note(self) -> ScrubNote:
        """Return how far scrub had come; where nobody knows, nowhere. Blocking."""
        assert self._lock is not None, "the data directory is closed"
        # Here and below: a server that has nothing to scrub imports nothing of scrub.
        from logd.storage.scrub_note import ScrubNote, read_scrub_note

        try:
            return read_scrub_note(self._files, self._path_of(layout.SCRUB_NAME))
        except (FileNotFoundError, CorruptFileError, UnsupportedFormatError):
            return ScrubNote()  # Every place begins a round anew: nothing is lost but time.

    def write_scrub_note(self, note: ScrubNote) -> None:
        """Note how far scrub has come; durable once this returns. Blocking.

        Raises:
            OSError: the last note stays.
        """
        assert self._lock is not None, "the data directory is closed"
        from logd.storage.scrub_note import write_scrub_note

        write_scrub_note(self._files, self._path_of(layout.SCRUB_NAME), note)

    def read_findings_note(self) -> FindingsNote:
        """Return what was found of chunks; where nobody knows, nothing. Blocking.

        Raises:
            OSError: it cannot be read.
        """
        assert self._lock is not None, "the data directory is closed"
        from logd.storage.findings_note import FindingsNote, read_findings_note

        try:
            return read_findings_note(self._files, self._path_of(layout.FINDINGS_NAME))
        except (FileNotFoundError, CorruptFileError, UnsupportedFormatError):
            return FindingsNote()  # What still is wrong is found again.

    def write_findings_note(self, note: FindingsNote) -> None:
        """Keep what was found of chunks; durable once this returns. Blocking.

        Raises:
            OSError: the last note stays.
        """
        assert self._lock is not None, "the data directory is closed"
        from logd.storage.findings_note import write_findings_note

        write_findings_note(self._files, self._path_of(layout.FINDINGS_NAME), note)

    # --- space ------------------------------------------------------------------------------------

    def reserve_bytes(self, configured: int | None) -> int:
        """Return the bytes of free space below which appends are refused.

        Args:
            configured: disk.reserve.bytes; None: the smaller of 1 GiB and 5 % of the file system.
        """
        assert configured is None or configured >= 0
        if configured is not None:
            return configured
        return min(RESERVE_BYTES_MAX, self._files.total_bytes(self.path) // RESERVE_FRACTION)

    def free_bytes(self) -> int:
        """Return the bytes that may still be written to the file system."""
        free = self._files.free_bytes(self.path)
        assert free >= 0
        return free

    def close(self) -> None:
        """Let go of the lock; another server may open the directory."""
        # Closed when the last reference is gone, and this is the only one.
        self._lock = None
        assert self._lock is None


# --- opening --------------------------------------------------------------------------------------


def _make_directories(files: Files, path: str) -> None:
    """Make the directory and those above it that are missing, each durable in the one above."""
    missing: list[str] = []
    at = path
    while not files.exists(at):
        missing.append(at)
        at = os.path.dirname(at)
        if len(missing) > _MAKE_DEPTH_MAX:
            raise DataDirectoryError(f"{path}: {len(missing)} directories above it are missing")
    if not files.is_directory(at):
        raise DataDirectoryError(f"{at} is not a directory")
    for new in reversed(missing):
        with contextlib.suppress(FileExistsError):  # Another start made it in this moment.
            files.make_directory(new)
        files.sync_directory(os.path.dirname(new))
    assert files.is_directory(path)


def _check_file_system(files: Files, path: str) -> str | None:
    """Refuse file systems on which nothing can be promised; return a warning about others."""
    assert os.path.isabs(path)
    magic = files.file_system_magic(path)
    refused = _REFUSED_FILE_SYSTEMS.get(magic)
    if refused is not None:
        raise DataDirectoryError(
            f"{path} is on {refused}, where locks and syncs cannot be relied on; use a local disk"
        )
    volatile = _VOLATILE_FILE_SYSTEMS.get(magic)
    return f"{path} is on {volatile}: nothing in it survives a reboot" if volatile else None


def _take_lock(files: Files, path: str, *, boot_id: str, pid: int) -> OpenFile:
    """Lock the directory and leave a note of who has it."""
    lock_path = f"{path}/{layout.LOCK_NAME}"
    assert os.path.isabs(lock_path)
    try:
        file = files.open_write(lock_path)
    except FileNotFoundError:
        try:
            file = files.create(lock_path)
        except FileExistsError:  # Another server made it in this moment; the lock decides.
            file = files.open_write(lock_path)
    if not files.lock(file):
        holder = files.read_at(file, 0, _LOCK_BYTES_MAX).decode("ascii", "replace").split()
        who = f"process {holder[0]}" if holder and holder[0].isdigit() else "another process"
        raise DataDirectoryError(f"{path} is in use by {who}; stop it, or give another directory")
    try:
        note = f"{pid} {boot_id}\n".encode()
        files.truncate(file, 0)
        files.write_at(file, 0, [note])
    except OSError as error:
        # The lock holds without the note, and a server must start on a full disk.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
    return file


def _random_cluster_id(files: Files) -> str:
    """Return a new random id of 22 characters, from the kernel, by way of `files`."""
    text = files.read_whole(_RANDOM_UUID_PATH, limit_bytes=64).decode("ascii").strip()
    # In front, a dash would make the id look like an option to command lines.
    cluster_id = base64.urlsafe_b64encode(uuid.UUID(text).bytes).decode("ascii").rstrip("=")
    cluster_id = cluster_id.replace("-", "_")
    assert len(cluster_id) == 22
    return cluster_id


def _unusable(path: str, error: OSError) -> DataDirectoryError:
    """Return one clear line for what the operating system said."""
    assert error.errno != 0
    reason = error.strerror or str(error)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return DataDirectoryError(
            f"{error.filename or path} cannot be written: {reason}; "
            "the server needs a directory of its own"
        )
    return DataDirectoryError(f"{error.filename or path} cannot be used: {reason}")
