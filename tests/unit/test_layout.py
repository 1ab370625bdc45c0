"""Names in the data directory, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.storage import layout
from logd.units import INT64_MAX

TOPIC_NAMES = st.from_regex(r"[a-zA-Z0-9._-]{1,249}", fullmatch=True).filter(
    lambda name: name not in (".", "..")
)
PARTITIONS = st.integers(0, layout.PARTITIONS_MAX - 1)


@pytest.mark.parametrize(
    ("name", "is_good"),
    [
        ("a", True), ("A.b_c-9", True), ("a" * 249, True), ("...", True), ("-", True),
        ("", False), (".", False), ("..", False), ("a" * 250, False), ("a/b", False),
        ("a\0", False), ("a\n", False), ("é", False), ("a b", False), ("\u0661", False),
    ],
)  # fmt: skip
def test_topic_names_follow_kafkas_rules(name: str, is_good: bool) -> None:
    """Kafka's characters, 1 to 249 of them, and nothing that is a path."""
    assert layout.is_topic_name(name) is is_good


@given(TOPIC_NAMES, PARTITIONS)
def test_partition_directories_round_trip(topic: str, partition: int) -> None:
    """Any topic's directory name fits a file system and leads back to topic and partition."""
    name = layout.partition_directory_name(topic, partition)
    assert len(name.encode()) <= 255
    assert layout.parse_partition_directory_name(name) == (topic, partition)
    assert layout.parse_deleted_directory_name(name) is None


@given(st.binary(min_size=16, max_size=16), PARTITIONS)
def test_deleted_directories_round_trip_and_are_no_live_ones(
    topic_id: bytes, partition: int
) -> None:
    """A deleted partition is never taken for a live one, whatever its id looks like."""
    name = layout.deleted_directory_name(topic_id, partition)
    assert layout.parse_deleted_directory_name(name) == (topic_id, partition)
    assert layout.parse_partition_directory_name(name) is None


@pytest.mark.parametrize(
    "name", ["", "a", "a-", "-0", "a-01", "a-1x", "a-100000", "a/b-0", "..-0\n", ".-0"]
)
def test_other_names_are_no_partition_directories(name: str) -> None:
    """What is not exactly a topic name, a dash and a plain number is none of ours."""
    assert layout.parse_partition_directory_name(name) is None


@given(st.integers(0, INT64_MAX))
def test_segment_names_round_trip_and_sort_as_offsets(offset: int) -> None:
    """20 digits, so that the names' order is the offsets' order."""
    name = layout.segment_file_name(offset, layout.LOG_SUFFIX)
    assert len(name) == 24
    assert layout.parse_segment_file_name(name) == (offset, ".log")
    assert name <= layout.segment_file_name(INT64_MAX, layout.LOG_SUFFIX)


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("00000000000000000042.index", (42, ".index")),
        ("00000000000000000042.log.deleted", (42, ".log.deleted")),
        ("00000000000000000042.3.cleaned", (42, ".3.cleaned")),
        ("00000000000000000042", None),
        ("0000000000000000042.log", None),
        ("000000000000000000042.log", None),
        ("99999999999999999999.log", None),
        ("0000000000000000004\u0662.log", None),
        ("partition.metadata", None),
        ("00000000000000000042.log\n", None),
    ],
)
def test_segment_names_are_parsed_strictly(name: str, parsed: tuple[int, str] | None) -> None:
    """Exactly 20 digits that fit an offset, and a suffix."""
    assert layout.parse_segment_file_name(name) == parsed


@pytest.mark.parametrize("suffix", [".log", ".index", ".timeindex"])
def test_marks_come_off_a_segment_files_name(suffix: str) -> None:
    """A new, a deleted and a replaced file is of the kind of the one that it was, or will be."""
    own = layout.segment_file_name(42, suffix)
    marked = (
        own,
        own + ".deleted",
        layout.cleaned_file_name(42, 7, suffix),
        layout.replaced_file_name(42, 7, suffix),
    )
    assert len(set(marked)) == len(marked)
    assert {layout.base_file_name(name) for name in marked} == {own}
