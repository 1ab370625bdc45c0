"""A replacement of segments of which some are in chunks: the catalog decides whether it happens.

What a round made of coded segments is committed in two places, the log's directory and the
catalog. One of them decides, and that is the catalog, by one transaction: in it the successors'
encodings become COMMITTED and those of the old segments SUPERSEDED. In order, each step durable
before the next one:

    1  the new segments are whole and synced, under names that nobody reads; their chunks are proved
    2  the manifest is written under the name `replacement.prepared`: it says nothing yet
    3  the transaction: from here on the new segments are the log, and their chunks speak for them
    4  the manifest gets its own name, `replacement`; what follows is `swap`'s

A start settles what it finds before it opens the log: are the old encodings not live any more, then
3 was reached, and 4 is done; if not, the manifest is removed and the old segments are the log, as
they were. All of them are hot by then: released ones were thawed before the round read them. So
either way every record is in a file here, and no chunk speaks for offsets that the log has
otherwise.

The payload is that of `replacement` with one member more, the old encodings: so the rename is all
that it takes, on a full disk too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from logd.storage.files import Files
from logd.storage.layout import PREPARED_NAME
from logd.storage.state_file import remove_state, write_state
from logd.storage.swap import (
    REPLACEMENT_VERSION,
    Replacement,
    decode_replacement,
    encode_replacement,
    read_manifest,
    replacement_path,
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the prepared manifest says.

    Attributes:
        superseded: the old segments' encodings; the replacement happened once none is live.
    """

    replacement: Replacement
    superseded: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what nobody could decide."""
        if not self.superseded or not all(isinstance(each, str) for each in self.superseded):
            raise ValueError("no encoding is named that would decide")


def prepared_path(directory: str) -> str:
    """Return the path of the manifest that decides nothing yet."""
    return f"{directory}/{PREPARED_NAME}"


def write_prepared(
    files: Files, directory: str, replacement: Replacement, superseded: Sequence[str]
) -> None:
    """Write the manifest; durable once this returns.

    Raises:
        OSError: it may be there nevertheless; without the transaction it means nothing.
    """
    prepared = Prepared(replacement, tuple(superseded))
    payload = encode_replacement(replacement, superseded=prepared.superseded)
    write_state(files, prepared_path(directory), payload, version=REPLACEMENT_VERSION)


def read_prepared(files: Files, directory: str) -> Prepared | None:
    """Return what the manifest says; None if there is none.

    Raises:
        CorruptFileError: damaged, or it says what cannot be. UnsupportedFormatError: a newer
        version. OSError: it cannot be read.
    """
    return read_manifest(
        files,
        prepared_path(directory),
        lambda fields: Prepared(decode_replacement(fields), tuple(fields["superseded"])),
    )


def commit_prepared(files: Files, directory: str) -> None:
    """Give the manifest its own name: the transaction is durable. Durable once this returns.

    Raises:
        OSError: it may have either name; the next start does this again.
    """
    files.rename(prepared_path(directory), replacement_path(directory))
    files.sync_directory(directory)


def drop_prepared(files: Files, directory: str) -> None:
    """Remove the manifest: the transaction did not happen, and will not. Durable likewise.

    Raises:
        OSError: it may still be there. Nobody may use the log then, nor supersede the encodings it
            names: a start would take that for the transaction.
    """
    remove_state(files, prepared_path(directory))


def settle_prepared(files: Files, directory: str, is_live: Callable[[str], bool]) -> bool | None:
    """Do what the catalog says about a replacement that a crash cut short, before the log opens.

    Args:
        is_live: whether an encoding is COMMITTED or RELEASED.

    Returns:
        Whether it happens, and recovery is to finish it; None where there is none.

    Raises:
        CorruptFileError, UnsupportedFormatError, OSError: it cannot be settled; nothing changed.
    """
    if not files.exists(prepared_path(directory)):
        return None
    prepared = read_prepared(files, directory)
    if prepared is None:
        return None
    if any(is_live(encoding) for encoding in prepared.superseded):
        remove_state(files, prepared_path(directory))
        return False
    commit_prepared(files, directory)
    return True
