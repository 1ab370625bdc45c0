"""What somebody sees who has the wrong port, the wrong directory, or nothing to work on yet."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main
from cli.cold import _print as print_coded
from cli.cold_outlook import _print_margins as print_margins
from cli.errors import Unreachable
from cli.kafka import Connection
from cli.main import root
from cli.node_server import vacancy
from cli.options import Address
from logd.errors import DataDirectoryError
from logd.net.bind import open_listener
from logd.storage.data_directory import DataDirectory
from logd.storage.files import Files

TERMINAL_WIDTH = 80


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["closes", "http"])
def stranger(request: pytest.FixtureRequest) -> Iterator[Address]:
    """A program that takes connections and is not Kafka: it closes them, or answers as a web's."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                peer.recv(4096)
                peer.sendall(request.param)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    yield Address("127.0.0.1", listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_port_that_is_not_kafkas_is_told_from_one_that_is_slow(stranger: Address) -> None:
    """What does not answer the smallest request is named at once, not tried for a minute."""
    with pytest.raises(Unreachable, match="does not answer as a Kafka server does"):
        Connection(stranger)


@pytest.mark.parametrize("stranger", [b""], indirect=True)
def test_a_port_that_is_not_the_admin_port_is_not_called_absent(
    stranger: Address, capfd: pytest.CaptureFixture[str]
) -> None:
    """Who is answered by somebody else is not told to start a server."""
    assert main.run(["status", "--admin", str(stranger)]) == 3
    said = capfd.readouterr().err
    assert "does not answer as logd's admin port does" in said
    assert "no server" not in said


def test_a_port_in_use_is_said_in_words() -> None:
    """The line has no number of the operating system's, and says what to do."""
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="in use; stop who listens") as caught,
    ):
        open_listener(*taken.getsockname()[:2])
    assert "Errno" not in str(caught.value)


def test_a_data_directory_that_cannot_be_made_is_said_in_words() -> None:
    """The place is named once, and the reason is in words."""
    with pytest.raises(DataDirectoryError, match="/proc/logd-none cannot be used: No such") as no:
        DataDirectory.open(Files(), "/proc/logd-none", boot_id="x", pid=1)
    assert "Errno" not in str(no.value)


def test_an_empty_directory_is_not_only_called_unmounted(tmp_path: Path) -> None:
    """An empty or absent node's directory gets the next step; any other one does not."""
    for directory in (tmp_path, tmp_path / "absent"):
        said = vacancy(Files(), str(directory))
        assert said is not None
        assert "logd node add" in said
    (tmp_path / "x").touch()
    assert vacancy(Files(), str(tmp_path)) is None


def test_benchmarks_do_not_make_the_directory_they_measure(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A mistyped mount point is refused: what is made instead would be on another disk."""
    absent = tmp_path / "mnt" / "new-dsk"
    assert main.run(["bench", "disk", "--dir", str(absent)]) == 2
    assert "does not exist" in capfd.readouterr().err
    assert not absent.parent.exists()


@pytest.mark.parametrize(("word", "hint"), [("encoded", True), ("thawed", False)])
def test_coding_nothing_says_why(word: str, hint: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Where no segment is sealed, `cold encode` says what seals one."""
    job = {"topic": "t", word: 0, "skipped": 0, "failed": 0, "source_bytes": 0, "seconds": 0.0}
    print_coded(job | {"stored_bytes": 0}, word)
    assert ("segment.ms" in capfd.readouterr().out) is hint
    print_coded(job | {"stored_bytes": 0, "skipped": 3}, word)
    assert "segment.ms" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"lost": 0, "0": 0, "2": 0}, "Measured: there are no coded segments"),
        ({"lost": 1, "0": 0, "2": 3}, "Measured: 1 lost, 3 survive 2 more losses of nodes"),
    ],
)
def test_margins_are_a_sentence(
    counts: dict[str, int], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What `cold durability` measured reads as a sentence, coded segments or none."""
    print_margins({"segments_by_margin": counts, "uncertain": 0})
    assert capfd.readouterr().out == said + "\n"


def test_lists_of_commands_are_not_cut() -> None:
    """Each command's line in the help of its group is whole on 80 columns."""

    def cut(group: click.Group) -> Iterator[str]:
        longest = max(map(len, group.commands))
        for name, command in group.commands.items():
            if len(command.get_short_help_str(1000)) > TERMINAL_WIDTH - 6 - longest:
                yield name
            if isinstance(command, click.Group):
                yield from cut(command)

    assert list(cut(root)) == []
