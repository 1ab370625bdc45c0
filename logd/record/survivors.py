"""Batches with fewer records: the bytes of those that stay are cut out and put together again.

The base offset, the sequence numbers and the last offset delta stay, so the records' deltas stay
valid: an offset never changes, and a producer's sequence is still told by its last batch. A batch
of which nothing is left may stay as a header without records.

A delete horizon says until when the batch's tombstones are kept. It stands in the place of the base
timestamp, with a bit in the attributes; so the records' timestamp deltas are written anew.

Source: Apache Kafka, "Record Batch"; KIP-534 (delete horizons).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logd.errors import CorruptRecordsError
from logd.record import batch
from logd.record.batch import BatchHeader
from logd.record.build import set_crc
from logd.record.compression import compress
from logd.record.timestamps import latest_timestamp_ms
from logd.record.varint import read_varint, read_varlong, write_varint
from logd.units import INT64_MAX


def delete_horizon_ms(header: BatchHeader) -> int | None:
    """Return until when the batch's tombstones are kept; None if that was not decided yet."""
    return header.base_timestamp if header.attributes & batch.DELETE_HORIZON_BIT else None


def empty_batch(header: BatchHeader) -> bytearray:
    """Return the batch with none of its records: offsets, producer and latest time stay.

    Byte for byte what Kafka's cleaner writes: no codec, no base timestamp, no delete horizon.
    """
    kept = batch.LOG_APPEND_TIME_BIT | batch.TRANSACTIONAL_BIT | batch.CONTROL_BIT
    out = bytearray(batch.HEADER_BYTES)
    fields = header._replace(
        length=batch.HEADER_BYTES - batch.LENGTH_OVERHEAD_BYTES,
        crc=0,
        attributes=header.attributes & kept,
        base_timestamp=batch.NO_TIMESTAMP,
        max_timestamp=latest_timestamp_ms(header),
        count=0,
    )
    batch.HEADER.pack_into(out, 0, *fields)
    set_crc(out)
    return out


def rebuild_batch(
    header: BatchHeader,
    content: bytes,
    pieces: Sequence[tuple[int, int]],
    *,
    horizon_ms: int | None = None,
) -> bytearray:
    """Return the batch with these of its records, compressed as it was.

    Args:
        content: what its records decompress to, or anything that holds them.
        pieces: (start, end) in `content` of each record that stays, in order; at least one.
        horizon_ms: the delete horizon to set; None leaves what is there.

    Raises:
        CorruptRecordsError: a record's timestamp makes no sense.
    """
    assert pieces
    base_ms = header.base_timestamp if horizon_ms is None else horizon_ms
    if header.attributes & batch.LOG_APPEND_TIME_BIT:
        latest_ms = header.max_timestamp
    else:
        enough_ms = header.max_timestamp - header.base_timestamp
        latest_ms = header.base_timestamp + _latest_delta_ms(content, pieces, enough_ms)
        if header.max_timestamp == batch.NO_TIMESTAMP and horizon_ms is None:
            latest_ms = batch.NO_TIMESTAMP  # Its producer never set it.
    if base_ms == header.base_timestamp:
        payload = b"".join([content[start:end] for start, end in _joined(pieces)])
    else:
        payload = _shifted(content, pieces, header.base_timestamp - base_ms)
    payload = compress(header.codec, payload)
    bits = batch.DELETE_HORIZON_BIT if horizon_ms is not None else 0
    fields = header._replace(
        length=batch.HEADER_BYTES - batch.LENGTH_OVERHEAD_BYTES + len(payload),
        crc=0,
        attributes=header.attributes | bits,
        base_timestamp=base_ms,
        max_timestamp=latest_ms,
        count=len(pieces),
    )
    out = bytearray(batch.HEADER_BYTES)
    batch.HEADER.pack_into(out, 0, *fields)
    out += payload
    set_crc(out)
    return out


def _joined(pieces: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Yield the same bytes in fewer pieces: neighbours become one."""
    first, last = pieces[0]
    for start, end in pieces:
        if start > last:
            yield first, last
            first = start
        last = end
    yield first, last


def _latest_delta_ms(content: bytes, pieces: Sequence[tuple[int, int]], enough_ms: int) -> int:
    """Return the greatest timestamp delta; no record has one above `enough_ms`, says the header."""
    latest_ms = _read_head(content, pieces[-1][0])[1]
    for start, _ in reversed(pieces):  # Most producers' times rise.
        if latest_ms == enough_ms:
            break
        latest_ms = max(latest_ms, _read_head(content, start)[1])
    return latest_ms


def _read_head(content: bytes, start: int) -> tuple[int, int, int]:
    """Return where the body of the record at `start` begins, its timestamp delta, and what follows
    that."""
    try:
        _, body = read_varint(content, start)
        delta_ms, after = read_varlong(content, body + 1)
    except IndexError as error:
        raise CorruptRecordsError("the batch ends inside a record") from error
    return body, delta_ms, after


def _shifted(content: bytes, pieces: Sequence[tuple[int, int]], shift_ms: int) -> bytes:
    """Return the records with their timestamp deltas moved by `shift_ms`."""
    out = bytearray()
    for start, end in pieces:
        body, delta_ms, after = _read_head(content, start)
        head = bytearray(content[body : body + 1])  # The attributes.
        shifted_ms = delta_ms + shift_ms
        if not -INT64_MAX <= shifted_ms <= INT64_MAX:
            raise CorruptRecordsError(f"a timestamp delta of {delta_ms} ms cannot be")
        write_varint(head, shifted_ms)
        write_varint(out, len(head) + end - after)
        out += head
        out += content[after:end]
    return bytes(out)
