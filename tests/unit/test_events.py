"""The event log: one line an event, whatever clients put into it."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.events import MISTAKES_PER_SECOND_MAX, VALUE_CHARS_MAX, EventLog, escape

START_MS = 1_772_357_400_125  # 2026-03-01T09:30:00.125Z


class StoppedClock:
    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms


def test_text_line_has_time_level_event_and_values() -> None:
    """A text line is time, level, event and the values, in the order given."""
    stream = io.StringIO()
    EventLog(stream, "text", StoppedClock()).info("topic created", topic="orders", partitions=4)
    assert stream.getvalue() == (
        "2026-03-01T09:30:00.125Z INFO    topic created topic=orders partitions=4\n"
    )


def test_json_line_is_one_object_with_the_same() -> None:
    """A JSON line is one object; a value called like one of its own keys does not replace it."""
    stream = io.StringIO()
    EventLog(stream, "json", StoppedClock()).error("failed", event="x", count=3, ok=True, by=None)
    assert json.loads(stream.getvalue()) == {
        "time": "2026-03-01T09:30:00.125Z",
        "level": "error",
        "event": "failed",
        "event_": "x",
        "count": 3,
        "ok": True,
        "by": None,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("", '""'),
        ("two words", '"two words"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("a=b", '"a=b"'),
        ("line\nbreak", "line\\nbreak"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("back\\slash", "back\\\\slash"),
        ("right\u202eleft", "right\\u202eleft"),
        ("lone \udcff", '"lone \\udcff"'),
        (b"\xff\x00ab", "\\\\xff\\x00ab"),
        ("grün", "grün"),
    ],
)
def test_untrusted_text_is_escaped(value: str | bytes, shown: str) -> None:
    """No value can begin a line, move a cursor, or look like another value."""
    stream = io.StringIO()
    EventLog(stream, "text", StoppedClock()).info("seen", value=value)
    assert stream.getvalue().rstrip("\n").endswith(f" seen value={shown}")


@given(st.text(alphabet=st.characters(), max_size=600))
@settings(deadline=None, max_examples=100)
def test_any_text_makes_exactly_one_printable_line(text: str) -> None:
    """Whatever a client sends, an event is one line of printable characters, in both forms."""
    for form in ("text", "json"):
        stream = io.StringIO()
        EventLog(stream, form, StoppedClock()).info("seen", value=text)
        line = stream.getvalue()
        assert line.endswith("\n")
        assert line[:-1].isprintable()


def test_long_values_are_cut_and_say_so() -> None:
    """A value longer than the limit is cut, and its length is told."""
    shown = escape("x" * (VALUE_CHARS_MAX + 1))
    assert shown == "x" * VALUE_CHARS_MAX + f"… ({VALUE_CHARS_MAX + 1} characters)"


def test_mistakes_are_limited_per_second_and_the_rest_counted() -> None:
    """Clients cannot fill the disk with their mistakes: the rest of a second's is one line."""
    stream = io.StringIO()
    clock = StoppedClock()
    log = EventLog(stream, "text", clock)
    for _ in range(MISTAKES_PER_SECOND_MAX + 7):
        log.mistake("bad frame")
    assert stream.getvalue().count("bad frame") == MISTAKES_PER_SECOND_MAX
    clock.ms += 1000
    log.mistake("bad frame")
    lines = stream.getvalue().splitlines()
    assert lines[-2].endswith("client mistakes not logged count=7")
    assert lines[-1].endswith("bad frame")


class FullStream(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """A full disk or a closed stream drops lines and counts them."""
    full = EventLog(FullStream(), "text", StoppedClock())
    full.info("one")
    closed_stream = io.StringIO()
    closed_stream.close()
    closed = EventLog(closed_stream, "json", StoppedClock())
    closed.info("two")
    assert (full.dropped, closed.dropped) == (1, 1)
