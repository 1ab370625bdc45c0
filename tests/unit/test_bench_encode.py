"""The encode suite: what its rows say of the machine and of the CPU time."""

from __future__ import annotations

import platform

import pytest

from bench import Options
from bench.report import conditions_line
from bench.runner import open_run
from bench.suites import encode

MIB = 2**20


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """One profile, one short window of each."""
    patch = pytest.MonkeyPatch()
    patch.setattr(encode, "PROFILES", ("4+2",))
    patch.setattr(encode, "GIB", 16 * MIB)
    patch.setattr(encode, "encode_beside_rows", lambda run: [])
    options = Options(seconds=0.05, repetitions=1, prime_bytes=0)
    with patch.context(), open_run(tmp_path_factory.mktemp("encode"), options) as run:
        found = encode.encode_rows(run)
    patch.undo()
    return {row.name: row for row in found}


def test_the_header_names_the_system_and_rows_the_kernel_that_coded(rows) -> None:
    """A row's own conditions hide none of the machine's."""
    assert f"Linux {platform.release()}" in conditions_line(list(rows.values()))
    portable = rows["code 4+2 with block checksums, portable"].conditions
    assert (portable["coded_by"], portable["kernel"]) == ("portable", platform.release())


def test_encoding_says_user_and_system_time_beside_the_copy(rows) -> None:
    """And how much memory it took, and how many bytes were stored."""
    conditions = rows["encode 1 GiB, 4+2, six directories"].conditions
    for name in ("cpu_s_per_gib", "ceiling_cpu_s_per_gib"):
        assert conditions[name].keys() == {"user", "system"}
    assert conditions["stored_ratio"] == pytest.approx(1.5, rel=0.1)
    assert conditions["grown_mib"] > 0
