"""What is printed: JSON of any bytes, tables that are never cut, escaped text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.render import (
    escape,
    escape_bytes,
    json_bytes,
    json_line,
    print_json,
    print_table,
    progress,
)


@given(st.binary(max_size=64))
@settings(deadline=None, max_examples=100)
def test_any_bytes_come_back_from_a_json_line(data: bytes) -> None:
    """A value is text where it is UTF-8 and base64 where it is not; either gives the bytes back."""
    from base64 import b64decode

    line = json_line({"value": json_bytes(data)})
    assert line.count(b"\n") == 1
    value = json.loads(line)["value"]
    back = value.encode() if isinstance(value, str) else b64decode(value["base64"], validate=True)
    assert back == data


def test_null_stays_null() -> None:
    """A missing key or value is JSON's null, not an empty string."""
    assert json_bytes(None) is None
    assert json_bytes(b"") == ""


def test_json_output_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed parses back to the same document, whatever characters are in it."""
    document = {"name": "naïve \ud800 \x1b[2J", "n": 2**63 - 1, "none": None}
    print_json(document)
    assert json.loads(capsys.readouterr().out) == document


def test_a_table_is_not_cut_when_it_is_piped(capsys: pytest.CaptureFixture[str]) -> None:
    """Long cells stay whole, one line a row, and columns line up."""
    long = "x" * 500
    print_table(("name", "size"), [(long, 1), ("short", 12345), ("none", None)])
    header, first, second, third = capsys.readouterr().out.splitlines()
    assert first == f"{long}      1"
    assert len(header) == len(first) == len(second)
    assert second.endswith("  12345")
    assert third.endswith("-")


def test_an_empty_table_has_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    """No rows is not an error."""
    print_table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_control_characters_are_escaped() -> None:
    """What a client wrote cannot move the cursor of the terminal that shows it."""
    assert escape("a\x1b[2Jb\n") == "a\\x1b[2Jb\\x0a"
    assert escape_bytes(b"\xff\x00ok") == "\\xff\\x00ok"
    assert escape_bytes(None) == "null"


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is printed when stderr is not a terminal."""
    with progress("working", 10) as show:
        show(5)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
