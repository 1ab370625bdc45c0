"""Segments out of chunk files alone: `logd.cold.salvage`, and the command."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import msgspec
import pytest

from cli import main
from ec.checksums import checksum
from ec.chunk_file import TRAILER_BYTES, encode_tail
from ec.geometry import BLOCK_BYTES
from ec.indexes import Indexes
from ec.kernels.portable import PortableKernel
from ec.manifest import Manifest
from ec.profile import Profile
from logd.cold.salvage import directory_names, salvage
from logd.cold.salvage_report import SalvageReport
from logd.errors import DataDirectoryError, DiskFullError
from logd.policy.cold.salvage import NO_CHUNK, Offsets, subtract
from logd.record.records import encode_batch
from logd.storage.adoption import check_adoptable
from logd.storage.files import Buffer, Files, OpenFile
from logd.storage.log_walk import Damage, walk_log
from logd.storage.salvaged_log import PartialSegment, find_runs
from tests.coded_logs import CodedLog, code_log, put_chunk, put_chunks
from tests.crash.lying_disk import FastFiles
from tests.ec_samples import BATCH_RECORDS

KERNEL = PortableKernel()
SIZES = [40_000, 3_000, 90_000, 70_000, 100, 200_000, 5_000, 60_000, 80_000, 30_000]
OTHER = "11111111111111112222222222222222"


def run(directory: str, *sources: str, cluster: str | None = None) -> SalvageReport:
    """Salvage into <directory>/out."""
    places = sources or (f"{directory}/nodes",)
    out = f"{directory}/out"
    return salvage(FastFiles(), out, places, kernel=KERNEL, cluster=cluster)


def batches_of(directory: str) -> dict[int, bytes]:
    """Return base offset -> bytes of every batch in a partition's directory, nothing damaged."""
    files = Files()
    found: dict[int, bytes] = {}
    for name in sorted(os.listdir(directory)):
        assert name.endswith((".log", ".index", ".timeindex")), name
        if not name.endswith(".log"):
            continue
        file = files.open_read(f"{directory}/{name}")
        for each in walk_log(files, file, base_offset=int(name[:20])):
            assert not isinstance(each, Damage), each
            data = files.read_at(file, each.position, each.header.size)
            assert each.header.base_offset not in found
            found[each.header.base_offset] = data
    return found


def expect(log: CodedLog, numbers: Sequence[int]) -> dict[int, bytes]:
    """Return what `batches_of` gives for these batches of a log."""
    return {log.base_offset + n * BATCH_RECORDS: log.batches[n] for n in numbers}


def gaps(report: SalvageReport) -> list[tuple[int, int]]:
    """Return the missing offsets of the one partition, neighbours joined."""
    (partition,) = report.partitions
    found: list[tuple[int, int]] = []
    for each in partition.missing:
        first, last = each.offsets.first, each.offsets.next_offset
        if found and found[-1][1] == first:
            first = found.pop()[0]
        found.append((first, last))
    return found


# --- What can be had ------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [(), (0,), (5,), *combinations(range(6), 2)])
def test_every_pattern_of_two_lost_chunks_gives_the_segment_back(
    directory: str, lost: tuple[int, ...]
) -> None:
    """With k chunks left the log is what it was, byte for byte, indexes too."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded, without=lost)
    report = run(directory)
    assert report.is_complete
    partition = Path(directory, "out", "sample-3")
    assert (partition / f"{0:020d}.log").read_bytes() == log.coded.source
    assert (partition / f"{0:020d}.index").stat().st_size > 0
    (made,) = report.partitions[0].segments
    assert made.is_whole
    assert made.is_computed == bool({0, 1, 2, 3} & set(lost))
    check_adoptable(Files(), str(partition))


@pytest.mark.parametrize("left", [(0,), (2,), (3,), (1, 3), (0, 1, 2), (1, 4), (4, 5)])
def test_fewer_than_k_give_the_batches_that_are_whole_in_a_data_chunk(
    directory: str, left: tuple[int, ...]
) -> None:
    """Batches of surviving data chunks come back, from the first one that begins in each."""
    log = code_log(SIZES)
    for index in left:
        put_chunk(f"{directory}/nodes", log.coded, index)
    report = run(directory)
    cuts = log.coded.manifest.cuts
    known = {at for index in left if index < 4 for at in range(cuts[index], cuts[index + 1])}
    whole = [
        number
        for number, start in enumerate(log.positions)
        if known.issuperset(range(start, start + len(log.batches[number])))
    ]
    assert not report.is_complete
    if whole:
        assert batches_of(f"{directory}/out/sample-3") == expect(log, whole)
    else:
        assert os.listdir(f"{directory}/out") == []
    said = [Offsets(*gap) for gap in gaps(report)]
    given = [Offsets(n * BATCH_RECORDS, (n + 1) * BATCH_RECORDS) for n in whole]
    assert sum(one.count for one in said) + sum(one.count for one in given) == log.next_offset
    assert all(subtract(one, said) == (one,) for one in given)


def test_bad_blocks_at_different_places_cost_nothing(directory: str) -> None:
    """All six chunks are damaged, no chunk is whole, and every byte can be had."""
    log = code_log([90_000] * 12)
    for index, data in enumerate(log.coded.files):
        blocks = -(-len(log.coded.payloads[index]) // BLOCK_BYTES)
        bad = bytearray(data)
        bad[(index % blocks) * BLOCK_BYTES + 17] ^= 4
        put_chunk(f"{directory}/nodes", log.coded, index, bytes(bad))
    report = run(directory)
    assert len(report.found.damaged) == 6
    assert report.is_complete
    assert batches_of(f"{directory}/out/sample-3") == expect(log, range(12))


def test_two_copies_of_a_chunk_complete_each_other(directory: str) -> None:
    """k - 1 whole chunks and two damaged copies of one more are enough."""
    log = code_log([90_000] * 12)
    for index in (0, 1, 4):
        put_chunk(f"{directory}/nodes", log.coded, index)
    for copy, at in enumerate((10, BLOCK_BYTES + 10)):
        bad = bytearray(log.coded.files[2])
        bad[at] ^= 1
        put_chunk(f"{directory}/nodes/copy{copy}", log.coded, 2, bytes(bad))
    assert run(directory).is_complete
    assert batches_of(f"{directory}/out/sample-3") == expect(log, range(12))


def test_random_damage_gives_all_that_is_left_and_names_the_rest(
    directory: str, rng: random.Random
) -> None:
    """Whatever is lost or flipped: what comes back is right, and the gaps are exactly the rest."""
    for trial in range(25):
        place = f"{directory}/{trial}"
        profile = rng.choice([Profile(2, 1), Profile(3, 2), Profile(4, 2), Profile(6, 3)])
        log = code_log(
            [rng.randrange(100, 150_000) for _ in range(rng.randrange(1, 14))],
            profile=profile, base_offset=rng.choice([0, 5000]), seed=rng.randrange(10**6),
        )  # fmt: skip
        lost = 0
        for index in range(profile.chunks):
            data = bytearray(log.coded.files[index])
            fate = rng.random()
            if fate < 0.25:
                lost += 1
                continue
            if fate < 0.5 and log.coded.payloads[index]:
                for _ in range(rng.randrange(1, 4)):
                    data[rng.randrange(len(log.coded.payloads[index]))] ^= 1 << rng.randrange(8)
            put_chunk(f"{place}/nodes", log.coded, index, bytes(data))
        if lost == profile.chunks:
            continue
        report = run(place)
        found = batches_of(f"{place}/out/sample-3") if os.listdir(f"{place}/out") else {}
        whole = expect(log, range(len(log.batches)))
        assert found.items() <= whole.items()
        missing = {offset for first, last in gaps(report) for offset in range(first, last)}
        given = {base + n for base in found for n in range(BATCH_RECORDS)}
        assert missing.isdisjoint(given)
        assert missing | given == set(range(log.base_offset, log.next_offset))
        assert report.is_complete == (found == whole)


# --- Which encoding -------------------------------------------------------------------------------


def test_the_highest_generation_that_is_whole_is_taken(directory: str) -> None:
    """A newer one of which too little is left does not win, and its chunks are never mixed in."""
    old = code_log(SIZES, generation=1)
    new = code_log(SIZES, generation=2, encoding=OTHER)
    put_chunks(f"{directory}/nodes", old.coded, without=(0, 1))
    put_chunks(f"{directory}/nodes", new.coded, without=(2, 3, 4))
    report = run(directory)
    assert report.is_complete
    (made,) = report.partitions[0].segments
    assert made.generation == 1
    assert "generation 2" in report.partitions[0].left_out[0]


def test_a_partial_encoding_fills_what_another_one_lacks(directory: str) -> None:
    """Of two broken ones each gives what only it has; no offset comes twice."""
    one = code_log(SIZES, generation=1)
    two = code_log(SIZES, generation=2, encoding=OTHER)
    for index in (0, 1):
        put_chunk(f"{directory}/nodes", one.coded, index)
    for index in (1, 2, 3):
        put_chunk(f"{directory}/nodes", two.coded, index)
    report = run(directory)
    found = batches_of(f"{directory}/out/sample-3")
    assert found.items() <= expect(one, range(len(SIZES))).items()
    generations = {each.generation for each in report.partitions[0].segments}
    assert generations == {1, 2}


def test_one_number_with_two_encodings_is_never_mixed(directory: str) -> None:
    """Two chunks of one and two of another of the same number are not four of anything."""
    one, two = code_log(SIZES), code_log(SIZES, encoding=OTHER)
    for index in (0, 1):
        put_chunk(f"{directory}/nodes", one.coded, index)
    for index in (4, 5):
        put_chunk(f"{directory}/nodes", two.coded, index)
    report = run(directory)
    assert not report.is_complete
    assert all(each.encoding == one.coded.manifest.encoding
               for each in report.partitions[0].segments)  # fmt: skip


def test_a_hole_between_segments_is_named(directory: str) -> None:
    """Segments that no chunk was found of are a gap like any other."""
    first = code_log([70_000] * 3)
    third = code_log([70_000] * 3, base_offset=900, encoding=OTHER)
    put_chunks(f"{directory}/nodes", first.coded)
    put_chunks(f"{directory}/nodes", third.coded)
    report = run(directory)
    (missing,) = report.partitions[0].missing
    assert (missing.offsets, missing.reason) == (Offsets(30, 900), NO_CHUNK)
    assert sorted(batches_of(f"{directory}/out/sample-3")) == [0, 10, 20, 900, 910, 920]


def test_runs_end_where_what_is_wanted_ends(directory: str) -> None:
    """Also where no batch lies between two wanted ranges: compaction may have left the gap."""
    batches = [encode_batch([(None, b"v", (), 1)] * 10, base_offset=at) for at in (0, 10, 200)]
    data = b"".join(map(bytes, batches))
    Path(directory, "raw").write_bytes(data)
    files = Files()
    segment = PartialSegment(
        file=files.open_read(f"{directory}/raw"), ranges=[(0, len(data))], boundaries=[0],
        base_offset=0, next_offset=300, wanted=[(0, 20), (150, 300)],
    )  # fmt: skip
    runs = find_runs(files, segment)
    assert [(each.first_offset, each.next_offset, each.batches) for each in runs] == [
        (0, 20, 2), (200, 210, 1),
    ]  # fmt: skip


# --- Hostile input --------------------------------------------------------------------------------


def test_a_file_cut_anywhere_or_flipped_is_survived(directory: str, rng: random.Random) -> None:
    """With two others lost, a third that is cut costs its part, and never a wrong byte."""
    log = code_log(SIZES)
    whole = log.coded.files[0]
    for trial in range(12):
        place = f"{directory}/{trial}"
        put_chunks(f"{place}/nodes", log.coded, without=(0,))
        size = rng.choice([0, 1, 127, 128, rng.randrange(len(whole)), len(whole) - 1])
        path = put_chunk(f"{place}/nodes", log.coded, 0, whole[:size])
        report = run(place)
        assert report.is_complete
        assert [each.path for each in report.found.damaged] == [os.path.realpath(path)]
        assert batches_of(f"{place}/out/sample-3") == expect(log, range(len(SIZES)))


def test_foreign_files_are_left_alone(directory: str) -> None:
    """Pipes, links, other files and other names do no harm; a copy by any name counts."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded, without=(0, 1, 2))
    nodes = Path(directory, "nodes")
    nodes.joinpath("copy of a chunk").write_bytes(log.coded.files[1])
    nodes.joinpath("notes.txt").write_text("nothing")
    nodes.joinpath("big").write_bytes(b"\0" * 100_000)
    nodes.joinpath("loop").symlink_to(nodes)
    os.mkfifo(nodes / "pipe.chunk")
    report = run(directory)
    assert report.is_complete
    assert len(report.found.chunks) == 4
    assert report.found.files == 6


def test_chunks_of_two_clusters_are_refused_until_one_is_named(directory: str) -> None:
    """Nothing is written before; with its name only that one's come."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded)
    data = _of_cluster(log, b"cluster-0f-tests")
    put_chunk(f"{directory}/others", log.coded, 0, data)
    with pytest.raises(DataDirectoryError, match=r"2 clusters.*--cluster"):
        run(directory, f"{directory}/nodes", f"{directory}/others")
    assert not os.path.exists(f"{directory}/out")
    report = run(directory, f"{directory}/nodes", f"{directory}/others", cluster="cluster-of-tests")
    assert report.is_complete
    assert len(report.partitions) == 1


def test_a_manifest_that_claims_petabytes_costs_nothing(directory: str) -> None:
    """It is left out, and what is beside it is salvaged."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded)
    huge = code_log(SIZES, base_offset=5000, encoding=OTHER)
    manifest = huge.coded.manifest
    size = 2**52
    cuts = (*manifest.cuts[:4], size)
    parity = size - cuts[3]
    entries = [
        msgspec.structs.replace(each, payload_bytes=parity) if index >= 3 else each
        for index, each in enumerate(manifest.chunks)
    ]
    claimed = msgspec.structs.replace(manifest, source_bytes=size, cuts=cuts, chunks=tuple(entries))
    put_chunk(f"{directory}/nodes", huge.coded, 0, _with_manifest(huge, claimed))
    report = run(directory)
    assert "larger than a segment can be" in report.partitions[0].left_out[0]
    assert batches_of(f"{directory}/out/sample-3") == expect(log, range(len(SIZES)))
    assert not report.is_complete


def _of_cluster(log: CodedLog, cluster: bytes) -> bytes:
    """Return chunk 0 of a log, of another cluster."""
    manifest = msgspec.structs.replace(log.coded.manifest, cluster_id=cluster.decode())
    return _with_manifest(log, manifest)


def _with_manifest(log: CodedLog, manifest: Manifest) -> bytes:
    """Return chunk 0 of a log under another manifest."""
    entry = manifest.chunks[0]
    file, size = log.coded.files[0], entry.payload_bytes
    table = -(-size // BLOCK_BYTES) * 8
    at = size + table
    offsets = file[at : at + entry.offset_index_bytes]
    at += entry.offset_index_bytes
    times = file[at : at + entry.time_index_bytes]
    tail = encode_tail(manifest, 0, file[size : size + table], Indexes(offsets, times))
    return file[:size] + tail


def test_a_chunk_without_a_manifest_of_an_unknown_segment_is_named(directory: str) -> None:
    """Its name is all that is left: the segment is lost, and said to be."""
    log = code_log(SIZES)
    lost = code_log(SIZES, base_offset=7000, encoding=OTHER)
    put_chunks(f"{directory}/nodes", log.coded)
    put_chunk(f"{directory}/nodes", lost.coded, 2, lost.coded.files[2][:-3])
    report = run(directory)
    assert not report.is_complete
    assert [each.base_offset for each in report.unknown] == [7000]


def test_a_newer_version_is_named_and_not_read(directory: str) -> None:
    """It is not damaged; the others do."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded, without=(3,))
    data = bytearray(log.coded.files[3])
    at = len(data) - TRAILER_BYTES
    data[at + 11] = 9
    data[at + 120 :] = checksum(bytes(data[at : at + 120])).to_bytes(8, "big")
    put_chunk(f"{directory}/nodes", log.coded, 3, bytes(data))
    report = run(directory)
    assert "version 9" in report.found.unreadable[0].reason
    assert not report.partitions[0].missing
    assert not report.is_complete


class Unreadable(FastFiles):
    """A file system of which some directory cannot be read."""

    def list_directory(self, path: str) -> list[str]:
        """Refuse one."""
        if path.endswith("node5"):
            raise PermissionError(13, "Permission denied", path)
        return super().list_directory(path)


def test_a_directory_that_cannot_be_read_is_named(directory: str) -> None:
    """The rest is salvaged, and the result counts as incomplete."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded)
    report = salvage(Unreadable(), f"{directory}/out", [f"{directory}/nodes"], kernel=KERNEL)
    assert report.found.unreadable[0].path.endswith("/node5")
    assert not report.partitions[0].missing
    assert not report.is_complete


@pytest.mark.parametrize("topic", ["../../evil", "a/b", ".."])
def test_a_name_that_is_none_does_not_become_a_path(topic: str) -> None:
    """The topic's id stands for it."""
    key = (topic, 3, "00" * 16)
    assert directory_names({key: None})[key] == f"{'00' * 16}-3"


def test_two_topics_of_one_name_are_kept_apart() -> None:
    """A topic that was deleted and made again has chunks under two ids."""
    one, two = ("orders", 0, "1" * 32), ("orders", 0, "2" * 32)
    names = directory_names({one: None, two: None})
    assert names == {one: f"orders.{'1' * 32}-0", two: f"orders.{'2' * 32}-0"}


# --- OUT ------------------------------------------------------------------------------------------


def test_out_must_be_empty_and_outside(directory: str) -> None:
    """Nothing is ever written over, nor into what is read."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded)
    with pytest.raises(DataDirectoryError, match="lies in"):
        salvage(Files(), f"{directory}/nodes/out", [f"{directory}/nodes"], kernel=KERNEL)
    Path(directory, "out").mkdir()
    Path(directory, "out", "file").touch()
    with pytest.raises(DataDirectoryError, match="not an empty directory"):
        run(directory)


class Full(FastFiles):
    """A file system with little space."""

    def free_bytes(self, path: str) -> int:
        """Almost none."""
        return 1000


def test_too_little_space_is_refused_before_a_byte(directory: str) -> None:
    """The arithmetic is in the message."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded)
    with pytest.raises(DiskFullError, match="1000 are free"):
        salvage(Full(), f"{directory}/out", [f"{directory}/nodes"], kernel=KERNEL)
    assert not os.path.exists(f"{directory}/out")


class Stops(FastFiles):
    """A file system that fails at the n-th write."""

    def __init__(self, after: int) -> None:
        self._left = after

    def write_at(self, file: OpenFile, position: int, buffers: Sequence[Buffer]) -> int:
        """Fail when it is time."""
        self._left -= 1
        if self._left < 0:
            raise OSError(28, "No space left on device")
        return super().write_at(file, position, buffers)


def test_a_failed_write_leaves_no_half_segment(directory: str) -> None:
    """What has a segment's name is whole; what was begun is removed."""
    first = code_log([70_000] * 3)
    second = code_log([70_000] * 3, base_offset=30, encoding=OTHER)
    put_chunks(f"{directory}/nodes", first.coded)
    put_chunks(f"{directory}/nodes", second.coded)
    for after in range(12):
        out = f"{directory}/out{after}"
        try:
            salvage(Stops(after), out, [f"{directory}/nodes"], kernel=KERNEL)
        except OSError:
            for path in Path(out).rglob("*"):
                assert not path.name.endswith(".salvaging")
                if path.name.endswith(".log"):
                    assert path.read_bytes() in (first.coded.source, second.coded.source)


# --- The command ----------------------------------------------------------------------------------


def test_the_command_takes_several_directories_and_says_what_it_did(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """--from takes all that follows; --json is one document; 4 where something is missing."""
    log = code_log(SIZES)
    put_chunks(f"{directory}/nodes", log.coded, without=(1, 2))
    nodes = [f"{directory}/nodes/node{index}" for index in (0, 3, 4, 5)]
    assert main.run(["salvage", f"{directory}/a", "--from", *nodes, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["complete"] is True
    assert document["partitions"][0]["segments"][0]["size_bytes"] == len(log.coded.source)
    assert main.run(["salvage", f"{directory}/b", "--from", *nodes[:2], "--from", nodes[2]]) == 4
    shown = capsys.readouterr().out
    assert "missing: sample partition 3, offsets" in shown
    assert "3 whole of its 4+2 chunks" in shown


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["out"], 2),
        (["out", "--from"], 2),
        (["out", "--from", "absent"], 2),
        (["--from", "nodes", "out"], 2),
        (["nodes", "--from", "nodes"], 1),
        (["out", "--from", "empty"], 1),
    ],
)
def test_wrong_use_is_refused(
    directory: str, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written, and the exit code says whose fault it is."""
    monkeypatch.chdir(directory)
    put_chunks(f"{directory}/nodes", code_log(SIZES).coded)
    Path(directory, "empty").mkdir()
    assert main.run(["salvage", *arguments]) == code
    assert sorted(os.listdir(directory)) == ["empty", "nodes"]
