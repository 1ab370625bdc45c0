"""The batches that begin in a data chunk, for `logd dump`.

A cut between two chunks may lie inside a batch: then one chunk ends with the batch's beginning and
the next one starts with its rest. Neither part can be checked by itself; both are shown as what
they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from ec.chunk_file import ChunkHead
from ec.indexes import POSITION_ENTRY
from logd.errors import CorruptFileError
from logd.record.batch import HEADER_BYTES, BatchHeader, is_plausible, read_header
from logd.storage.files import Files, OpenFile
from logd.storage.inspect import DAMAGE, Depth, Item, batch_fields, record_items
from logd.storage.segment_scan import scan_batches


def batch_items(files: Files, path: str, head: ChunkHead, depth: Depth) -> Iterator[Item]:
    """Yield the batches that begin in a data chunk, and what is wrong with them.

    Positions are those of the file; what an index says of positions is of the segment.

    Raises:
        OSError: it cannot be read.
    """
    index, manifest = head.id.index, head.manifest
    assert index < manifest.k
    first = manifest.first_batches[index]
    cut = manifest.cuts[index]
    begin = head.payload_bytes if first is None else first.position - cut
    if begin:
        yield Item("rest of a batch", 0, {"bytes": begin, "begins_in": _before(head)})
    if first is None:
        return
    file = files.open_read(path)
    found: dict[int, BatchHeader] = {}
    yield from _walk(files, file, head, begin, depth, found)
    if depth.verify:
        yield from _check_first(begin, first.offset, found)
        yield from _check_index(head, cut, found)


def _before(head: ChunkHead) -> str:
    """Return the chunk in which the batch begins that this one starts inside of."""
    firsts = head.manifest.first_batches
    earlier = [at for at in range(head.id.index) if firsts[at] is not None]
    return f"data {earlier[-1]}" if earlier else "none"


def _walk(
    files: Files,
    file: OpenFile,
    head: ChunkHead,
    begin: int,
    depth: Depth,
    found: dict[int, BatchHeader],
) -> Iterator[Item]:
    """Yield batches from position `begin` on, and note their headers in `found`."""
    end, position = head.payload_bytes, begin
    try:
        for scanned in scan_batches(files, file, begin, end):
            position, header = scanned.position, scanned.header
            found[position] = header
            yield Item("batch", position, batch_fields(header))
            if not scanned.crc_ok:
                yield Item(DAMAGE, position, {"reason": _bad_crc(header)})
            else:
                yield from record_items(files, file, position, header, depth)
            position += header.size
    except CorruptFileError as error:
        yield _cut_off(files, file, head, error, found)


def _bad_crc(header: BatchHeader) -> str:
    return f"the batch of offset {header.base_offset} fails its CRC-32C"


def _cut_off(
    files: Files,
    file: OpenFile,
    head: ChunkHead,
    error: CorruptFileError,
    found: dict[int, BatchHeader],
) -> Item:
    """Return the batch that goes on in the next chunk, or the damage that it is instead."""
    position, here = error.position, head.payload_bytes - error.position
    is_last = head.id.index == head.manifest.k - 1
    data = files.read_at(file, position, min(HEADER_BYTES, here))
    fields: dict[str, object] = {"bytes_here": here, "goes_on_in": f"data {head.id.index + 1}"}
    if not is_last and here < HEADER_BYTES:
        return Item("begin of a batch", position, fields)
    if not is_last and is_plausible(read_header(data)):
        header = found[position] = read_header(data)
        return Item("begin of a batch", position, fields | batch_fields(header))
    return Item(DAMAGE, position, {"reason": error.reason})


def _check_first(begin: int, offset: int, found: dict[int, BatchHeader]) -> Iterator[Item]:
    """The first batch has the offset that the manifest says, if its header is here."""
    header = found.get(begin)
    if header is not None and header.base_offset != offset:
        reason = f"the manifest says offset {offset}, the batch {header.base_offset}"
        yield Item(DAMAGE, begin, {"reason": reason})


def _check_index(head: ChunkHead, cut: int, found: dict[int, BatchHeader]) -> Iterator[Item]:
    """Every entry of the offset index names a batch that begins here, and its last offset."""
    base, at = head.manifest.base_offset, head.trailer.offset_index_at
    for number, (relative, position) in enumerate(POSITION_ENTRY.iter_unpack(head.indexes.offsets)):
        header = found.get(position - cut)
        if header is None and head.payload_bytes - (position - cut) < HEADER_BYTES:
            continue  # Its header goes on in the next chunk.
        if header is None or header.last_offset != base + relative:
            reason = (
                f"offset index: no batch at {position} in the segment ends with {base + relative}"
            )
            yield Item(DAMAGE, at + number * POSITION_ENTRY.size, {"reason": reason})
