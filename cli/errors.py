"""How a command ends: exit codes, and one line on stderr that says what to do next.

    0  done
    1  refused or failed
    2  wrong usage or configuration
    3  the server cannot be reached
    4  the command ran, and data is at risk, damaged or lost
    130  interrupted (128 + SIGINT, as shells count)
    143  ended by SIGTERM, where the command had something to put in order first

With --json the line is a JSON document, {"error": …, "exit_code": …}: stdout has what was found.

A traceback is never shown to a user: what is not expected is reported as a fault of ours in one
line, and LOGD_TRACEBACK=1 shows the rest to whoever looks for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Final

import click

from logd.errors import (
    ConfigError,
    CorruptFileError,
    CorruptRecordsError,
    InvalidConfigError,
    LogdError,
)

EXIT_DONE: Final = 0
EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_DATA_AT_RISK: Final = 4
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


class Refused(click.ClickException):
    """The command was refused or failed; exit 1."""

    exit_code = EXIT_REFUSED


class Unreachable(click.ClickException):
    """The server does not answer; exit 3."""

    exit_code = EXIT_UNREACHABLE


class Interrupted(click.ClickException):
    """Ctrl-C while the server works on; exit 130."""

    exit_code = EXIT_INTERRUPTED


class DataAtRisk(click.ClickException):
    """The command ran, and data is at risk, damaged or lost; exit 4."""

    exit_code = EXIT_DATA_AT_RISK


def describe(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an error that ended a command, and its one line."""
    if isinstance(error, click.UsageError):
        return EXIT_USAGE, _usage_line(error)
    if isinstance(error, click.ClickException):
        return error.exit_code, _one_line(error.format_message())
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return EXIT_INTERRUPTED, "interrupted"
    if isinstance(error, (ConfigError, InvalidConfigError)):
        return EXIT_USAGE, _one_line(str(error))
    if isinstance(error, (CorruptFileError, CorruptRecordsError)):
        return EXIT_DATA_AT_RISK, _one_line(str(error))
    if isinstance(error, LogdError):
        return EXIT_REFUSED, _one_line(str(error))
    if isinstance(error, OSError):
        return EXIT_REFUSED, _system_line(error)
    return EXIT_REFUSED, (
        f"a fault in logd itself: {type(error).__name__}: {_one_line(str(error))} "
        "(run again with LOGD_TRACEBACK=1 for the details to report)"
    )


def error_line(code: int, text: str, *, as_json: bool) -> str:
    """Return what stderr says of an error: for people, or one JSON document for a program."""
    return json.dumps({"error": text, "exit_code": code}) if as_json else f"logd: {text}"


def refuse_partitions(failed: Iterable[tuple[str, int, str]], *, as_json: bool) -> None:
    """Return where nothing failed; else say of each partition why, and end with exit 1.

    Args:
        failed: topic, partition, and the reason.
    """
    lines = [
        error_line(EXIT_REFUSED, _one_line(f"{topic} partition {index}: {reason}"), as_json=as_json)
        for topic, index, reason in failed
    ]
    for line in lines:
        click.echo(line, err=True)
    if lines:
        raise click.exceptions.Exit(EXIT_REFUSED)


def shows_traceback() -> bool:
    """Return whether the user asked for tracebacks."""
    return bool(os.environ.get("LOGD_TRACEBACK"))


def _usage_line(error: click.UsageError) -> str:
    text = _one_line(error.format_message()).rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "logd"
    return f"{text} (see: {command} --help)"


def _system_line(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno else str(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return _one_line(": ".join([*names, reason]))


def _one_line(text: str) -> str:
    """Return text without line breaks or control characters: it may quote what a client sent."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in words)
