"""Where the server's settings are given: a TOML file, the environment, and flags.

Each reader returns `name -> Given`, names canonical, values still text. An unknown key, one given
twice or one that is no value at all is a `ConfigError` that names the key and its place: a server
that starts with a setting it did not understand does something else than it was told.

The file may say `"log.retention.ms" = "7d"`, or nest tables (`[log.retention]` and `ms = "7d"`):
both are the same key.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from logd.config.server import SERVER_ALIASES, SERVER_SETTINGS
from logd.config.setting import Source
from logd.errors import ConfigError
from logd.units import MIB

FILE_LIMIT_BYTES: Final = MIB
"""All settings with a comment each are 30 KiB; more is some other file."""

ENVIRONMENT_PREFIX: Final = "LOGD_"

# Not settings of the server: what client commands read, what container orchestrators inject for a
# service named "logd", and what the command line, tests and benchmarks read for themselves.
_FOREIGN_VARIABLE: Final = re.compile(
    r"LOGD_(BOOTSTRAP|ADMIN|CONFIG|TRACEBACK|TEST_.*|BENCH_.*"
    r"|SERVICE_(HOST|PORT).*|PORT(_[0-9]+_(TCP|UDP).*)?)"
)


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave.

    Attributes:
        text: the value as it was written.
        where: a place that a person can find: `file logd.toml`, `LOGD_LISTENERS`, `--set`.
    """

    text: str
    source: Source
    where: str


def environment_name(name: str) -> str:
    """Return the environment variable of a setting: repair.delay.ms is LOGD_REPAIR_DELAY_MS."""
    return ENVIRONMENT_PREFIX + name.upper().replace(".", "_")


def read_flags(flags: Mapping[str, str]) -> dict[str, Given]:
    """Return what was given on the command line.

    Raises:
        ConfigError: an unknown name, or one setting under two names.
    """
    return _collect([(name, text, Source.FLAG, "command line") for name, text in flags.items()])


def read_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """Return what the LOGD_ variables give; variables that are known not to be settings are left
    out.

    Raises:
        ConfigError: a LOGD_ variable that is no setting, or one setting under two names.
    """
    found: list[tuple[str, str, Source, str]] = []
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or _FOREIGN_VARIABLE.fullmatch(variable):
            continue
        name = _NAMES_BY_VARIABLE.get(variable)
        if name is None:
            near = _nearest(variable, list(_NAMES_BY_VARIABLE))
            raise ConfigError(f"environment: unknown setting {variable}{near}")
        found.append((name, text, Source.ENVIRONMENT, f"environment, {variable}"))
    return _collect(found)


def read_file(path: str) -> dict[str, Given]:
    """Return what a TOML file gives.

    Raises:
        ConfigError: the file cannot be read or is no TOML, or it has an unknown key, a key twice or
            a value that is neither text, number, boolean nor a list of these.
    """
    # Milliseconds to import, and most servers have no file.
    import tomllib

    where = f"file {path}"
    try:
        table = tomllib.loads(_read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
    return _collect([(name, text, Source.FILE, where) for name, text in _flatten(table, where)])


def _read_text(path: str) -> str:
    where = f"file {path}"
    try:
        # Before it is opened: opening a pipe that nobody writes to would wait for ever.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigError(f"{where}: not a regular file")
        with open(path, "rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{where}: cannot be read: {reason}") from error
    if len(data) > FILE_LIMIT_BYTES:
        raise ConfigError(f"{where}: larger than {FILE_LIMIT_BYTES} bytes")
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{where}: begins with a byte order mark; save it without one")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 at byte {error.start}") from error


def _flatten(table: Mapping[str, object], where: str, prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict):
            pairs.extend(_flatten(value, where, name + "."))
        elif isinstance(value, list):
            pairs.append((name, ",".join(_scalar_text(word, name, where) for word in value)))
        else:
            pairs.append((name, _scalar_text(value, name, where)))
    return pairs


def _scalar_text(value: object, name: str, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ConfigError(f"{where}: {name}: a {type(value).__name__} is not a value of a setting")


def _collect(found: list[tuple[str, str, Source, str]]) -> dict[str, Given]:
    collected: dict[str, Given] = {}
    for name, text, source, where in found:
        canonical = SERVER_ALIASES.get(name, name)
        if canonical not in SERVER_SETTINGS:
            near = _nearest(name, [*SERVER_SETTINGS, *SERVER_ALIASES])
            raise ConfigError(f"{where}: unknown setting {name!r}{near}")
        if canonical in collected:
            also = "" if name == canonical else f" ({name!r} is another name for it)"
            raise ConfigError(f"{where}: {canonical} is given twice{also}")
        collected[canonical] = Given(text, source, where)
    return collected


def _nearest(name: str, known: list[str]) -> str:
    # difflib takes milliseconds to import, and only somebody who mistyped needs it.
    from difflib import get_close_matches

    matches = get_close_matches(name, known, n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


_NAMES_BY_VARIABLE: Final = {
    environment_name(name): name for name in (*SERVER_SETTINGS, *SERVER_ALIASES)
}
