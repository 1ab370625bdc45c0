"""The server's log: one line an event, made of a fixed phrase and named values.

    2026-03-01T09:30:00.125Z INFO  topic created topic=orders partitions=4
    {"time": "2026-03-01T09:30:00.125Z", "level": "info", "event": "topic created", "topic":
    "orders", …}

What an event says about clients is their text, so it is untrusted: every value is escaped (control
and other unprintable characters, quotes) and cut at VALUE_CHARS_MAX, and nothing in it can begin a
new line or move a terminal's cursor. A client's mistakes are counted against a budget per second,
so that one bad client cannot fill the disk that holds the log; what was left out is said.

A log that cannot be written (stream closed, disk full) never stops the server: lines are dropped
and counted in `dropped`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final, Literal, Protocol, TextIO

VALUE_CHARS_MAX: Final = 500
"""Longer values are cut. A topic name has at most 249 characters, a reason rarely more than 300."""

MISTAKES_PER_SECOND_MAX: Final = 20
"""How many lines a second all clients' mistakes may cause."""

Format = Literal["text", "json"]
Value = str | int | float | bool | bytes | None


class WallClock(Protocol):
    """The part of logd.clock.Clock that the log needs."""

    def now_ms(self) -> int:
        """Return the wall clock's milliseconds since 1970."""
        ...


class EventLog:
    """Writes events to a text stream. May be called from any thread: one `write` makes one line."""

    def __init__(self, stream: TextIO, line_format: Format, clock: WallClock) -> None:
        assert line_format in ("text", "json")
        self._stream = stream
        self._encode = _as_text if line_format == "text" else _as_json
        self._clock = clock
        self._second = 0
        self._mistakes = 0
        self.dropped = 0

    def info(self, event: str, /, **values: Value) -> None:
        """Something happened that an operator may look for."""
        self._write("info", event, values)

    def warning(self, event: str, /, **values: Value) -> None:
        """Something is not as it should be; the server copes."""
        self._write("warning", event, values)

    def error(self, event: str, /, **values: Value) -> None:
        """Something failed, and somebody should act."""
        self._write("error", event, values)

    def mistake(self, event: str, /, **values: Value) -> None:
        """A client did what it must not; at most MISTAKES_PER_SECOND_MAX lines a second."""
        second = self._clock.now_ms() // 1000
        if second != self._second:
            self._report_left_out()
            self._second = second
            self._mistakes = 0
        self._mistakes += 1
        if self._mistakes <= MISTAKES_PER_SECOND_MAX:
            self._write("info", event, values)

    def _report_left_out(self) -> None:
        left_out = self._mistakes - MISTAKES_PER_SECOND_MAX
        if left_out > 0:
            self._write("warning", "client mistakes not logged", {"count": left_out})

    def _write(self, level: str, event: str, values: dict[str, Value]) -> None:
        line = self._encode(_timestamp(self._clock.now_ms()), level, event, values)
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed.
            self.dropped += 1


def escape(text: str) -> str:
    """Return `text` on one line, printable, at most VALUE_CHARS_MAX characters of it.

    Anything that is not printable, and the backslash, becomes a backslash escape.
    """
    cut = text[:VALUE_CHARS_MAX]
    if not cut.isprintable() or "\\" in cut:
        cut = "".join(
            char if char.isprintable() and char != "\\" else _escape_char(char) for char in cut
        )
    if len(text) > VALUE_CHARS_MAX:
        return f"{cut}… ({len(text)} characters)"
    return cut


def _escape_char(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _timestamp(now_ms: int) -> str:
    seconds, millis = divmod(now_ms, 1000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def _as_text(time: str, level: str, event: str, values: dict[str, Value]) -> str:
    parts = [f"{time} {level.upper():7} {event}"]
    parts += [f"{name}={_text_value(value)}" for name, value in values.items()]
    return " ".join(parts) + "\n"


def _text_value(value: Value) -> str:
    if value is None or isinstance(value, int | float):
        return str(value)
    text = escape(_decode(value))
    if text == "" or any(char in ' "=' for char in text):
        return '"' + text.replace('"', '\\"') + '"'
    return text


def _as_json(time: str, level: str, event: str, values: dict[str, Value]) -> str:
    line: dict[str, Value] = {"time": time, "level": level, "event": event}
    for name, value in values.items():
        # A value never hides what kind of event it belongs to.
        key = f"{name}_" if name in ("time", "level", "event") else name
        line[key] = escape(_decode(value)) if isinstance(value, str | bytes) else value
    return json.dumps(line, ensure_ascii=True) + "\n"


def _decode(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "backslashreplace")
