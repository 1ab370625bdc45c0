"""log_walk: every batch and every stretch that is none."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from logd.storage.files import Files
from logd.storage.log_walk import Damage, walk_log
from tests.unit.data_directories import batches

FILES = Files()


def _walk(path: Path, data: bytes) -> list[tuple[str, int, int]]:
    """Return (kind, position, end) of what is found in `data` as a file."""
    path.write_bytes(data)
    found = []
    for item in walk_log(FILES, FILES.open_read(str(path))):
        if isinstance(item, Damage):
            found.append(("damage", item.position, item.end))
        else:
            found.append(("batch", item.position, item.position + item.header.size))
    return found


def test_an_intact_log_is_batches_only(tmp_path: Path) -> None:
    """Every batch is found at its place, and nothing else."""
    made = batches(0, 50)
    found = _walk(tmp_path / "x.log", b"".join(made))
    assert [kind for kind, _, _ in found] == ["batch"] * 50
    assert [end - start for _, start, end in found] == [len(data) for data in made]


def test_an_empty_log_has_nothing(tmp_path: Path) -> None:
    """No bytes is no damage."""
    assert _walk(tmp_path / "x.log", b"") == []


def test_a_flipped_byte_costs_one_batch(tmp_path: Path) -> None:
    """Whichever byte of a batch is wrong, the batches before and behind it are found.

    The checksum does not cover the base offset, which must only rise, nor the leader epoch, which
    may be anything.
    """
    made = batches(0, 3)
    start, end = len(made[0]), len(made[0]) + len(made[1])
    for at in range(start, end):
        data = bytearray(b"".join(made))
        data[at] ^= 0xFF
        found = _walk(tmp_path / "x.log", bytes(data))
        assert found[0][0] == "batch"
        if at - start < 8:
            assert "damage" in {kind for kind, _, _ in found}, at
        elif not 12 <= at - start < 16:
            assert [kind for kind, _, _ in found] == ["batch", "damage", "batch"], at
            assert found[1] == ("damage", start, end)


def test_offsets_that_go_back_are_damage(tmp_path: Path) -> None:
    """A valid batch in the wrong place is no batch of this log."""
    made = batches(0, 3)
    found = _walk(tmp_path / "x.log", made[0] + made[1] + made[1] + made[2])
    assert [kind for kind, _, _ in found] == ["batch", "batch", "damage", "batch"]


@given(st.data())
def test_what_is_found_covers_the_file(data: st.DataObject) -> None:
    """Cut anywhere and overwritten anywhere, batches and damage together are the whole file."""
    whole = bytearray(b"".join(batches(0, 8)))
    cut = data.draw(st.integers(0, len(whole)))
    at = data.draw(st.integers(0, len(whole)))
    junk = data.draw(st.binary(max_size=80))
    whole[at : at + len(junk)] = junk
    with TemporaryDirectory() as directory:
        found = _walk(Path(directory) / "x.log", bytes(whole[:cut]))
    position = 0
    for _, start, end in found:
        assert start == position
        assert end > start
        position = end
    assert position == min(cut, len(whole))
