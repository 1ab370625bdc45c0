"""Where a benchmark works: not in a server's directory, not on a full disk, and nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bench
from bench import place
from bench.process import ROOT, Server
from ec import node_dir
from logd.storage import layout

WAIT_S = 60.0


def leftovers(directory) -> list[Path]:
    return list(directory.glob(place.PREFIX + "*"))


def wait_for(condition) -> None:
    """Wait until it holds; fails when it never does."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def test_the_marks_are_the_servers() -> None:
    """The names by which data directories are known are those that servers give."""
    assert place.MARKS == ((layout.LOCK_NAME, layout.META_NAME), (node_dir.LOCK_NAME,))


@pytest.mark.parametrize("inside", ["", "topics", "topics/of/mine"])
def test_a_running_servers_directory_is_refused(tmp_path, inside) -> None:
    """Neither it nor anything below it is written to; the refusal names it and a better place."""
    data = tmp_path / "data"
    with Server(data):
        before = sorted(data.rglob("*"))
        with pytest.raises(bench.BenchError, match=rf"{data} is the data dir.*--dir {tmp_path}"):
            bench.run("disk", directory=data / inside)
        assert [path for path in data.rglob("*") if place.PREFIX in str(path)] == []
        assert set(before) <= set(data.rglob("*"))


def test_a_nodes_directory_is_refused(tmp_path) -> None:
    """A storage node's directory is as little to be written to."""
    (tmp_path / node_dir.LOCK_NAME).touch()
    with pytest.raises(place.PlaceError, match="storage node"):
        place.refuse_data_directory(tmp_path)


def test_beside_a_servers_directory_is_allowed(tmp_path) -> None:
    """The same disk is what is to be measured."""
    (tmp_path / "data").mkdir()
    for name in place.MARKS[0]:
        (tmp_path / "data" / name).touch()
    place.refuse_data_directory(tmp_path)


def test_a_relative_directory_is_where_the_user_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path holds for the run's processes, too, which stand elsewhere."""
    monkeypatch.chdir(tmp_path)
    with place.own_directory(Path("disk")) as own:
        assert own.is_absolute()
        assert own.parent == tmp_path / "disk"
    assert list((tmp_path / "disk").iterdir()) == []


def test_too_little_space_is_refused_before_anything_is_written(tmp_path) -> None:
    """The refusal says how much is needed, and how much there is."""
    place.require_free(tmp_path, 1)
    with pytest.raises(place.PlaceError, match=r"GiB free; this needs 1048576\.0 GiB"):
        place.require_free(tmp_path, 2**50)


def test_the_directory_is_gone_after_an_error(tmp_path) -> None:
    """Whatever is raised inside, nothing stays."""

    def work() -> None:
        with place.own_directory(tmp_path) as own:
            (own / "file").write_text("x")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        work()
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_behind_by_a_signal(tmp_path, number) -> None:
    """Files and processes of a run are gone after Ctrl-C, a signal, and after kill -9."""
    command = [sys.executable, "-m", "bench", "append", "--dir", str(tmp_path), "--prime", "0"]
    with subprocess.Popen(
        [*command, "--seconds", "1", "--pairs", "1"], cwd=ROOT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as run:  # fmt: skip
        try:
            wait_for(lambda: any(tmp_path.glob("*/data/meta")) or run.poll() is not None)
            assert run.poll() is None
            if number == signal.SIGINT:  # as a terminal does it: to the whole group
                os.killpg(run.pid, number)
            else:
                run.send_signal(number)
            run.wait(WAIT_S)
        finally:
            run.kill()
    wait_for(lambda: leftovers(tmp_path) == [])
    wait_for(lambda: _processes_naming(str(tmp_path)) == [])
    assert run.returncode != 0


def _processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        if text.encode() in line:
            found.append(line.decode(errors="replace"))
    return found
