"""A log for compaction, appended to a server batch by batch, and what is left of it read back.

The log is that of `bench.cleaning`, which wrote it once; every side gets the same batches, by
Produce requests. One record more follows, with a key of its own and a time a week later: a server
that compacts sealed segments only has begun a new one with it.

What is left is fetched from the start, as a consumer would. Each key must be there once, and the
offsets of the records must be those of the keys' last ones: their sum says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench import protocol
from bench.cleaning import T0_MS, batch_of, keyed_offsets
from bench.load import append_frames, connect
from bench.peers.readback import Reader, await_records
from bench.protocol import AnswerError

SEAL_KEY: Final = b"the-log-ends-now"
SEAL_MS: Final = T0_MS + 8 * 24 * 3600 * 1000  # segment.ms is a week


def append_log(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Append the batches of some of the log's segments to partition 0, and the last record."""
    topic, (host, port) = spec["topic"], spec["address"]
    frames = _frames(topic, spec["directory"], [base for base, _, _ in spec["segments"]])
    append_frames((host, port), topic, frames)
    end = spec["segments"][-1][1]
    await_records((host, port), topic, before=[0], records=end + 1)
    return {}


def _frames(topic: str, directory: str, bases: list[int]) -> Iterator[bytes]:
    for base in bases:
        with Path(directory, f"{base:020d}.log").open("rb") as file:
            while head := file.read(12):
                (length,) = struct.unpack_from(">i", head, 8)
                batch = bytes(8) + head[8:] + file.read(length)  # The base offset is the broker's.
                yield protocol.produce_request(topic, 0, batch, acks=1).frame
    seal = batch_of([(SEAL_KEY, b"")], timestamp_ms=SEAL_MS)
    yield protocol.produce_request(topic, 0, seal, acks=1).frame


def check_compacted(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Read all that is left in partition 0; return its bytes.

    Raises:
        AnswerError: it is not the last record of each key and the seal.
    """
    (host, port), end = spec["address"], spec["records"]
    found: dict[bytes | None, int] = {}
    records = size = offset = 0
    with connect((host, port)) as connection:
        reader = Reader(connection, spec["topic"], 0)
        while offset <= end:
            head = reader.fetch(offset)
            place = head.records_position
            data = bytes(reader.view[place : place + head.records_bytes])
            before = offset
            for next_offset, batch in _batches(data):
                offset = next_offset
                found.update(keyed_offsets(batch))
                records += struct.unpack_from(">i", batch, 57)[0]
                size += len(batch)
            if offset == before:
                raise AnswerError(f"compacted: nothing at offset {before} of {end}")
    if records != len(found) or records != spec["keys"] + 1:
        raise AnswerError(
            f"compacted: {records} records of {len(found)} keys are left, not of {spec['keys']}"
        )
    if found.pop(SEAL_KEY, None) != end or sum(found.values()) != spec["last_offsets_sum"]:
        raise AnswerError("compacted: the last record of some key is not there")
    return {"bytes": size}


def _batches(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each whole batch, with the offset behind it."""
    at = 0
    while at + protocol.BATCH_HEADER_BYTES <= len(data):
        base, length = struct.unpack_from(">qi", data, at)
        if at + 12 + length > len(data):
            return
        (last_delta,) = struct.unpack_from(">i", data, at + 23)
        yield base + last_delta + 1, data[at : at + 12 + length]
        at += 12 + length
