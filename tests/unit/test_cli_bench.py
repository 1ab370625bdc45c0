"""`logd bench`: what it hands on, writes and prints, and how it ends."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

import pytest

import bench
from bench.api import Results
from bench.measurement import Measurement
from bench.process import BenchError
from cli.main import run

ROW = Measurement("a row", 5.0, "MB/s", 10.0, "bare", 0.5,
                  conditions={"ratios": [0.5] * 5, "values": [5.0] * 5})  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """What the package is asked for; it finds one row, and fails in another suite if told to."""
    seen = {"failed": {}}

    def measure(name, *, directory, options, after_suite):
        seen.update(name=name, directory=directory, options=options)
        options.progress(f"{name}, a row, 1 of 5")
        results = Results(name, "2026-01-02 03:04", {})
        results.suites = {name: [ROW]}
        results.failed = seen["failed"]
        after_suite(results)
        return results

    monkeypatch.setattr(bench, "measure", measure)
    return seen


@dataclass
class Ended:
    """How a command ended, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def logd(capfd):
    """Runs the command with these words."""

    def call(*words) -> Ended:
        code = run(["bench", *words])
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


def test_options_are_handed_on(asked, tmp_path, logd) -> None:
    """Directory, length of a window, curves."""
    words = ("append", "--dir", str(tmp_path), "--seconds", "0.2", "--curves")
    assert logd(*words).exit_code == 0
    assert (asked["name"], asked["directory"]) == ("append", str(tmp_path))
    assert (asked["options"].seconds, asked["options"].curves) == (0.2, True)
    logd("append")
    assert not asked["options"].curves


def test_files_are_written(asked, tmp_path, logd) -> None:
    """--out has the rows, --report a page and the rows; either is a file to compare with."""
    out, report = tmp_path / "rows.json", tmp_path / "report"
    assert logd("append", "--out", str(out), "--report", str(report)).exit_code == 0
    assert bench.read_json(out) == [ROW]
    assert bench.read_json(report / "measurements.json") == [ROW]
    assert "a row" in (report / "index.html").read_text()
    again = logd("append", "--against", str(out))
    assert "+0% noise" in again.stdout


def test_json_is_the_rows_alone(asked, logd) -> None:
    """A program that reads stdout finds one JSON array there."""
    (row,) = json.loads(logd("append", "--json").stdout)
    assert (row["name"], row["ratio"]) == ("a row", 0.5)


def test_progress_is_for_terminals(asked, logd, monkeypatch) -> None:
    """Elsewhere stderr has nothing but what went wrong; on one there is a line that changes."""
    assert logd("append").stderr == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "append, a row, 1 of 5" in logd("append").stderr


def test_a_suite_that_failed_fails_the_command(asked, logd) -> None:
    """The rows of the others are printed, the failure is named, and the exit code is not 0."""
    asked["failed"] = {"fetch": "it died"}
    result = logd("all")
    assert result.exit_code != 0
    assert "a row" in result.stdout
    assert "fetch: it died" in result.stderr


def test_a_refusal_is_said(monkeypatch, logd) -> None:
    """What the package refuses is an error of one line."""

    def refuse(*_, **__):
        raise BenchError("not there")

    monkeypatch.setattr(bench, "measure", refuse)
    result = logd("disk")
    assert result.exit_code == 1
    assert "not there" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_of_something_else_is_refused(tmp_path, logd) -> None:
    """Before anything is measured."""
    path = tmp_path / "x.json"
    path.write_text('[{"nam": 1}]')
    result = logd("disk", "--against", str(path))
    assert result.exit_code == 1
    assert "no file of measurements" in result.stderr
