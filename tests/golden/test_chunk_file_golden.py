"""The bytes of chunk file version 1 and of a node's identity, kept as hex: they never change.

The stranger is a reader written from docs/formats/chunk-file.md alone: it uses nothing of `ec`.
"""

from __future__ import annotations

import json
import struct
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import reedsolo
import xxhash

from ec.chunk_reader import ChunkReader
from ec.node_identity import NodeIdentity, decode_identity, encode_identity
from ec.profile import Profile
from logd.storage.files import Files
from tests.ec_samples import Encoded, encode, noise

HERE = Path(__file__).parent
SOURCE = noise(131_500, seed=1)
BATCHES = (0, 40_000, 65_900, 100_000)


def golden(name: str) -> bytes:
    return bytes.fromhex((HERE / f"{name}.hex").read_text())


def sample() -> Encoded:
    return encode(SOURCE, Profile(2, 2), batches=BATCHES)


def golden_files() -> dict[str, bytes]:
    """Return the kept files: their payloads are made anew, what is behind them is kept."""
    encoded = sample()
    return {
        chunk.name: payload + golden(f"chunk_v1_{chunk.index}")
        for chunk, payload in zip(encoded.ids, encoded.payloads, strict=True)
    }


def test_we_write_what_we_wrote() -> None:
    """Every chunk of the sample, byte for byte."""
    encoded = sample()
    for chunk, data in zip(encoded.ids, encoded.files, strict=True):
        assert data.hex() == golden_files()[chunk.name].hex()


def test_we_read_what_we_wrote(directory: str) -> None:
    """Each kept file is intact and holds its part."""
    for chunk, payload in zip(sample().ids, sample().payloads, strict=True):
        path = Path(directory, chunk.name)
        path.write_bytes(golden_files()[chunk.name])
        reader = ChunkReader.open(Files(), str(path), chunk)
        reader.verify()
        assert bytes(reader.read(0, len(payload))) == payload


def test_node_identity() -> None:
    """Version 1."""
    identity = NodeIdentity("cluster", "a", "0123456789abcdef" * 2, 41)
    assert encode_identity(identity).hex() == golden("node_identity_v1").hex()
    assert decode_identity(golden("node_identity_v1"), path="p") == identity


# --- The stranger ---------------------------------------------------------------------------------


def read_chunk(name: str, data: bytes) -> tuple[int, dict[str, Any], bytes, bytes]:
    """Return (index, manifest, manifest's bytes, payload) of a file; everything is checked."""
    last = data[-128:]
    assert last[:8] == b"logdchnk"
    assert xxhash.xxh3_64_digest(last[:120]) == last[120:]
    version, index, k, m, generation = struct.unpack(">IHBBQ", last[8:24])
    encoding = last[24:40].hex()
    lengths = struct.unpack(">5Q", last[40:80])
    assert version == 1
    assert sum(lengths) + 128 == len(data)
    assert last[96:120] == bytes(24)
    parts, at = [], 0
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    payload, sums, offsets, times, written = parts
    assert xxhash.xxh3_128_digest(written) == last[80:96]
    manifest = json.loads(written)
    assert (manifest["k"], manifest["m"], manifest["generation"], manifest["encoding"]) == (
        k, m, generation, encoding,
    )  # fmt: skip
    assert name == (
        f"{manifest['topic_id']}-{manifest['partition']}-{manifest['base_offset']:020d}"
        f"-g{generation}-{encoding}-{index:02d}.chunk"
    )
    entry = manifest["chunks"][index]
    assert entry["payload_bytes"] == len(payload)
    for region, digest in ((sums, "checksums"), (offsets, "offset_index"), (times, "time_index")):
        assert xxhash.xxh3_128_hexdigest(region) == entry[digest]
    blocks = [payload[start : start + 65536] for start in range(0, len(payload), 65536)]
    assert sums == b"".join(map(xxhash.xxh3_64_digest, blocks))
    return index, manifest, written, payload


def restore(files: dict[str, bytes]) -> bytes:
    """Return the segment from any k of its chunk files."""
    read = [read_chunk(name, data) for name, data in files.items()]
    assert len({written for _, _, written, _ in read}) == 1
    manifest = read[0][1]
    k, cuts = manifest["k"], manifest["cuts"]
    read = read[:k]
    reedsolo.init_tables(prim=0x11D, generator=2, c_exp=8)
    matrix = [
        [int(column == index) for column in range(k)]
        if index < k
        else list(bytes.fromhex(manifest["coefficients"][index - k]))
        for index, _, _, _ in read
    ]
    inverse = invert(matrix)
    longest = max(b - a for a, b in pairwise(cuts))
    payloads = [payload.ljust(longest, b"\0") for _, _, _, payload in read]
    segment = b""
    for chunk in range(k):
        data = bytearray(longest)
        for factor, payload in zip(inverse[chunk], payloads, strict=True):
            table = bytes(reedsolo.gf_mul(factor, value) for value in range(256))
            data = bytearray(a ^ b for a, b in zip(data, payload.translate(table), strict=True))
        segment += data[: cuts[chunk + 1] - cuts[chunk]]
    return segment


def invert(matrix: list[list[int]]) -> list[list[int]]:
    """Return the inverse in the field, for two by two."""
    (a, b), (c, d) = matrix
    times = reedsolo.gf_mul
    scale = reedsolo.gf_inverse(times(a, d) ^ times(b, c))
    return [[times(scale, d), times(scale, b)], [times(scale, c), times(scale, a)]]


@pytest.mark.parametrize("kept", list(combinations(range(4), 2)), ids=str)
def test_a_stranger_restores_the_segment(kept: tuple[int, int]) -> None:
    """From any two of the four kept files, with nothing but the specification."""
    files = golden_files()
    chosen = {name: files[name] for name in sorted(files) if int(name[-8:-6]) in kept}
    assert len(chosen) == 2
    assert restore(chosen) == SOURCE


def test_a_stranger_finds_the_indexes() -> None:
    """Those of the data chunks together are those of a parity chunk."""
    files = golden_files()
    tails = []
    for name in sorted(files):
        data = files[name]
        payload, sums, offsets, times = struct.unpack(">4Q", data[-88:-56])
        start = payload + sums
        tails.append((data[start : start + offsets], data[start + offsets :][:times]))
    assert tails[2] == tails[3] == (tails[0][0] + tails[1][0], tails[0][1] + tails[1][1])
    assert [position for _, position in struct.iter_unpack(">ii", tails[2][0])] == list(BATCHES)
