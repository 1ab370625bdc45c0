"""How the program ends: exit codes, one line on stderr, no traceback, quick start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import click
import pytest

from cli import errors, main
from logd.errors import ConfigError, CorruptFileError, DataDirectoryError

LOGD = (sys.executable, "-m", "cli.main")
COMMANDS = [
    (),
    ("serve",),
    ("demo",),
    ("topic",),
    *(("topic", name) for name in ("create", "list", "describe", "alter", "delete", "adopt")),
    ("produce",),
    ("consume",),
    ("group",),
    *(("group", name) for name in ("list", "describe", "reset", "delete")),
    ("delete-records",),
    ("segments",),
    ("status",),
    ("config",),
    ("dump",),
    ("check",),
    ("bench",),
]


@pytest.fixture
def dead_address() -> Iterator[str]:
    """An address of this machine at which nobody listens: the port is bound, never listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """--help of every command exits with 0 and shows an example."""
    assert main.run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert "logd " + " ".join(command) in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["--no-such-option"],
        ["topic", "create"],
        ["topic", "create", "t", "--partitions", "0"],
        ["topic", "create", "t", "--config", "novalue"],
        ["topic", "alter", "t"],
        ["topic", "alter", "t", "--config", "a.ms=1", "--unset", "a.ms"],
        ["topic", "list", "--bootstrap", "nonsense"],
        ["produce", "t", "/no/such/file"],
        ["produce", "t", "--acks", "7"],
        ["consume", "t", "--from", "yesterday"],
        ["consume", "t", "--format", "%q"],
        ["consume", "t", "--format", "%v", "--json"],
        ["consume", "t", "--count", "-1"],
        ["consume", "t", "--group", "g", "--partition", "0"],
        ["consume", "t", "--group", ""],
        ["group", "describe"],
        ["group", "describe", ""],
        ["group", "reset", "g", "--to", "earliest"],
        ["group", "reset", "g", "--topic", "t"],
        ["group", "reset", "g", "--topic", "t", "--to", "yesterday"],
        ["group", "reset", "g", "--topic", "t", "--to", "-5"],
        ["group", "reset", "g", "--topic", "t", "--to", str(2**63)],
        ["delete-records", "t", "--before", "1"],
        ["serve", "--listen", "0.0.0.0:0"],
        ["serve", "--admin", "[::]:0"],
        ["serve", "--set", "num.partitions=1", "--set", "num.partitions=2"],
        ["dump"],
        ["check"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Wrong usage is exit code 2, and nothing on stdout."""
    assert main.run(arguments) == errors.EXIT_USAGE
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if arguments:
        assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["topic", "list"],
        ["topic", "create", "t"],
        ["topic", "describe", "t"],
        ["topic", "alter", "t", "--partitions", "2"],
        ["topic", "delete", "t", "--yes"],
        ["produce", "t", os.devnull],
        ["consume", "t"],
        ["consume", "t", "--group", "g"],
        ["group", "list"],
        ["group", "describe", "g"],
        ["group", "reset", "g", "--topic", "t", "--to", "earliest", "--yes"],
        ["group", "delete", "g", "--yes"],
        ["delete-records", "t", "--partition", "0", "--before", "1", "--yes"],
        ["segments", "t"],
        ["status"],
        ["topic", "adopt", "."],
    ],
    ids=" ".join,
)
def test_an_absent_server_exits_with_3_and_is_named(
    arguments: list[str], dead_address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each client command says within a moment which address does not answer."""
    started = time.monotonic()
    code = main.run([*arguments, "--bootstrap", dead_address, "--admin", dead_address])
    assert code == errors.EXIT_UNREACHABLE
    assert time.monotonic() - started < 5
    captured = capfd.readouterr()
    assert captured.out == ""
    assert dead_address in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Refused("no"), 1),
        (errors.Unreachable("nobody"), 3),
        (errors.DataAtRisk("bad"), 4),
        (click.UsageError("what?"), 2),
        (ConfigError("retention.ms: no"), 2),
        (DataDirectoryError("locked"), 1),
        (CorruptFileError("f", 7, "bits"), 4),
        (FileNotFoundError(2, "x", "/some/file"), 1),
        (KeyboardInterrupt(), 130),
        (RuntimeError("a\nb\x1b[2J"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """Every error becomes an exit code and one printable line."""
    found, line = errors.describe(error)
    assert found == code
    assert line
    assert line.isprintable()


@pytest.mark.parametrize("place", ["before", "after"])
def test_with_json_an_error_is_a_document_too(
    place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its text and its exit code, on stderr, also where what is wrong stands before --json."""
    wrong = ["status", "--admin", "nowhere"]
    code = main.run(["--json", *wrong] if place == "before" else [*wrong, "--json"])
    found = capfd.readouterr()
    assert found.out == ""
    document = json.loads(found.err)
    assert document["exit_code"] == code == errors.EXIT_USAGE
    assert "HOST:PORT" in document["error"]


def test_a_closed_pipe_is_not_an_error() -> None:
    """When the reader of stdout is gone, the program ends silently with 0."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*LOGD, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False, timeout=120
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_full_stdout_is_an_error() -> None:
    """Output that cannot be written is exit code 1 with the reason, and no traceback."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*LOGD, "--help"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=120
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_the_c_locale_is_no_obstacle(tmp_path: object) -> None:
    """Under LC_ALL=C a name that is not ASCII gets an answer, not a traceback."""
    done = subprocess.run(
        [*LOGD, "dump", f"{tmp_path}/naïve\udcff file"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_ctrl_c_exits_with_130() -> None:
    """SIGINT ends a waiting command with 130 and one line."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = subprocess.Popen(
            [*LOGD, "status", "--admin", address], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        silent.settimeout(120)
        connection, _ = silent.accept()  # It is connected: it now waits for an answer.
        with connection:
            command.send_signal(signal.SIGINT)
            _, said = command.communicate(timeout=120)
    assert command.returncode == 130
    assert said == b"logd: interrupted\n"


def test_what_answers_is_not_our_admin_port(capfd: pytest.CaptureFixture[str]) -> None:
    """A stranger on the admin port is exit code 3, whatever it says."""
    import threading

    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-Other\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code = main.run(["status", "--admin", f"127.0.0.1:{stranger.getsockname()[1]}"])
        thread.join()
    assert code == errors.EXIT_UNREACHABLE
    assert "admin port" in capfd.readouterr().err


def test_a_command_imports_nothing_heavy_to_explain_itself() -> None:
    """Starting the program imports neither librdkafka, rich, trio nor the server."""
    script = (
        "import sys, cli.main\n"
        "heavy = {'confluent_kafka', 'rich', 'trio', 'sqlite3', 'logd.server', 'http.client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, timeout=120
    )
    assert done.stdout.decode().strip() == "[]"
