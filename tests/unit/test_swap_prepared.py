"""A replacement that the catalog decides: what a start makes of a manifest that is left."""

from __future__ import annotations

import os

import pytest

from logd.errors import CorruptFileError, UnsupportedFormatError
from logd.storage.clean_order import CleanOrder, CleanResult
from logd.storage.files import Files
from logd.storage.log import Log
from logd.storage.state_file import write_state
from logd.storage.swap import read_replacement
from logd.storage.swap_prepared import (
    Prepared,
    prepared_path,
    read_prepared,
    settle_prepared,
    write_prepared,
)
from tests.crash.lying_disk import FastFiles
from tests.unit.compaction_rig import rows_in
from tests.unit.log_builder import recover_log
from tests.unit.test_log_replace import REPLACEMENT, cleaned, cleaned_names, filled

OLD = ("a" * 32, "b" * 32)


def bases(log: Log) -> list[int]:
    """Return the base offsets of a log's segments."""
    return [segment.base_offset for segment in log.segment_list.items]


def prepared(directory: str) -> tuple[Log, CleanOrder, CleanResult]:
    """Return a log of which segments are about to be replaced."""
    log = filled(directory)
    order, result = cleaned(log)
    log.prepare_replacement(order, result, OLD)
    return log, order, result


def test_what_is_written_is_read(directory: str) -> None:
    """With the encodings that decide; and it is a replacement's manifest under another name."""
    assert read_prepared(Files(), directory) is None
    write_prepared(Files(), directory, REPLACEMENT, OLD)
    assert read_prepared(Files(), directory) == Prepared(REPLACEMENT, OLD)
    os.rename(prepared_path(directory), f"{directory}/replacement")
    assert read_replacement(Files(), directory) == REPLACEMENT


@pytest.mark.parametrize("live", [0, 1])
def test_an_encoding_that_is_live_takes_it_back(directory: str, live: int) -> None:
    """The transaction did not happen: the old segments are the log, and nothing is left."""
    log, *_ = prepared(directory)
    before, rows = bases(log), rows_in(log)
    found = settle_prepared(FastFiles(), log.directory, lambda each: each == OLD[live])
    assert found is False
    again, _ = recover_log(directory, settings=log.settings)
    assert (bases(again), rows_in(again)) == (before, rows)
    assert cleaned_names(again) == []
    assert not os.path.exists(prepared_path(log.directory))


def test_none_that_is_live_carries_it_out(directory: str) -> None:
    """The transaction happened: recovery finishes what the round wrote."""
    log, _, result = prepared(directory)
    assert settle_prepared(FastFiles(), log.directory, lambda _: False) is True
    again, report = recover_log(directory, settings=log.settings)
    assert report.replaced
    assert cleaned_names(again) == []
    kept = {segment.base_offset for group in result.groups for segment in group.new}
    assert kept <= set(bases(again))
    assert len(rows_in(again)) == result.after.records


def test_without_a_manifest_there_is_nothing_to_settle(directory: str) -> None:
    """And nobody is asked."""
    log = filled(directory)

    def ask(_encoding: str) -> bool:
        raise AssertionError("asked")

    assert settle_prepared(FastFiles(), log.directory, ask) is None


def test_the_catalog_said_yes_and_the_log_goes_on(directory: str) -> None:
    """As by a replacement that nobody else decides."""
    log, order, result = prepared(directory)
    log.replace_segments(order, result, is_prepared=True)
    assert len(rows_in(log)) == result.after.records
    assert not os.path.exists(prepared_path(log.directory))
    again, _ = recover_log(directory, settings=log.settings)
    assert bases(again) == bases(log)


def test_the_catalog_said_no(directory: str) -> None:
    """Nothing is left of it, and another round may come."""
    log, order, result = prepared(directory)
    log.cancel_replacement()
    assert not os.path.exists(prepared_path(log.directory))
    log.replace_segments(order, result)
    assert len(rows_in(log)) == result.after.records


def test_a_damaged_manifest_decides_nothing(directory: str) -> None:
    """The log is not opened, and nothing is changed, until somebody looks."""
    log, *_ = prepared(directory)
    path = prepared_path(log.directory)
    with open(path, "r+b") as file:
        file.seek(30)
        file.write(b"\0")
    with pytest.raises(CorruptFileError):
        settle_prepared(FastFiles(), log.directory, lambda _: False)
    for payload in (b"{}", b"[]", b'{"superseded":[]}'):
        write_state(FastFiles(), path, payload, version=1)
        with pytest.raises(CorruptFileError):
            settle_prepared(FastFiles(), log.directory, lambda _: False)
    write_state(FastFiles(), path, b"{}", version=2)
    with pytest.raises(UnsupportedFormatError):
        settle_prepared(FastFiles(), log.directory, lambda _: False)
    assert os.path.exists(path)
