"""`logd dump` of what a storage node keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli import main
from ec.chunk_file import TRAILER_BYTES, checksums
from ec.node_identity import encode_identity
from tests.coded_logs import code_log
from tests.contract.check_store import IDENTITY, SAMPLE

KINDS = ["payload", "checksums", "offset index", "time index", "manifest", "trailer"]


def kept(directory: str, data: bytes, name: str = SAMPLE.ids[1].name) -> str:
    path = Path(directory, name)
    path.write_bytes(data)
    return str(path)


def items(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("index", [1, 5])
def test_every_region_is_shown(
    directory: str, index: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A data and a parity chunk, each region with its position."""
    path = kept(directory, SAMPLE.files[index], SAMPLE.ids[index].name)
    assert main.run(["dump", path, "--json"]) == 0
    found = items(capsys.readouterr().out)
    assert [item["kind"] for item in found] == KINDS
    assert found[0]["bytes"] == len(SAMPLE.payloads[index])
    assert found[4]["generation"] == 1
    assert found[5]["position"] == len(SAMPLE.files[index]) - TRAILER_BYTES
    assert main.run(["dump", path]) == 0
    assert f"encoding={SAMPLE.manifest.encoding}" in capsys.readouterr().out


def test_a_chunk_by_another_name_is_shown(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What people call a copy is their business; another chunk's name is damage."""
    assert main.run(["dump", kept(directory, SAMPLE.files[1], "copy.chunk")]) == 0
    assert main.run(["dump", kept(directory, SAMPLE.files[1], SAMPLE.ids[2].name)]) == 4
    assert "identity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("at", "region"), [(70_000, "payload"), (-200, "manifest"), (-1, "trailer")]
)
def test_damage_is_named(
    directory: str, at: int, region: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its region and place, and exit code 4."""
    data = bytearray(SAMPLE.files[1])
    data[at] ^= 1
    assert main.run(["dump", kept(directory, bytes(data)), "--json"]) == 4
    found = [item for item in items(capsys.readouterr().out) if item["kind"] == "damage"]
    assert len(found) == 1
    assert str(found[0]["reason"]).startswith(region)


def test_a_newer_chunk_is_refused(directory: str) -> None:
    """Not damaged: for a newer program."""
    data = bytearray(SAMPLE.files[1])
    at = len(data) - TRAILER_BYTES
    data[at + 11] = 2
    data[at + 120 :] = checksums.checksum(bytes(data[at : at + 120])).to_bytes(8, "big")
    assert main.run(["dump", kept(directory, bytes(data))]) == 1


def test_an_identity_is_shown(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whose directory it is; damaged, exit code 4."""
    path = kept(directory, encode_identity(IDENTITY), "node.identity")
    assert main.run(["dump", path, "--json"]) == 0
    assert items(capsys.readouterr().out)[0]["node"] == IDENTITY.node
    assert main.run(["dump", kept(directory, b"short", "node.identity")]) == 4


# --- Batches --------------------------------------------------------------------------------------

# The third one lies across two cuts.
LOG = code_log([40_000, 3_000, 190_000, 20_000, 100, 30_000, 5_000])


def shown(
    directory: str, index: int, capsys: pytest.CaptureFixture[str], *options: str
) -> list[dict[str, object]]:
    """Return the items of a chunk of `LOG`."""
    path = kept(directory, LOG.coded.files[index], LOG.coded.ids[index].name)
    assert main.run(["dump", path, "--json", *options]) == 0
    return items(capsys.readouterr().out)


def test_data_chunks_show_the_batches_that_begin_in_them(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All data chunks together show every batch once, and every record that is whole in one."""
    batches: list[object] = []
    records: list[object] = []
    for index in range(4):
        found = shown(directory, index, capsys, "--records", "--verify")
        cut = LOG.coded.manifest.cuts[index]
        for item in found:
            if item["kind"] in ("batch", "begin of a batch") and "base_offset" in item:
                assert int(str(item["position"])) + cut in LOG.positions
                batches.append(item["base_offset"])
            if item["kind"] == "record":
                records.append(item["offset"])
    assert batches == [10 * n for n in range(7)]
    spanning = set(range(20, 30))
    assert records == [n for n in range(70) if n not in spanning]


def test_parts_of_a_batch_that_spans_chunks_are_named(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its beginning says where it goes on, its rest where it began; a chunk may be all rest."""
    kinds = [
        {str(item["kind"]): item for item in shown(directory, index, capsys, "--records")}
        for index in range(4)
    ]
    assert kinds[0]["begin of a batch"]["goes_on_in"] == "data 1"
    assert kinds[1]["rest of a batch"]["begins_in"] == "data 0"
    assert kinds[1]["rest of a batch"]["bytes"] == len(LOG.coded.payloads[1])
    assert kinds[3]["rest of a batch"]["begins_in"] == "data 0" or "batch" in kinds[3]


def test_without_options_no_batch_is_read(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The regions are the answer to the plain question."""
    assert [item["kind"] for item in shown(directory, 0, capsys)] == KINDS


def test_a_parity_chunk_says_what_it_is(directory: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no batches; from what it was computed, and how, is said."""
    found = shown(directory, 5, capsys, "--records", "--verify")
    assert [item["kind"] for item in found] == KINDS
    assert found[0]["chunk"] == "parity 1"
    assert found[0]["computed_from"] == "data 0 to 3"
    assert found[0]["coefficients"] == LOG.coded.manifest.coefficients[1]


def test_bytes_that_were_no_batches_when_they_were_coded_are_damage(
    directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block is right, and still it is no log."""
    path = kept(directory, SAMPLE.files[0], SAMPLE.ids[0].name)
    assert main.run(["dump", path, "--verify"]) == 4
    assert "no record batch begins here" in capsys.readouterr().err
