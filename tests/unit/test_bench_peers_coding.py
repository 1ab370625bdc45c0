"""Coding peers: each proves that it gets back what was lost, and who is absent is named."""

from __future__ import annotations

import json
import stat

import pytest

from bench.measurement import Window
from bench.peers import coding, coding_load
from bench.peers.contest import Session
from bench.peers.packages import UnavailableError
from bench.protocol import AnswerError
from bench.runner import Options, open_run

SIZE = 4096


def spec_for(library, **fields):
    return {"library": library, "operation": "rebuild", "k": 4, "m": 2, "bytes": SIZE,
            "seconds": 0.01, **fields}  # fmt: skip


@pytest.mark.parametrize("operation", ["encode", "rebuild"])
@pytest.mark.parametrize(("k", "m"), [(4, 2), (2, 3), (10, 4)])
def test_our_codec_gets_back_what_was_lost(operation, k, m) -> None:
    """Bytes are those of the source, and the CPU is the library's account."""
    answer = coding_load.code_library(spec_for("logd", operation=operation, k=k, m=m))
    assert answer["requests"] > 0
    assert answer["bytes"] == answer["requests"] * k * SIZE
    assert answer["server_cpu_s"] > 0


def test_pyeclib_gets_back_what_was_lost() -> None:
    """Where its wheel is there, its chunks give the source back."""
    pytest.importorskip("pyeclib")
    assert coding_load.code_library(spec_for("pyeclib"))["requests"] > 0


def test_a_wrong_answer_is_an_error(monkeypatch) -> None:
    """A library that rebuilds something else is not timed."""
    right = coding_load.work_logd(4, 2, SIZE)
    wrong = coding_load.Work(right.encode, right.rebuild, lambda: [b"x", b"y"])
    monkeypatch.setitem(coding_load.LIBRARIES, "wrong", lambda k, m, size: wrong)
    with pytest.raises(AnswerError, match="wrong rebuilt something else"):
        coding_load.code_library(spec_for("wrong"))


def program_that(tmp_path, text):
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_program_measures_itself(tmp_path) -> None:
    """What it printed is the window; bytes follow from its chunks."""
    said = json.dumps({"requests": 3, "seconds": 0.5, "cpu_s": 0.4})
    spec = spec_for("", program=program_that(tmp_path, f"echo '{said}'"))
    answer = coding_load.code_program(spec)
    assert (answer["bytes"], answer["server_cpu_s"]) == (3 * 4 * SIZE, 0.4)


def test_a_program_that_fails_is_an_error(tmp_path) -> None:
    """With what it complained of."""
    spec = spec_for("", program=program_that(tmp_path, "echo chunk 0 is wrong >&2; exit 1"))
    with pytest.raises(AnswerError, match="chunk 0 is wrong"):
        coding_load.code_program(spec)


def test_libraries_take_turns_and_the_absent_are_named(tmp_path, monkeypatch) -> None:
    """Each library is a row against ours, in MB a second of CPU; who is not there is skipped."""

    def absent(*_):
        raise UnavailableError("no pip")

    def window(run, operation, k, m):
        return Window(0.0, bytes=10**6, requests=1, seconds=1.0, server_cpu_s=0.5)

    for name in ("_find_isal", "_find_zfec", "_find_klauspost"):
        monkeypatch.setattr(coding, name, absent)
    monkeypatch.setattr(coding, "_find_pyeclib", lambda: (window, {"version": "1"}))
    monkeypatch.setattr(coding, "_library", lambda name, path=None: window)
    skipped: dict[str, str] = {}
    with open_run(tmp_path, Options(repetitions=2, prime_bytes=0)) as run:
        session = Session(run)
        conditions = coding.measure(session, skipped)
    assert skipped == dict.fromkeys(("ISA-L", "zfec", "klauspost/reedsolomon"), "no pip")
    assert list(conditions) == ["pyeclib"]
    assert len(session.rows) == len(coding.PROFILES) * len(coding.OPERATIONS)
    assert {(row.peer, row.unit, row.ours.value, row.ratio) for row in session.rows} == {
        ("pyeclib", "MB/s of CPU", 2.0, 1.0)
    }
