"""Salvage: ordinary segments out of chunk files, with neither catalog nor server. Blocking.

    search    every file below the given directories; every chunk's every byte is checked
    choose    per partition, which encoding is asked for which offsets (`policy.cold.salvage`)
    write     <out>/<topic>-<partition>/<20 digits>.log .index .timeindex (`salvage_segment`)

A segment of which all bytes can be had is written whole. Of any other the batches are taken that
can be had whole, each run of them as a segment of its own. Every batch that is written has a right
CRC-32C and the place that the manifest says. What no chunk gives is listed, with the reason.

Nothing is changed but `out`. A file there has its name only when it is complete and synced; what is
not complete ends in `.salvaging` and is removed unless the process is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ec import checksums
from ec.chunk_id import ChunkId
from ec.kernels.operands import Kernel
from ec.manifest import Manifest, encode_manifest
from logd.cold.chunk_search import ChunkFile, ChunkSearch, SearchResult, Trouble, list_files
from logd.cold.salvage_report import SalvagedPartition, SalvageReport
from logd.cold.salvage_segment import Encoding, SegmentWriter
from logd.errors import DataDirectoryError, DiskFullError
from logd.policy.cold.salvage import FoundSet, Offsets, find_missing, order_sets, subtract
from logd.storage import layout
from logd.storage.files import Files
from logd.units import INT32_MAX

Progress = Callable[[str, int, int], None]
"""Is told of the phase ("reading" or "writing"), the bytes done, and the bytes in all."""


def salvage(
    files: Files,
    out: str,
    sources: Sequence[str],
    *,
    kernel: Kernel,
    cluster: str | None = None,
    on_progress: Progress = lambda _phase, _done, _all: None,
) -> SalvageReport:
    """Write all that chunk files give as segments into `out`.

    Args:
        out: absent or empty; made here.
        sources: directories to search, with those below them.
        cluster: take only chunks of this one.

    Raises:
        DataDirectoryError: `out` is not empty or inside a source, chunks of several clusters were
        found, or none; nothing was written. DiskFullError: not enough space; nothing was written.
        OSError: `out` cannot be written; segments that are there are complete.
    """
    assert sources
    _check_out(files, out, sources)
    found = _search(files, sources, on_progress)
    chunks = _of_one_cluster(found, cluster)
    if not chunks and not found.nameless:
        raise DataDirectoryError(
            f"no chunk in {', '.join(sources)}: {found.files} files were looked at, "
            f"{len(found.unreadable)} places could not be; name the storage nodes' directories, "
            "or a place above them"
        )
    work = _Salvage(files, out, kernel, on_progress)
    partitions = work.run(chunks)
    return SalvageReport(found, partitions, _unknown(found.nameless, partitions, chunks))


def _check_out(files: Files, out: str, sources: Sequence[str]) -> None:
    real = files.real_path(out)
    for source in sources:
        inside = files.real_path(source)
        if f"{real}/".startswith(f"{inside.rstrip('/')}/"):
            raise DataDirectoryError(f"{out} lies in {source}, which is only read; name another")
    if files.exists(out) and (not files.is_directory(real) or files.list_directory(real)):
        raise DataDirectoryError(f"{out} is not an empty directory; name one that is, or none yet")


def _search(files: Files, sources: Sequence[str], on_progress: Progress) -> SearchResult:
    unreadable: list[Trouble] = []
    listed = list(list_files(files, sources, unreadable))
    done, total = 0, sum(size for _, size in listed)

    def advance(size: int) -> None:
        nonlocal done
        done += size
        on_progress("reading", done, total)

    search = ChunkSearch(files, advance)
    for path, size in listed:
        search.look(path, size)
    search.result.unreadable[:0] = unreadable
    return search.result


def _of_one_cluster(found: SearchResult, cluster: str | None) -> list[ChunkFile]:
    """Return the chunks of one cluster.

    Raises:
        DataDirectoryError: there are several, and nobody said which; or none of the one that was.
    """
    clusters: dict[str, list[ChunkFile]] = {}
    for each in found.chunks:
        clusters.setdefault(each.manifest.cluster_id, []).append(each)
    if cluster is not None and clusters and cluster not in clusters:
        names = ", ".join(sorted(clusters))
        raise DataDirectoryError(f"no chunk is of cluster {cluster}; there are some of {names}")
    if cluster is not None:
        return clusters.get(cluster, [])
    if len(clusters) > 1:
        lines = [
            f"{name} ({len(several)} chunks, the first is {several[0].path})"
            for name, several in sorted(clusters.items())
        ]
        raise DataDirectoryError(
            f"these are chunks of {len(clusters)} clusters: {'; '.join(lines)}; "
            "say which one with --cluster, and salvage the others into another directory"
        )
    return next(iter(clusters.values()), [])


def _unknown(
    nameless: Iterable[ChunkId],
    partitions: Sequence[SalvagedPartition],
    chunks: Sequence[ChunkFile],
) -> list[ChunkId]:
    """Return the chunks that cannot be read, of segments that nothing else is known of."""
    taken = {
        (each.topic_id, each.partition): [one.offsets for one in each.segments]
        + [one.offsets for one in each.missing]
        for each in partitions
    }
    known = {(each.id.topic_id, each.id.partition, each.id.base_offset) for each in chunks}
    lost: dict[tuple[str, int, int], ChunkId] = {}
    for each in nameless:
        offsets = taken.get((each.topic_id, each.partition), [])
        is_covered = any(one.first <= each.base_offset < one.next_offset for one in offsets)
        segment = (each.topic_id, each.partition, each.base_offset)
        if not is_covered and segment not in known:
            lost.setdefault(segment, each)
    return [lost[segment] for segment in sorted(lost)]


class _Salvage:
    """One salvage: chooses and writes."""

    def __init__(self, files: Files, out: str, kernel: Kernel, on_progress: Progress) -> None:
        assert out
        self._files = files
        self._out = out
        self._writer = SegmentWriter(files, kernel)
        self._on_progress = on_progress
        self._done_bytes = 0
        self._all_bytes = 0

    def run(self, chunks: Iterable[ChunkFile]) -> list[SalvagedPartition]:
        """Write all partitions, in order."""
        encodings = self._encodings(chunks)
        partitions: dict[tuple[str, int, str], list[Encoding]] = {}
        for each in encodings:
            said = each.manifest
            partitions.setdefault((said.topic, said.partition, said.topic_id), []).append(each)
        names = directory_names(partitions)
        self._check_space(encodings)
        self._make(self._out)
        return [self._partition(names[key], partitions[key]) for key in sorted(partitions)]

    # --- What there is ------------------------------------------------------------------------

    def _encodings(self, chunks: Iterable[ChunkFile]) -> list[Encoding]:
        by_manifest: dict[Manifest, list[ChunkFile]] = {}
        for each in chunks:
            by_manifest.setdefault(each.manifest, []).append(each)
        return [
            Encoding(manifest, tuple(several), self._facts(manifest, several))
            for manifest, several in by_manifest.items()
        ]

    def _facts(self, manifest: Manifest, chunks: Sequence[ChunkFile]) -> FoundSet:
        here = {each.id.index for each in chunks}
        good = {each.id.index for each in chunks if not each.bad}
        # What no segment can be is not gone through: a few bytes can claim petabytes of blocks.
        ranges = self._writer.open(manifest, chunks).ranges() if _fits(manifest) else ()
        return FoundSet(
            offsets=Offsets(manifest.base_offset, manifest.next_offset),
            number=manifest.generation,
            encoding=manifest.encoding,
            chunks=len(here),
            good=len(good),
            k=manifest.k,
            m=manifest.m,
            source_bytes=manifest.source_bytes,
            recoverable_bytes=sum(part.size for part in ranges),
            manifest=checksums.digest(encode_manifest(manifest)),
        )

    def _check_space(self, encodings: Sequence[Encoding]) -> None:
        """Refuse if the file system may not hold it.

        Raises:
            DiskFullError: the sum of all segments, and the longest one again, is more.
        """
        sizes = [each.found.recoverable_bytes for each in encodings]
        self._all_bytes = sum(sizes)
        parent = self._out if self._files.exists(self._out) else _parent(self._out)
        free = self._files.free_bytes(parent)
        need = self._all_bytes + max(sizes, default=0)
        if free < need:
            raise DiskFullError(
                f"{self._out}: {self._all_bytes} bytes of segments, and {max(sizes, default=0)} "
                f"for the longest while it is put together, are {need}; {free} are free"
            )

    def _make(self, directory: str) -> None:
        if not self._files.exists(directory):
            self._files.make_directory(directory)
            self._files.sync_directory(_parent(directory))

    # --- Writing ------------------------------------------------------------------------------

    def _partition(self, name: str, encodings: Sequence[Encoding]) -> SalvagedPartition:
        said = encodings[0].manifest
        made = SalvagedPartition(said.topic, said.topic_id, said.partition)
        by_set = {each.found: each for each in encodings}
        taken: list[Offsets] = []
        for found in order_sets(by_set):
            wanted = subtract(found.offsets, taken)
            if not _fits(by_set[found].manifest):
                made.left_out.append(f"{found}: it is larger than a segment can be")
            elif not wanted or not found.recoverable_bytes:
                reason = "nothing of it can be read" if wanted else "others have its offsets"
                made.left_out.append(f"{found}: {reason}")
            else:
                made.directory = f"{self._out}/{name}"
                self._make(made.directory)
                written = self._writer.write(
                    made.directory, by_set[found], wanted, on_written=self._tell
                )
                made.segments += written
                taken += [each.offsets for each in written]
            self._done_bytes += found.recoverable_bytes
            self._tell(0)
        made.segments.sort(key=lambda each: each.offsets)
        made.missing = find_missing([each.found for each in encodings], taken)
        if not made.segments and made.directory is not None:
            self._files.remove_directory(made.directory)
            made.directory = None
        return made

    def _tell(self, written_bytes: int) -> None:
        """Tell how much is written: what is done, and so much of what is being done."""
        self._on_progress("writing", self._done_bytes + written_bytes, self._all_bytes)


def _fits(manifest: Manifest) -> bool:
    """Whether an encoding is of something that a segment can be."""
    offsets = manifest.next_offset - manifest.base_offset
    return manifest.source_bytes <= INT32_MAX and offsets <= INT32_MAX


def directory_names(
    partitions: Mapping[tuple[str, int, str], object],
) -> dict[tuple[str, int, str], str]:
    """Return the name of each partition's directory; two topics of one name are told apart."""
    ids: dict[str, set[str]] = {}
    for topic, _, topic_id in partitions:
        ids.setdefault(topic, set()).add(topic_id)
    names: dict[tuple[str, int, str], str] = {}
    for topic, partition, topic_id in partitions:
        name = topic if len(ids[topic]) == 1 else f"{topic}.{topic_id}"
        if not layout.is_topic_name(name):
            name = topic_id
        names[topic, partition, topic_id] = f"{name}-{partition}"
    return names


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0] or ("/" if path.startswith("/") else ".")
