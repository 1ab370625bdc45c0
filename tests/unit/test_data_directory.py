"""The data directory: one server at a time, and never somebody else's files."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from logd.errors import CorruptFileError, DataDirectoryError
from logd.storage import clean_stop, state_file
from logd.storage.clean_stop import CleanLog, CleanStop, read_clean_stop
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files, OpenFile
from logd.units import GIB
from tests.cpu_time import least_cpu_s
from tests.unit.storage_faults import IO_ERROR, NO_SPACE, FaultyFiles, StoppedError

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
OTHER_BOOT = "ffffffff-89ab-cdef-0123-456789abcdef"
STOP = CleanStop(
    {
        (b"a" * 16, 0): CleanLog(3, 900, 0, 800, 4096, 10_000, (0, 500, 800)),
        (b"a" * 16, 7): CleanLog(0, 0, 2, 0, 0, 0),
    }
)


@pytest.fixture
def path(directory: str) -> str:
    return f"{directory}/data"


def open_directory(
    path: str,
    *,
    files: Files | None = None,
    boot_id: str = BOOT,
    new_cluster_id: str | None = None,
) -> DataDirectory:
    return DataDirectory.open(
        files or Files(), path, boot_id=boot_id, pid=4711, new_cluster_id=new_cluster_id
    )


def test_a_new_directory_is_made(path: str) -> None:
    """With those above it, closed to others, and with an id of its own as Kafka writes ids."""
    deep = f"{path}/a/b"
    directory = open_directory(deep)
    assert os.stat(deep).st_mode & 0o777 == 0o750
    assert len(directory.cluster_id) == 22
    assert (directory.clean_stop, directory.last_boot_id) == (None, None)
    assert sorted(os.listdir(deep)) == ["lock", "meta", "topics"]
    assert directory.topics_path == f"{deep}/topics"
    assert {directory.catalog_path, directory.journal_path} == {
        f"{deep}/catalog.sqlite",
        f"{deep}/sync.journal",
    }


def test_the_cluster_id_stays(path: str) -> None:
    """It is chosen once; two directories have different ones."""
    first = open_directory(path)
    cluster_id = first.cluster_id
    first.close()
    assert open_directory(path).cluster_id == cluster_id
    assert open_directory(f"{path}-2").cluster_id != cluster_id


def test_another_clusters_directory_is_refused(path: str) -> None:
    """Named with both ids."""
    open_directory(path, new_cluster_id="one").close()
    assert open_directory(path, new_cluster_id="one").cluster_id == "one"
    with pytest.raises(DataDirectoryError, match="cluster one, not to two"):
        open_directory(path, new_cluster_id="two")


def test_only_one_server_at_a_time(path: str) -> None:
    """The second is refused, told who has it, and can have it once the first let go."""
    first = open_directory(path)
    with pytest.raises(DataDirectoryError, match="in use by process 4711"):
        open_directory(path)
    assert Path(path, "lock").read_text() == f"4711 {BOOT}\n"
    first.close()
    open_directory(path).close()


def test_the_lock_goes_with_its_process(path: str) -> None:
    """Killed without warning, a server leaves a directory that opens at once."""
    program = (
        "import sys; from logd.storage.data_directory import DataDirectory as D;"
        "from logd.storage.files import Files;"
        f"d = D.open(Files(), sys.argv[1], boot_id={BOOT!r}, pid=1);"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(DataDirectoryError, match="in use by process 1"):
            open_directory(path)
        process.kill()
        process.wait()
    open_directory(path)


def test_a_foreign_directory_is_refused_untouched(path: str) -> None:
    """Somebody's home, or Kafka's logs, do not become a data directory."""
    os.mkdir(path)
    Path(path, "meta.properties").write_text("version=1\n")
    with pytest.raises(DataDirectoryError, match=r"'meta\.properties'"):
        open_directory(path)
    assert set(os.listdir(path)) <= {"meta.properties", "lock"}


def test_an_empty_file_system_is_no_foreign_directory(path: str) -> None:
    """lost+found lies in the root of a new one."""
    os.makedirs(f"{path}/lost+found")
    open_directory(path)


def test_a_file_in_its_place_is_refused(path: str) -> None:
    """Also where a directory above it is a file."""
    Path(path).write_text("x")
    with pytest.raises(DataDirectoryError, match="is not a directory"):
        open_directory(path)
    with pytest.raises(DataDirectoryError):
        open_directory(f"{path}/below")


def test_a_link_to_a_directory_is_followed(directory: str, path: str) -> None:
    """People keep data on another disk by a link; the real path counts, also for the lock."""
    os.mkdir(f"{directory}/real")
    os.symlink(f"{directory}/real", path)
    first = open_directory(path)
    assert first.path == f"{directory}/real"
    with pytest.raises(DataDirectoryError, match="in use"):
        open_directory(f"{directory}/real")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("method", ["make_directory", "create"])
def test_a_directory_that_cannot_be_written_is_said_in_one_line(
    path: str, method: str, number: int
) -> None:
    """Read-only or not ours: one clear line, whoever is running this."""
    files = FaultyFiles()
    files.failing[method] = number
    with pytest.raises(DataDirectoryError, match="cannot be written") as caught:
        open_directory(path, files=files)
    assert "\n" not in str(caught.value)


class OnFileSystem(Files):
    """Says that it is of a certain type and size."""

    def __init__(self, magic: int = 0xEF53, total: int = 0) -> None:
        self.magic = magic
        self.total = total

    def file_system_magic(self, path: str) -> int:
        return self.magic

    def total_bytes(self, path: str) -> int:
        return self.total


def test_network_file_systems_are_refused_and_volatile_ones_reported(path: str) -> None:
    """Locks and syncs cannot be relied on over NFS; on tmpfs nothing survives, which is said."""
    for magic, name in ((0x6969, "NFS"), (0xFF534D42, "CIFS")):
        with pytest.raises(DataDirectoryError, match=name):
            open_directory(path, files=OnFileSystem(magic))
    assert "tmpfs" in open_directory(path, files=OnFileSystem(0x01021994)).problems[0]
    assert open_directory(f"{path}-2", files=OnFileSystem()).problems == []


def test_a_newer_format_is_refused(path: str) -> None:
    """With the versions, and without touching anything."""
    open_directory(path).close()
    meta = json.dumps({"cluster_id": "x", "created_by": "9"}).encode()
    state_file.write_state(Files(), f"{path}/meta", meta, version=2)
    with pytest.raises(DataDirectoryError, match=r"version 2.*newer logd"):
        open_directory(path)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"cluster_id": 5}', b"\xff", b'"x"'])
def test_a_senseless_meta_file_is_refused(path: str, payload: bytes) -> None:
    """Intact, but it holds no cluster id."""
    open_directory(path).close()
    state_file.write_state(Files(), f"{path}/meta", payload, version=1)
    with pytest.raises(DataDirectoryError, match="meta"):
        open_directory(path)


def test_a_damaged_or_lost_meta_file_is_refused(path: str) -> None:
    """No new id is invented for old data."""
    open_directory(path).close()
    data = bytearray(Path(path, "meta").read_bytes())
    data[-3] ^= 1
    Path(path, "meta").write_bytes(data)
    with pytest.raises(DataDirectoryError, match="backup"):
        open_directory(path)
    os.unlink(f"{path}/meta")
    with pytest.raises(DataDirectoryError, match="'topics'"):
        open_directory(path)


def test_the_clean_stop_is_read_and_stays_until_it_is_removed(path: str) -> None:
    """Opening alone does not spend it; removing it does, durably, and only then is it gone."""
    first = open_directory(path)
    first.write_clean_stop(STOP)
    first.close()
    for _ in range(2):
        directory = open_directory(path)
        assert directory.clean_stop == STOP
        directory.close()
    files = FaultyFiles()
    directory = open_directory(path, files=files)
    files.calls.clear()
    directory.remove_clean_stop()
    assert files.calls[-2:] == ["unlink", "sync_directory"]
    assert directory.clean_stop is None
    directory.close()
    assert open_directory(path).clean_stop is None


def test_a_damaged_marker_is_reported_and_means_a_crash(path: str) -> None:
    """Each flipped byte and each cut: start as after a crash, say so, never refuse."""
    open_directory(path).write_clean_stop(STOP)
    data = Path(path, "clean-stop").read_bytes()
    damaged = [data[:at] for at in range(0, len(data), 7)]
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        damaged.append(bytes(changed))
    for case in damaged:
        Path(path, "clean-stop").write_bytes(case)
        directory = open_directory(path)
        assert directory.clean_stop is None
        assert "clean-stop" in directory.problems[0]
        directory.remove_clean_stop()
        directory.close()


ROW = ["61" * 16, 0, 3, 900, 0, 800, 4096, 10_000, [0, 500, 800]]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "61"), (0, "zz" * 16), (0, 5), (1, -1), (1, 10**6), (1, "0"), (2, -1), (2, 901),
        (3, 2**63), (3, 900.5), (4, -1), (5, 901), (6, -1), (6, 10_001), (7, None),
        (8, [0, 800, 500]), (8, [0, 500]), (8, ["0", 800]), (8, [-1, 800]), (8, 5), (2, True),
    ],
)  # fmt: skip
def test_a_marker_that_says_what_cannot_be_is_damaged(path: str, place: int, value: object) -> None:
    """Intact bytes are checked for sense before anyone relies on them."""
    row = list(ROW)
    row[place] = value  # type: ignore[call-overload]  # Hostile on purpose.
    for document in ({"cluster_id": "c", "logs": [row]}, {"cluster_id": "c", "logs": [ROW[:8]]}):
        payload = json.dumps(document).encode()
        state_file.write_state(Files(), path, payload, version=1)
        with pytest.raises(CorruptFileError):
            read_clean_stop(Files(), path, cluster_id="c")


def test_another_clusters_marker_is_damage(path: str) -> None:
    """Copied from elsewhere, it vouches for nothing here."""
    clean_stop.write_clean_stop(Files(), path, STOP, cluster_id="one")
    assert read_clean_stop(Files(), path, cluster_id="one") == STOP
    with pytest.raises(CorruptFileError, match="cluster one"):
        read_clean_stop(Files(), path, cluster_id="two")


def test_the_marker_of_a_thousand_partitions_is_read_fast(path: str) -> None:
    """Start-up has half a second for everything; the best of five takes a part of 10 ms."""
    bases = tuple(range(0, 10_000, 1000))
    logs = {
        (number.to_bytes(16, "big"), 0): CleanLog(0, 9500, 0, 9000, 10, 10**7, bases)
        for number in range(1000)
    }
    clean_stop.write_clean_stop(Files(), path, CleanStop(logs), cluster_id="c")
    assert len(read_clean_stop(Files(), path, cluster_id="c").logs) == 1000
    # Twice the goal: machines are shared.
    assert least_cpu_s(lambda: read_clean_stop(Files(), path, cluster_id="c")) < 0.020


def test_the_boot_id_is_recorded_when_writing_begins(path: str) -> None:
    """Not before: a second crash before recovery is done must still be seen as the power cut's."""
    first = open_directory(path)
    first.remove_clean_stop()
    first.close()
    second = open_directory(path, boot_id=OTHER_BOOT)
    assert second.last_boot_id == BOOT
    second.close()
    third = open_directory(path, boot_id=OTHER_BOOT)
    assert third.last_boot_id == BOOT
    third.remove_clean_stop()
    third.close()
    assert open_directory(path).last_boot_id == OTHER_BOOT


def test_a_damaged_boot_record_is_another_boot(path: str) -> None:
    """Reported, and taken as the careful case."""
    first = open_directory(path)
    first.remove_clean_stop()
    first.close()
    Path(path, "boot").write_bytes(b"x")
    directory = open_directory(path)
    assert directory.last_boot_id is None
    assert "boot" in directory.problems[0]


@pytest.mark.parametrize("kind", ["kill", "lost", "torn"])
def test_stopped_at_any_call_a_start_is_clean_only_after_a_clean_stop(
    directory: str, kind: str, rng: random.Random
) -> None:
    """However far the last run came: if it may have written, the next start finds no marker."""
    for stop_before in range(200):
        path = f"{directory}/{stop_before}"
        first = open_directory(path, new_cluster_id="c")
        first.write_clean_stop(STOP)
        first.close()
        files = FaultyFiles(stop_before=stop_before)
        may_have_written = is_stopped_clean = False
        second: DataDirectory | None = None
        try:
            second = open_directory(path, files=files, boot_id=OTHER_BOOT)
            second.remove_clean_stop()
            may_have_written = True
            second.write_clean_stop(CleanStop({}))
            is_stopped_clean = True
        except StoppedError:
            pass  # What this test is about.
        if second is not None:
            second.close()
        if kind != "kill":
            files.power_cut(path, rng if kind == "torn" else None)
        third = open_directory(path)
        if is_stopped_clean:
            assert third.clean_stop == CleanStop({})
            break
        if may_have_written:
            assert third.clean_stop in (None, CleanStop({}))
            assert third.last_boot_id == OTHER_BOOT
        else:
            assert third.clean_stop in (None, STOP)
        third.close()
    else:
        pytest.fail("it never ended")
    assert stop_before > 10


@pytest.mark.parametrize("kind", ["kill", "lost"])
def test_a_first_start_stopped_at_any_call_can_be_repeated(directory: str, kind: str) -> None:
    """A half-made directory is made whole by the next start, not refused as somebody's."""
    for stop_before in range(100):
        path = f"{directory}/{stop_before}"
        files = FaultyFiles(stop_before=stop_before)
        is_done = False
        opened: DataDirectory | None = None
        try:
            opened = open_directory(path, files=files)
            is_done = True
        except StoppedError:
            pass  # What this test is about.
        if opened is not None:
            opened.close()
        if kind == "lost" and os.path.isdir(path):
            files.power_cut(path)
        open_directory(path).close()
        if is_done:
            break
    assert is_done
    assert stop_before > 5


def test_the_reserve_is_what_is_said_or_a_twentieth_or_a_gibibyte(path: str) -> None:
    """Explicit wins, also 0; else the smaller of 1 GiB and 5 %."""
    directory = open_directory(path, files=OnFileSystem(total=10 * GIB))
    assert directory.reserve_bytes(None) == 10 * GIB // 20
    assert directory.reserve_bytes(0) == 0
    assert directory.reserve_bytes(123) == 123
    directory.close()
    assert open_directory(path, files=OnFileSystem(total=1000 * GIB)).reserve_bytes(None) == GIB


def test_ballast_is_made_lent_and_made_again(path: str) -> None:
    """Real blocks, of the size that was asked for; and not while somebody needs the space."""
    directory = open_directory(path)
    with directory.ballast.lent():  # There is none yet.
        assert not directory.ballast.ensure(65_536)
    for size in (65_536, 131_072, 131_072):
        assert directory.ballast.ensure(size)
        assert os.stat(f"{path}/ballast").st_size == size
        assert os.stat(f"{path}/ballast").st_blocks * 512 >= size
    with directory.ballast.lent():
        assert not os.path.exists(f"{path}/ballast")
        assert not directory.ballast.ensure(65_536)
    assert not os.path.exists(f"{path}/ballast")
    assert directory.ballast.ensure(65_536)


def test_no_space_for_ballast_is_no_error(path: str) -> None:
    """It is simply not there, not even a part of it; another error is one."""
    files = FaultyFiles()
    directory = open_directory(path, files=files)
    files.failing["allocate"] = NO_SPACE
    assert not directory.ballast.ensure(65_536)
    assert not os.path.exists(f"{path}/ballast")
    files.failing["allocate"] = IO_ERROR
    with pytest.raises(OSError, match="Input/output"):
        directory.ballast.ensure(65_536)


class FullForNotes(Files):
    """Has no space for the text in the lock file."""

    def write_at(self, file: OpenFile, position: int, buffers: object) -> int:
        raise OSError(NO_SPACE, "no space", file.path)


def test_a_full_disk_does_not_keep_a_server_from_starting(path: str) -> None:
    """An existing directory opens without a byte of space: what frees space is the server."""
    open_directory(path).close()
    directory = open_directory(path, files=FullForNotes())
    assert directory.cluster_id
    with pytest.raises(DataDirectoryError, match="in use"):
        open_directory(path)
