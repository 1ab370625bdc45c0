"""The file that holds the token which storage nodes and their server share."""

from __future__ import annotations

import os
import stat
from typing import Final

from logd.errors import ConfigError

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 1024


def read_token(path: str) -> str:
    """Return the token in a file that only its owner can read.

    Raises:
        ConfigError: others can read it, or what is in it is no token.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(TOKEN_CHARACTERS_MAX + 2)
    except FileNotFoundError as error:
        raise ConfigError(
            f"--token-file {path}: there is no such file; make it: "
            f"(umask 077; openssl rand -hex 32 > {path})"
        ) from error
    except OSError as error:
        raise ConfigError(f"--token-file {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"--token-file {path}: is no file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"--token-file {path}: others can read it (mode {mode:04o}); do: chmod 600 {path}"
        )
    token = data.decode("ascii", "replace").strip()
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX or not _is_plain(token):
        raise ConfigError(
            f"--token-file {path}: a token is {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} "
            "letters, digits and signs without spaces; make one: openssl rand -hex 32"
        )
    return token


def _is_plain(token: str) -> bool:
    return all("!" <= character <= "~" for character in token)
