"""Where settings are given: the file, the environment, flags, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.config.sources import FILE_LIMIT_BYTES, read_environment, read_file, read_flags
from logd.errors import ConfigError


def write(directory: Path, data: bytes | str) -> str:
    """Write a file of settings; return its path."""
    path = directory / "logd.toml"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def test_flat_keys_and_nested_tables_are_the_same(tmp_path: Path) -> None:
    """A quoted key, a dotted key and a nested table all mean one setting."""
    for text in (
        '"log.retention.ms" = "7d"',
        'log.retention.ms = "7d"',
        '[log.retention]\nms = "7d"',
        '[log]\nretention = {ms = "7d"}',
        '[log]\n"retention.ms" = "7d"',
    ):
        found = read_file(write(tmp_path, text))
        assert {name: entry.text for name, entry in found.items()} == {"log.retention.ms": "7d"}


def test_typed_values_become_text(tmp_path: Path) -> None:
    """Numbers, booleans and lists of TOML are read as they would be written in a flag."""
    found = read_file(
        write(
            tmp_path,
            "num.partitions = 8\nauto.create.topics.enable = false\n"
            'log.cleanup.policy = ["compact", "delete"]\nlog.cleaner.min.cleanable.ratio = 0.25\n',
        )
    )
    assert [entry.text for entry in found.values()] == ["8", "false", "compact,delete", "0.25"]
    assert all(entry.where.endswith("logd.toml") for entry in found.values())


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    """An empty file, or one of comments, is fine and gives nothing."""
    assert read_file(write(tmp_path, "")) == {}
    assert read_file(write(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("retention.mss = 1", "did you mean"),
        ("[log.retention]\nmillis = 1", "unknown setting 'log.retention.millis'"),
        ("entirely = 1", "unknown setting 'entirely'"),
        ("'' = 1", "unknown setting ''"),
        ('"log.retention.ms" = 1\n[log.retention]\nms = 2', "given twice"),
        ("retention.ms = 1\nlog.retention.ms = 2", "given twice"),
        ("num.partitions = 1\nnum.partitions = 2", "not valid TOML"),
        ("num.partitions = 2026-01-01", "a date is not a value"),
        ("num.partitions = [[1]]", "a list is not a value"),
        ("num.partitions = [{a = 1}]", "a dict is not a value"),
        ("num.partitions", "not valid TOML"),
        ("num.partitions = " + "[" * 10_000, "nested too deeply"),
        (b"\xef\xbb\xbfnum.partitions = 1", "byte order mark"),
        (b"num.partitions = 1 # \xff", "not UTF-8 at byte 21"),
        (b"\0", "not valid TOML"),
        (b"#" * (FILE_LIMIT_BYTES + 1), "larger than"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, data: bytes | str, reason: str) -> None:
    """Every kind of bad file is a ConfigError that names the file and the reason."""
    path = write(tmp_path, data)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert reason in str(caught.value)
    assert path in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    """Missing, a directory, a device, a path with NUL: refused, with the reason, at once."""
    for path in (str(tmp_path / "none.toml"), str(tmp_path), "/dev/zero", "a\0b"):
        with pytest.raises(ConfigError):
            read_file(path)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """A named pipe that nobody writes to is not waited for."""
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_file(path)


def test_the_suggestion_is_the_nearest_name() -> None:
    """A typing error gets the name that was probably meant, a wild guess gets none."""
    with pytest.raises(ConfigError, match=r"did you mean 'num\.partitions'\?"):
        read_flags({"num.partition": "1"})
    with pytest.raises(ConfigError, match=r"did you mean 'LOGD_NUM_PARTITIONS'\?"):
        read_environment({"LOGD_NUM_PARTITION": "1"})
    with pytest.raises(ConfigError) as caught:
        read_flags({"qqqqqqq": "1"})
    assert "did you mean" not in str(caught.value)


def test_foreign_variables_are_left_alone() -> None:
    """Variables of client commands and of container orchestrators are not settings."""
    assert (
        read_environment(
            {
                "LOGD_BOOTSTRAP": "x",
                "LOGD_ADMIN": "x",
                "LOGD_SERVICE_HOST": "x",
                "LOGD_SERVICE_PORT_KAFKA": "x",
                "LOGD_PORT": "x",
                "LOGD_PORT_9092_TCP_ADDR": "x",
                "PATH": "x",
                "logd_num_partitions": "x",
            }
        )
        == {}
    )


@given(data=st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Whatever a file holds, it is either read or refused with ConfigError."""
    path = write(tmp_path_factory.mktemp("config"), data)
    try:
        read_file(path)
    except ConfigError as error:
        assert path in str(error)


@given(text=st.text(alphabet='abc.=[]"{}\n#1 \\u', max_size=60))
def test_no_text_makes_the_reader_fail_otherwise(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """Text that looks like TOML is either read or refused with ConfigError."""
    path = write(tmp_path_factory.mktemp("config"), text)
    try:
        read_file(path)
    except ConfigError as error:
        assert path in str(error)
