"""Coded segments of real batches, for tests: the log's bytes, its chunks, and a node for each."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ec.profile import Profile
from logd.record.records import encode_batch
from tests.ec_samples import BATCH_RECORDS, ENCODING, FOUR_AND_TWO, Encoded, encode, noise


@dataclass(frozen=True)
class CodedLog:
    """A segment and its encoding.

    Attributes:
        batches: the bytes of each batch; batch n has the offsets base + 10 n to base + 10 n + 9.
        positions: where each begins.
    """

    base_offset: int
    batches: tuple[bytes, ...]
    positions: tuple[int, ...]
    coded: Encoded

    @property
    def next_offset(self) -> int:
        """The offset behind the last record."""
        return self.base_offset + BATCH_RECORDS * len(self.batches)


def code_log(
    sizes: Sequence[int],
    *,
    base_offset: int = 0,
    generation: int = 1,
    encoding: str = ENCODING,
    profile: Profile = FOUR_AND_TWO,
    seed: int = 7,
    compression: int = 0,
) -> CodedLog:
    """Return a segment with batches of about these sizes, each of ten records, coded."""
    batches, positions, at = [], [], 0
    for number, size in enumerate(sizes):
        value = noise(max(1, size // BATCH_RECORDS), seed + number)
        records = [(b"key", value, (), 1_700_000_000_000 + number)] * BATCH_RECORDS
        base = base_offset + number * BATCH_RECORDS
        batches.append(bytes(encode_batch(records, base_offset=base, codec=compression)))
        positions.append(at)
        at += len(batches[-1])
    coded = encode(
        b"".join(batches), profile, batches=positions,
        generation=generation, encoding=encoding, base_offset=base_offset,
    )  # fmt: skip
    return CodedLog(base_offset, tuple(batches), tuple(positions), coded)


def put_chunk(directory: str, coded: Encoded, index: int, data: bytes | None = None) -> str:
    """Write one chunk file into a node's directory; return its path."""
    inside = f"{directory}/node{index}/chunks"
    os.makedirs(inside, exist_ok=True)
    path = f"{inside}/{coded.ids[index].name}"
    with open(path, "wb") as file:
        file.write(coded.files[index] if data is None else data)
    return path


def put_chunks(directory: str, coded: Encoded, *, without: Sequence[int] = ()) -> None:
    """Write the chunk files of an encoding, one a node."""
    for index in range(len(coded.files)):
        if index not in without:
            put_chunk(directory, coded, index)
