"""Find chunk files in directories, without catalog or node: what each is, and what of it is bad.

A file counts by what it says, not by its name or place: a copy under another name, one that was put
into quarantine, one whose directory lost its identity. Every byte of every chunk is read once.
Files are closed again, so there may be any number of them.

Nothing is changed. What is no chunk is counted and left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ec.chunk_file import MAGIC, TRAILER_BYTES
from ec.chunk_id import SUFFIX, ChunkId
from ec.chunk_reader import ChunkReader
from ec.errors import ChunkDamagedError, ChunkNameError, ChunkVersionError
from ec.geometry import BLOCK_BYTES
from ec.manifest import Manifest
from ec.node_identity import TEMP_SUFFIX
from logd.storage.files import Files

CHUNK_SUFFIXES: Final = (SUFFIX, SUFFIX + TEMP_SUFFIX)


@dataclass(frozen=True, slots=True)
class Trouble:
    """A file or directory, and what is wrong with it."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChunkFile:
    """A file that is a chunk.

    Attributes:
        bad: the blocks of its payload that are damaged or cannot be read.
        manifest: the same object for all files with equal ones.
    """

    path: str
    id: ChunkId
    manifest: Manifest
    bad: frozenset[int]


@dataclass(slots=True)
class SearchResult:
    """What was found.

    Attributes:
        files: how many files were looked at.
        chunks: those that are chunks.
        nameless: chunks, by their names, of which not even the manifest can be read.
        damaged: what is wrong inside of chunk files, one entry a place.
        unreadable: directories and files that could not be looked at.
    """

    files: int = 0
    chunks: list[ChunkFile] = field(default_factory=list)
    nameless: list[ChunkId] = field(default_factory=list)
    damaged: list[Trouble] = field(default_factory=list)
    unreadable: list[Trouble] = field(default_factory=list)


def list_files(
    files: Files, directories: Sequence[str], unreadable: list[Trouble]
) -> Iterator[tuple[str, int]]:
    """Yield path and size of every file in some directories and below, each once; no links."""
    waiting = sorted({files.real_path(each) for each in directories}, reverse=True)
    seen: set[str] = set()
    while waiting:
        directory = waiting.pop()
        if directory in seen:
            continue
        seen.add(directory)
        try:
            names = files.list_directory(directory)
        except OSError as error:
            unreadable.append(Trouble(directory, _reason(error)))
            continue
        for name in names:
            path = f"{directory.rstrip('/')}/{name}"
            try:
                if files.is_directory(path):
                    waiting.append(path)
                elif files.is_regular(path):
                    yield path, files.stat_size(path)
            except OSError as error:
                unreadable.append(Trouble(path, _reason(error)))


class ChunkSearch:
    """Looks at files; `result` grows.

    Args:
        advance: is told of bytes that are done with.
    """

    def __init__(self, files: Files, advance: Callable[[int], None]) -> None:
        self._files = files
        self._advance = advance
        self._manifests: dict[Manifest, Manifest] = {}
        self.result = SearchResult()

    def look(self, path: str, size: int) -> None:
        """Look at one file."""
        self.result.files += 1
        try:
            if self._may_be_chunk(path, size):
                self._look(path)
        except ChunkDamagedError as error:
            self._note_damage(error)
            self._note_nameless(path)
        except ChunkVersionError as error:
            self.result.unreadable.append(Trouble(path, f"has format version {error.version}"))
            self._note_nameless(path)
        except OSError as error:
            self.result.unreadable.append(Trouble(path, _reason(error)))
            self._note_nameless(path)
        self._advance(size)

    def _may_be_chunk(self, path: str, size: int) -> bool:
        if path.endswith(CHUNK_SUFFIXES):
            return True
        if size < TRAILER_BYTES:
            return False
        file = self._files.open_read(path)
        last = self._files.read_at(file, size - TRAILER_BYTES, TRAILER_BYTES)
        return last.startswith(MAGIC)

    def _look(self, path: str) -> None:
        reader = ChunkReader.open(self._files, path, None)
        named = _named(path)
        if named is not None and named != reader.head.id:
            reason = f"is {reader.head.id}, under another chunk's name; taken for what it is"
            self.result.damaged.append(Trouble(path, reason))
        findings = reader.findings()
        for finding in findings:
            self._note_damage(finding)
        bad = frozenset(finding.position // BLOCK_BYTES for finding in findings)
        manifest = self._manifests.setdefault(reader.head.manifest, reader.head.manifest)
        self.result.chunks.append(ChunkFile(path, reader.head.id, manifest, bad))

    def _note_damage(self, error: ChunkDamagedError) -> None:
        reason = f"{error.region} at byte {error.position}: {error.reason}"
        self.result.damaged.append(Trouble(error.path, reason))

    def _note_nameless(self, path: str) -> None:
        named = _named(path)
        if named is not None:
            self.result.nameless.append(named)


def _named(path: str) -> ChunkId | None:
    """Return the chunk that a file is by its name."""
    try:
        return ChunkId.parse(path.rpartition("/")[2].removesuffix(TEMP_SUFFIX))
    except ChunkNameError:
        return None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
