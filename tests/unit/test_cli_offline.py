"""The commands that need no server: dump, check, config, bench's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import api
from cli import main
from cli.bench import NAMES
from tests.unit.data_directories import DirectoryMaker, flip


@pytest.fixture
def made(tmp_path: Path) -> DirectoryMaker:
    """A data directory after a clean stop."""
    return DirectoryMaker(tmp_path / "data").make()


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_dump_prints_every_file_of_a_directory(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """`dump` of all files at once exits with 0 and says something of each."""
    paths = [str(path) for path in sorted(made.root.rglob("*")) if path.is_file()]
    assert main.run(["dump", *paths, "--verify"]) == 0
    captured = capfd.readouterr()
    assert all(f"{path}:\n" in captured.out for path in paths)
    assert captured.err == ""


def test_dump_as_json_is_a_line_an_item(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each line of --json is a document with file, kind and position; bytes are text or base64."""
    assert main.run(["dump", str(made.active_log), "--records", "--json"]) == 0
    rows = _lines(capfd.readouterr().out)
    assert {row["file"] for row in rows} == {str(made.active_log)}
    assert [row["value"] for row in rows if row["kind"] == "record"][:2] == ["value 30", "value 31"]
    assert next(row["position"] for row in rows if row["kind"] == "batch") == 0


@pytest.mark.parametrize("flags", [[], ["--verify"], ["--json"]])
def test_dump_of_a_damaged_file_exits_with_4(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """Damage is exit code 4; file and position are named."""
    at = len(made.sealed[0])
    flip(made.sealed_log, at + 80)
    assert main.run(["dump", str(made.sealed_log), *flags]) == 4
    said = capfd.readouterr().err
    assert str(made.sealed_log) in said
    assert f"position {at}" in said


def test_dump_of_a_strange_file_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that is none of ours is exit code 1."""
    path = tmp_path / "notes"
    path.write_text("x")
    assert main.run(["dump", str(path)]) == 1
    assert str(path) in capfd.readouterr().err


def test_check_passes_an_intact_directory(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """An intact directory is exit code 0, with counts."""
    assert main.run(["check", str(made.root), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert (document["batches"], document["records"], document["damage"]) == (15, 45, [])
    assert main.run(["check", str(made.root)]) == 0
    assert "no damage" in capfd.readouterr().out


def test_check_of_a_damaged_directory_exits_with_4(
    made: DirectoryMaker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Damage is exit code 4; file and position are named, in text and in JSON."""
    at = len(made.sealed[0])
    flip(made.sealed_log, at + 80)
    assert main.run(["check", str(made.root)]) == 4
    text = capfd.readouterr().out
    assert f"{made.sealed_log} at position {at}" in text
    assert main.run(["check", str(made.root), "--json"]) == 4
    (damage,) = json.loads(capfd.readouterr().out)["damage"]
    assert (damage["path"], damage["position"]) == (str(made.sealed_log), at)


def test_check_of_a_strange_directory_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A directory that is no data directory is exit code 1."""
    assert main.run(["check", str(tmp_path)]) == 1
    assert "no data directory" in capfd.readouterr().err


def test_config_says_where_each_value_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Flag goes before environment before file before default, and the source is named."""
    file = tmp_path / "logd.toml"
    file.write_text(
        '"num.partitions" = 5\n"log.segment.bytes" = "1MiB"\n"repair.delay.ms" = "1s"\n'
    )
    monkeypatch.setenv("LOGD_NUM_PARTITIONS", "6")
    monkeypatch.setenv("LOGD_LOG_SEGMENT_BYTES", "2MiB")
    monkeypatch.setenv("LOGD_BOOTSTRAP", "10.0.0.1:1")
    arguments = ["config", "--json", "--config", str(file), "--set", "num.partitions=7"]
    assert main.run(arguments) == 0
    rows = {row["name"]: row for row in json.loads(capfd.readouterr().out)}
    assert (rows["num.partitions"]["value"], rows["num.partitions"]["source"]) == (7, "flag")
    assert (rows["log.segment.bytes"]["value"], rows["log.segment.bytes"]["source"]) == (
        2 << 20,
        "environment",
    )
    assert (rows["repair.delay.ms"]["value"], rows["repair.delay.ms"]["source"]) == (1000, "file")
    assert rows["num.partitions"]["default"] == 4
    assert rows["repair.delay.ms"]["unit"] == "ms"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"num.partition" = 5\n', "num.partition"),
        ('"num.partitions" = "many"\n', "num.partitions"),
        ("not toml", "TOML"),
    ],
)
def test_a_bad_configuration_exits_with_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    """A setting that cannot be used is exit code 2, for `config` and for `serve`, and is named."""
    file = tmp_path / "logd.toml"
    file.write_text(text)
    for command in ("config", "serve"):
        assert main.run([command, "--config", str(file)]) == 2
        captured = capfd.readouterr()
        assert said in captured.err
        assert captured.out == ""


def test_bench_offers_what_the_package_has() -> None:
    """The names of `logd bench` are those of the package."""
    assert set(NAMES) == set(bench.NAMES)


def test_a_benchmark_of_later_work_is_refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A benchmark that this version cannot run says so, with exit code 1."""
    monkeypatch.setattr(api, "NOT_YET", {"repair": "nothing is repaired yet"})
    assert main.run(["bench", "repair"]) == 1
    assert "not available" in capfd.readouterr().err
