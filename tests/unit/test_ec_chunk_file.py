"""Chunk files: every region is covered, every contradiction is found, nothing else is accepted."""

from __future__ import annotations

import random
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec import chunk_file
from ec.chunk_id import NAME_CHARACTERS_MAX, ChunkId
from ec.chunk_reader import STEP_BLOCKS, ChunkReader
from ec.errors import ChunkDamagedError, ChunkNameError, ChunkVersionError
from ec.geometry import BLOCK_BYTES
from ec.kernels.isal import load
from ec.manifest import ManifestError, decode_manifest, encode_manifest
from ec.profile import Profile
from logd.storage.files import Files
from tests.ec_samples import ENCODING, TOPIC_ID, Encoded, encode, entry_without, noise, without

BATCHES = list(range(0, 300_000, 9_001))


@pytest.fixture(scope="module")
def sample() -> Encoded:
    return encode(noise(300_000), batches=BATCHES)


def open_bytes(directory: str, data: bytes, chunk: ChunkId) -> ChunkReader:
    path = f"{directory}/file"
    Path(path).write_bytes(data)
    return ChunkReader.open(Files(), path, chunk)


def problem(directory: str, data: bytes, chunk: ChunkId) -> ChunkDamagedError | None:
    """Return what is wrong with a file, as a whole verification finds it."""
    try:
        open_bytes(directory, data, chunk).verify()
    except ChunkDamagedError as error:
        return error
    return None


def test_every_chunk_is_read_as_it_was_written(directory: str, sample: Encoded) -> None:
    """Payload, indexes, manifest and digest of each chunk come back."""
    heads = []
    for chunk, payload, data in zip(sample.ids, sample.payloads, sample.files, strict=True):
        reader = open_bytes(directory, data, chunk)
        reader.verify()
        assert bytes(reader.read(0, len(payload))) == payload
        assert reader.head.manifest == sample.manifest
        assert reader.head.trailer.file_bytes == len(data)
        heads.append(reader.head)
    assert len({head.digest for head in heads}) == len(heads)
    assert b"".join(sample.payloads[:4]) == sample.source
    whole = heads[4].indexes
    assert b"".join(head.indexes.offsets for head in heads[:4]) == whole.offsets
    assert b"".join(head.indexes.times for head in heads[:4]) == whole.times
    assert len(whole.offsets) == 8 * len(BATCHES)


SIZES = [0, 1, 3, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES - 1,
         2 * BLOCK_BYTES, 2 * BLOCK_BYTES + 1, 4 * BLOCK_BYTES + 3]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("profile", [Profile(2, 1), Profile(3, 2)], ids=str)
def test_all_sizes_are_stored_and_read(directory: str, size: int, profile: Profile) -> None:
    """Empty segments, and sizes one off a block and a chunk, are no special cases."""
    encoded = encode(noise(size), profile)
    for chunk, payload, data in zip(encoded.ids, encoded.payloads, encoded.files, strict=True):
        reader = open_bytes(directory, data, chunk)
        reader.verify()
        assert bytes(reader.read(0, len(payload))) == payload
        assert len(data) == len(payload) + chunk_file.tail_bytes(encoded.manifest, chunk.index)


def test_any_range_is_read(directory: str, sample: Encoded, rng: random.Random) -> None:
    """Ranges within, across and at the edges of blocks."""
    payload = sample.payloads[4]
    reader = open_bytes(directory, sample.files[4], sample.ids[4])
    edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(payload)]
    edges += [rng.randrange(len(payload)) for _ in range(10)]
    for start in edges:
        for end in edges:
            if start <= end:
                assert bytes(reader.read(start, end)) == payload[start:end]


def test_one_flipped_bit_anywhere_is_found_and_named(
    directory: str, sample: Encoded, rng: random.Random
) -> None:
    """In every region of a data and of a parity chunk, first byte, last byte and some between."""
    for index in (1, 5):
        data, chunk = sample.files[index], sample.ids[index]
        trailer = open_bytes(directory, data, chunk).head.trailer
        borders = [0, trailer.checksums_at, trailer.offset_index_at, trailer.time_index_at,
                   trailer.manifest_at, trailer.trailer_at, trailer.file_bytes]  # fmt: skip
        for start, end in pairwise(borders):
            positions = {start, end - 1, *(rng.randrange(start, end) for _ in range(12))}
            for at in sorted(positions):
                broken = bytearray(data)
                broken[at] ^= 1 << rng.randrange(8)
                found = problem(directory, bytes(broken), chunk)
                assert found is not None, at
                assert found.region == trailer.region_at(at), at
                if found.region == "payload":
                    assert found.position == at // BLOCK_BYTES * BLOCK_BYTES
                else:
                    assert start <= found.position < end


def test_every_bit_of_the_trailer_counts(directory: str, sample: Encoded) -> None:
    """Reserved bytes and the checksum itself included."""
    data, chunk = sample.files[0], sample.ids[0]
    for at in range(len(data) - chunk_file.TRAILER_BYTES, len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[at] ^= 1 << bit
            found = problem(directory, bytes(broken), chunk)
            assert found is not None
            assert found.region == "trailer"


def test_a_file_that_was_cut_or_grew_is_found(directory: str, sample: Encoded) -> None:
    """Truncated anywhere, emptied, or with a byte more."""
    data, chunk = sample.files[0], sample.ids[0]
    for size in (0, 1, 127, 128, 129, len(data) // 2, len(data) - 128, len(data) - 1):
        assert problem(directory, data[:size], chunk) is not None
    assert problem(directory, data + b"\0", chunk) is not None
    assert problem(directory, data[1:], chunk) is not None


def test_a_swapped_file_is_found(directory: str, sample: Encoded) -> None:
    """An intact chunk under another chunk's name, or another generation's or encoding's."""
    others = [
        sample.ids[1],
        encode(sample.source, batches=BATCHES, generation=2).ids[0],
        encode(sample.source, batches=BATCHES, encoding="a" * 32).ids[0],
        encode(sample.source, batches=BATCHES, base_offset=0).ids[0],
    ]
    for expected in others:
        found = problem(directory, sample.files[0], expected)
        assert found is not None
        assert found.region == "identity"


def test_all_bad_blocks_are_listed(directory: str) -> None:
    """A bad block does not hide the others."""
    encoded = encode(noise(2 * (STEP_BLOCKS + 4) * BLOCK_BYTES), Profile(2, 1))
    data = bytearray(encoded.files[0])
    for block in (0, 3, STEP_BLOCKS, STEP_BLOCKS + 3):
        data[block * BLOCK_BYTES + 5] ^= 1
    found = open_bytes(directory, bytes(data), encoded.ids[0]).findings()
    blocks = [finding.position // BLOCK_BYTES for finding in found]
    assert blocks == [0, 3, STEP_BLOCKS, STEP_BLOCKS + 3]


def test_only_verified_blocks_are_given_to_sendfile(directory: str, sample: Encoded) -> None:
    """A range is one once its blocks were read; dropping the pages forgets that."""
    reader = open_bytes(directory, sample.files[0], sample.ids[0])
    assert reader.verified_range(10, 20) is None
    reader.read(10, 20)
    slice_ = reader.verified_range(0, BLOCK_BYTES)
    assert slice_ is not None
    assert (slice_.position, slice_.size) == (0, BLOCK_BYTES)
    assert reader.verified_range(0, BLOCK_BYTES + 1) is None
    reader.drop_cache()
    assert reader.verified_range(10, 20) is None


def test_a_bad_block_is_no_longer_verified(directory: str, sample: Encoded) -> None:
    """A block that was good once and is bad now is given out no more."""
    reader = open_bytes(directory, sample.files[0], sample.ids[0])
    reader.verify()
    broken = bytearray(sample.files[0])
    broken[5] ^= 1
    Path(reader.path).write_bytes(broken)
    with pytest.raises(ChunkDamagedError):
        reader.verify()
    assert reader.verified_range(0, 10) is None


def test_a_newer_version_is_refused_by_name(directory: str, sample: Encoded) -> None:
    """An intact trailer of version 2 is not damage."""
    data = bytearray(sample.files[0])
    at = len(data) - chunk_file.TRAILER_BYTES
    data[at + 11] = 2
    start = bytes(data[at : at + 120])
    data[at + 120 :] = chunk_file.checksums.checksum(start).to_bytes(8, "big")
    with pytest.raises(ChunkVersionError, match="version 2"):
        open_bytes(directory, bytes(data), sample.ids[0])


def test_the_longest_manifest_fits() -> None:
    """16+4, the longest names and the largest numbers."""
    manifest = encode(noise(100), Profile(16, 4)).manifest
    longest = without(
        manifest, topic="t" * 249, cluster_id="c" * 249, writer="w" * 64, generation=2**53 - 1
    )
    assert len(encode_manifest(longest)) < 10_000
    assert decode_manifest(encode_manifest(longest)) == longest


def contradictions(sample: Encoded) -> list[dict[str, Any]]:
    """Return changes that each make a manifest contradict itself."""
    manifest = sample.manifest
    firsts = manifest.first_batches
    return [
        {"version": 2},
        {"k": 3},
        {"m": 3},
        {"k": 17},
        {"field": "gf256-187"},
        {"matrix": "vandermonde"},
        {"coefficients": manifest.coefficients[::-1]},
        {"coefficients": manifest.coefficients[:1]},
        {"block_bytes": 4096},
        {"cuts": manifest.cuts[:-1]},
        {"cuts": (1, *manifest.cuts[1:])},
        {"cuts": (*manifest.cuts[:-1], manifest.source_bytes + 1)},
        {"cuts": (0, *manifest.cuts[2:0:-1], *manifest.cuts[3:])},
        {"source_bytes": manifest.source_bytes + 1},
        {"source_digest": "x" * 32},
        {"topic_id": TOPIC_ID.upper()},
        {"encoding": ENCODING[:-1]},
        {"topic": ""},
        {"topic": "t" * 250},
        {"topic": "a\nb"},
        {"partition": -1},
        {"generation": 0},
        {"base_offset": -1},
        {"next_offset": manifest.base_offset - 1},
        {"min_timestamp_ms": manifest.max_timestamp_ms + 1},
        {"first_batches": firsts[:-1]},
        {"first_batches": (firsts[1], *firsts[1:])},
        {"chunks": manifest.chunks[:-1]},
        {"chunks": manifest.chunks[::-1]},
        {"chunks": entry_without(manifest, 0, payload_bytes=5)},
        {"chunks": entry_without(manifest, 0, checksums="y" * 32)},
        {"chunks": entry_without(manifest, 0, offset_index_bytes=7)},
        {"chunks": entry_without(manifest, 0, offset_index_bytes=-8)},
        {"chunks": entry_without(manifest, 0, time_index_bytes=0)},
        {"chunks": entry_without(manifest, 5, offset_index=ENCODING)},
    ]


def test_a_manifest_that_contradicts_itself_is_refused(sample: Encoded) -> None:
    """Each part is checked against the others, reading and writing."""
    for change in contradictions(sample):
        changed = without(sample.manifest, **change)
        with pytest.raises(ManifestError):
            encode_manifest(changed)
        with pytest.raises(ManifestError):
            decode_manifest(msgspec.json.encode(changed))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"null", b"[" * 60_000, b"\xff\xfe", b'{"version":1}', b" " * 70_000],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Whatever the bytes, the answer is an error of ours."""
    with pytest.raises(ManifestError):
        decode_manifest(data)


def test_a_manifest_has_one_form(sample: Encoded) -> None:
    """Spaces, unknown fields and other orders are not what a writer writes."""
    data = encode_manifest(sample.manifest)
    for changed in (data + b" ", data.replace(b":", b": ", 1), data[:-1] + b',"more":1}'):
        with pytest.raises(ManifestError):
            decode_manifest(changed)


def test_a_manifest_names_no_place(sample: Encoded) -> None:
    """A chunk may move: nothing in it says where it is or when it was made."""
    names = {field.name for field in msgspec.structs.fields(sample.manifest)}
    assert not names & {"node", "path", "created", "written_at", "host"}
    assert encode(sample.source, batches=BATCHES).files == sample.files


def test_names_are_read_as_they_are_written() -> None:
    """The longest and the shortest parts of a chunk's name."""
    for chunk in (
        ChunkId(TOPIC_ID, 0, 0, 1, ENCODING, 0),
        ChunkId(TOPIC_ID, 2**31 - 1, 2**63 - 1, 2**53 - 1, ENCODING, 19),
    ):
        assert ChunkId.parse(chunk.name) == chunk
        assert len(chunk.name) <= NAME_CHARACTERS_MAX
    first, second = (ChunkId(TOPIC_ID, 0, base, 1, ENCODING, 0).name for base in (9, 10))
    assert first < second


GOOD = ChunkId(TOPIC_ID, 3, 1000, 1, ENCODING, 5).name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "/etc/passwd", f"../{GOOD}", f"{GOOD}/", f"{GOOD}\n", f"{GOOD}\0",
        GOOD.upper(), GOOD.replace("-3-", "-03-"), GOOD.replace("-3-", "--3-"),
        GOOD.replace("-g1-", "-g0-"), GOOD.replace("-05.", "-20."), GOOD.replace("-05.", "-5."),
        GOOD.replace("00000000000000001000", "99999999999999999999"),
        GOOD.replace("-3-", "-9999999999-"), GOOD.replace("-3-", "-٣-"), GOOD + ".tmp",
        GOOD.replace(TOPIC_ID, TOPIC_ID[:-1]),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(name: str) -> None:
    """Nothing but a whole, checked id ever becomes a file name."""
    with pytest.raises(ChunkNameError):
        ChunkId.parse(name)


def test_the_fast_kernel_s_chunks_are_the_same() -> None:
    """What ISA-L codes is, byte for byte, what the portable kernel codes."""
    try:
        kernel = load()
    except Exception as error:  # Whatever keeps it from loading, there is nothing to compare.
        pytest.skip(str(error))
    encoded = encode(noise(4 * 100_001), batches=BATCHES)
    size = len(encoded.payloads[4])
    parity = [bytearray(size), bytearray(size)]
    from ec.codec import Codec

    padded = [payload.ljust(size, b"\0") for payload in encoded.payloads[:4]]
    Codec(Profile(4, 2), kernel).encode(padded, parity)
    assert tuple(map(bytes, parity)) == encoded.payloads[4:]


def with_trailer(data: bytes, at: int, value: bytes) -> bytes:
    """Return a chunk file with bytes of its trailer changed, and a checksum that fits again."""
    trailer = bytearray(data[-chunk_file.TRAILER_BYTES :])
    trailer[at : at + len(value)] = value
    trailer[120:] = chunk_file.checksums.checksum(bytes(trailer[:120])).to_bytes(8, "big")
    return data[: -chunk_file.TRAILER_BYTES] + bytes(trailer)


@pytest.mark.parametrize("at", [0, *range(12, 120)])
def test_a_trailer_that_says_other_things_is_refused(
    directory: str, sample: Encoded, at: int, rng: random.Random
) -> None:
    """However well its checksum fits: every field is held against the file and the manifest."""
    data = sample.files[0]
    old = data[len(data) - chunk_file.TRAILER_BYTES + at]
    for new in (0, 255, old ^ 1, rng.randrange(256)):
        if new != old:
            assert problem(directory, with_trailer(data, at, bytes([new])), sample.ids[0])


@given(st.binary(min_size=1, max_size=112), st.integers(8, 119))
def test_no_trailer_makes_the_reader_stumble(value: bytes, at: int) -> None:
    """Any fields at all with a fitting checksum: damage or a newer version, and no other error."""
    encoded = encode(b"abc", Profile(2, 1))
    data = with_trailer(encoded.files[0], at, value[: 120 - at])
    with tempfile.TemporaryDirectory() as directory:
        try:
            found = problem(directory, data, encoded.ids[0])
        except ChunkVersionError:
            return
    assert found is not None or data == encoded.files[0]
