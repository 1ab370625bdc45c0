"""Build record batches: for the CLI, tests, benchmarks and what the server itself writes.

The bytes are those that Kafka's clients make of the same records: the first record's timestamp is
the base, offset deltas count from 0, base offset 0 and leader epoch -1 stand until a server sets
them.

Source: Apache Kafka, "Record Batch" and "Record" in the protocol's message format.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from logd.record import batch
from logd.record.compression import compress
from logd.record.crc32c import crc32c
from logd.record.varint import varint, write_varint

Headers = Sequence[tuple[str, bytes | None]]
NewRecord = tuple[bytes | None, bytes | None, Headers, int]
"""Key, value, headers, timestamp in milliseconds."""

_NULL = varint(-1)
_NO_HEADERS = varint(0)
_NO_LEADER_EPOCH = -1


class BatchBuilder:
    """Collects records, then makes one batch of them.

    `size_bytes` is the batch's size before compression: ask it to keep below max.message.bytes.
    """

    __slots__ = ("_base_timestamp_ms", "_max_timestamp_ms", "_next_delta", "_payload", "count")

    def __init__(self) -> None:
        self.count = 0
        self._payload = bytearray()
        self._next_delta = 0
        self._base_timestamp_ms = batch.NO_TIMESTAMP
        self._max_timestamp_ms = batch.NO_TIMESTAMP

    @property
    def size_bytes(self) -> int:
        """Bytes of the batch so far, header included, not compressed."""
        return batch.HEADER_BYTES + len(self._payload)

    def append(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        timestamp_ms: int,
        offset_delta: int | None = None,
    ) -> None:
        """Add one record at the end.

        Args:
            timestamp_ms: -1 for none.
            offset_delta: leaves a gap before the record, as compaction does; default: no gap.
        """
        delta = self._next_delta if offset_delta is None else offset_delta
        assert delta >= self._next_delta
        if not self.count:
            self._base_timestamp_ms = timestamp_ms
        self._max_timestamp_ms = max(self._max_timestamp_ms, timestamp_ms)
        body = b"".join((
            b"\0",  # attributes: none are defined
            varint(timestamp_ms - self._base_timestamp_ms),
            varint(delta),
            _NULL if key is None else varint(len(key)),
            key or b"",
            _NULL if value is None else varint(len(value)),
            value or b"",
            _headers(headers) if headers else _NO_HEADERS,
        ))  # fmt: skip
        write_varint(self._payload, len(body))
        self._payload += body
        self._next_delta = delta + 1
        self.count += 1

    def build(
        self,
        *,
        base_offset: int = 0,
        leader_epoch: int = _NO_LEADER_EPOCH,
        codec: int = 0,
        attributes: int = 0,
        producer_id: int = batch.NO_PRODUCER_ID,
        producer_epoch: int = -1,
        base_sequence: int = -1,
        last_offset_delta: int | None = None,
    ) -> bytearray:
        """Return the whole batch with its CRC. The builder is unchanged.

        Args:
            attributes: bits to set besides the codec's, e.g. `batch.CONTROL_BIT`.
            last_offset_delta: for a batch whose last records are compacted away.
        """
        payload = compress(codec, self._payload) if self.count else b""
        last = self._next_delta - 1 if last_offset_delta is None else last_offset_delta
        out = bytearray(batch.HEADER_BYTES)
        batch.HEADER.pack_into(
            out, 0, base_offset, len(out) + len(payload) - batch.LENGTH_OVERHEAD_BYTES,
            leader_epoch, batch.MAGIC, 0, codec | attributes, last, self._base_timestamp_ms,
            self._max_timestamp_ms, producer_id, producer_epoch, base_sequence, self.count,
        )  # fmt: skip
        out += payload
        set_crc(out)
        return out


def encode_batch(
    records: Iterable[NewRecord],
    *,
    base_offset: int = 0,
    leader_epoch: int = _NO_LEADER_EPOCH,
    codec: int = 0,
    attributes: int = 0,
    producer_id: int = batch.NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = -1,
) -> bytearray:
    """Return one batch of (key, value, headers, timestamp_ms) records, CRC set.

    The arguments are those of `BatchBuilder.build`.
    """
    builder = BatchBuilder()
    for key, value, headers, timestamp_ms in records:
        builder.append(key, value, headers, timestamp_ms=timestamp_ms)
    return builder.build(
        base_offset=base_offset,
        leader_epoch=leader_epoch,
        codec=codec,
        attributes=attributes,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        base_sequence=base_sequence,
    )


def set_crc(buffer: bytearray) -> None:
    """Set the CRC of the one batch in `buffer`, after a change to what the CRC covers."""
    crc = crc32c(memoryview(buffer)[batch.CRC_START :])
    buffer[batch.CRC_START - 4 : batch.CRC_START] = crc.to_bytes(4, "big")


def _headers(headers: Headers) -> bytes:
    out = bytearray(varint(len(headers)))
    for name, value in headers:
        # The counterpart of how records.iterate decodes: what is no UTF-8 comes back as it was.
        key = name.encode("utf-8", "surrogateescape")
        out += varint(len(key)) + key
        out += _NULL if value is None else varint(len(value)) + value
    return bytes(out)
