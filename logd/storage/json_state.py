"""State files whose payload is a JSON document: what they say, or an error that names the file.

Whoever changed such a file by hand, or wrote it in a way that we do not foresee, gets a refusal and
never half of a value: any surprise while the document is taken apart makes the file a corrupt one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from logd.errors import CorruptFileError
from logd.storage.files import Files
from logd.storage.state_file import read_state
from logd.units import INT64_MAX

T = TypeVar("T")


def read_json_state(
    files: Files,
    path: str,
    decode: Callable[[Any], T],
    *,
    what: str,
    limit_bytes: int,
    newest_version: int,
) -> T:
    """Return what a state file says.

    Args:
        decode: makes it of the document; raises ValueError, or what comes of taking apart one of
            another shape, where that says what cannot be.
        what: what the file should be, for the error.

    Raises:
        FileNotFoundError: there is none. CorruptFileError: damaged, or it says what cannot be.
        UnsupportedFormatError: of a newer version. OSError: it cannot be read.
    """
    assert what
    state = read_state(files, path, limit_bytes=limit_bytes, newest_version=newest_version)
    try:
        return decode(json.loads(state.payload))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFileError(path, 0, f"is no {what}: {error}") from error


def number(value: Any, most: int = INT64_MAX) -> int:
    """Return a number from 0 to `most` as it is; ValueError for anything else."""
    assert most >= 0
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is no number from 0 to {most}")
    return value


def text(value: Any, *, chars_max: int) -> str:
    """Return a text of at most `chars_max` characters as it is; ValueError for anything else."""
    assert chars_max > 0
    if type(value) is not str or len(value) > chars_max:
        raise ValueError(f"{value!r} is no text of at most {chars_max} characters")
    return value
