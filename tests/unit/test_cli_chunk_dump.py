"""`logd dump` of what a storage node keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli import main
from ec.chunk_file import TRAILER_BYTES, checksums
from ec.node_identity import encode_identity
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
