"""Measurements: medians, ratios of neighbours, marks, files and comparisons."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

import bench
from bench import api
from bench.histogram import Histogram
from bench.marks import MARKS, with_marks
from bench.measurement import Measurement, Window, summarize
from bench.report import CLIENT_NOTE, COLUMNS, cells, print_table


def windows(*values, **fields):
    return [Window(value, **fields) for value in values]


def test_a_row_is_the_median_of_its_windows() -> None:
    """One slow window moves neither value nor ratio; the spread shows it."""
    row = summarize("r", "MB/s", windows(100, 10, 90), ceilings=windows(100, 100, 120))
    assert (row.value, row.ceiling) == (90, 100)
    assert row.ratio == pytest.approx(0.75)
    assert row.conditions["spread"] == [10, 100]
    assert row.conditions["ceiling_spread"] == [100, 120]


def test_the_ratio_is_that_of_neighbours() -> None:
    """When the whole machine slows down half-way, each window is compared with its own
    neighbour."""
    row = summarize("r", "MB/s", windows(80, 40, 8), ceilings=windows(100, 50, 10))
    assert row.ratio == pytest.approx(0.8)


def test_of_latencies_less_is_better() -> None:
    """A latency twice the ceiling's has ratio one half."""
    row = summarize("r", "us", windows(200), ceilings=windows(100))
    assert row.ratio == pytest.approx(0.5)


def test_costs_are_per_request_and_per_gigabyte() -> None:
    """CPU seconds of all windows are divided by their requests and by their bytes."""
    some = windows(1, 1, client_cpu_s=0.5, server_cpu_s=1.0, requests=1000, bytes=10**9, seconds=2)
    costs = summarize("r", "MB/s", some).conditions
    assert costs["server_cpu_us_per_request"] == 1000
    assert costs["server_cpu_s_per_gb"] == 1.0
    assert costs["client_cores"] == 0.25


def test_what_windows_gave_is_kept() -> None:
    """The values of all windows and the ratios of all pairs stand in the row: noise is told by
    them."""
    row = summarize("r", "MB/s", windows(50, 90), ceilings=windows(100, 100))
    assert row.conditions["values"] == [50, 90]
    assert row.conditions["ceiling_values"] == [100, 100]
    assert row.conditions["ratios"] == [0.5, 0.9]


@pytest.mark.parametrize(
    ("server_cpu_s", "client_cpu_s", "said"),
    [(0.5, 1.9, "client"), (1.9, 0.5, None), (None, 1.9, "processor")],
)
def test_who_was_the_bottleneck_is_said(server_cpu_s, client_cpu_s, said) -> None:
    """A client that used a whole core measured itself; a loop without a server, the processor."""
    some = windows(1, seconds=2, server_cpu_s=server_cpu_s, client_cpu_s=client_cpu_s)
    assert summarize("r", "MB/s", some).conditions.get("bottleneck") == said


def test_latencies_of_all_windows_are_one_distribution() -> None:
    """A row's percentiles are of all its windows' requests together."""
    fast = Histogram.of([(0.001, 990)])
    slow = Histogram.of([(0.100, 110)])
    row = summarize("r", "us", [Window(1, histogram=fast), Window(1, histogram=slow)])
    assert row.conditions["latency_us"]["50"] == pytest.approx(1000, rel=0.01)
    assert row.conditions["latency_us"]["95"] == pytest.approx(100_000, rel=0.01)


def test_marks_are_in_the_units_of_their_rows() -> None:
    """A mark says how far the row is from it, and 1 is the mark for rates and sizes alike."""
    rate = with_marks(Measurement("append 1 MiB, 1 connection", 950, "MB/s"))
    assert rate.conditions["of_sketch"] == 0.5
    size = with_marks(Measurement("memory after start", 68, "MB"))
    assert size.conditions["of_sketch"] == 0.5
    unmarked = Measurement("something else", 1, "MB")
    assert with_marks(unmarked) is unmarked


def test_files_round_trip(tmp_path) -> None:
    """What is written is one JSON array of the contract's fields, and reads back as it was."""
    rows = [Measurement("a", 1.0, "MB/s", 2.0, "bare", 0.5, 3.0, 4.0, {"depth": 1})]
    bench.write_json(rows, tmp_path / "m.json")
    assert bench.read_json(tmp_path / "m.json") == rows
    (fields,) = json.loads((tmp_path / "m.json").read_text())
    names = "name value unit ceiling ceiling_name ratio p50_us p99_us conditions"
    assert list(fields) == names.split()


def test_a_file_of_something_else_is_refused(tmp_path) -> None:
    """A JSON file that holds no measurements is an error that names it."""
    path = tmp_path / "x.json"
    for text in ('[{"nam": 1}]', "no JSON", "3", "\udcff"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(ValueError, match=r"x\.json is no file of measurements"):
            bench.read_json(path)


def test_rows_are_compared_by_ratio() -> None:
    """The machine may be another: where both runs have a ratio, it decides; values otherwise."""
    before = [Measurement("a", 100, "MB/s", 200, "bare", 0.5), Measurement("b", 10, "s")]
    now = [
        Measurement("a", 300, "MB/s", 1000, "bare", 0.3),
        Measurement("b", 5, "s"),
        Measurement("c", 1, "s"),
    ]
    first, second = bench.compare(now, before)
    assert (first.basis, first.change) == ("ratio", pytest.approx(-0.4))
    assert first.verdict == "unknown"  # no windows are known of either
    assert (second.basis, second.change) == ("value", pytest.approx(1.0))


def test_a_row_in_another_unit_is_not_compared() -> None:
    """A row whose unit has changed is a new row."""
    assert bench.compare([Measurement("a", 1, "s")], [Measurement("a", 1, "ms")]) == []


def test_the_table_is_not_cut_without_a_terminal() -> None:
    """Every cell of every row is in the output when it goes to a file."""
    rows = [with_marks(Measurement(name, 1234.5, "MB/s", 2469, "bare", 0.5)) for name in MARKS]
    out = io.StringIO()
    comparisons = bench.compare(rows, rows)
    print_table(rows, comparisons=comparisons, console=Console(file=out, width=80))
    text = out.getvalue()
    for row in rows:
        assert row.name in text
    assert "…" not in text
    assert "+0%" in text


def test_a_client_that_is_the_bottleneck_is_named() -> None:
    """The table marks the row and says what the mark means; without such a row it says nothing."""

    def text_of(conditions) -> str:
        out = io.StringIO()
        rows = [Measurement("a", 5, "MB/s", conditions=conditions)]
        print_table(rows, console=Console(file=out, width=80))
        return out.getvalue()

    assert "MB/s *" in text_of({"bottleneck": "client"})
    assert CLIENT_NOTE in text_of({"bottleneck": "client"})
    assert "bottleneck" not in text_of({"bottleneck": "processor"})


def test_the_table_says_the_verdict_and_what_was_skipped() -> None:
    """Words of a verdict, the conditions of the run and skipped rows stand around the table."""
    out = io.StringIO()
    row = Measurement("a", 5, "x", conditions={"cores": 2, "verdict": ["Expect five."]})
    print_table([row], skipped={"b": "no O_DIRECT"}, console=Console(file=out, width=80))
    text = out.getvalue()
    assert "2 cores" in text
    assert "Expect five." in text
    assert "SKIPPED b: no O_DIRECT" in text
    assert len(cells(row)) == len(COLUMNS)


def test_what_is_not_there_says_so(monkeypatch) -> None:
    """Benchmarks of later work are refused with a reason."""
    monkeypatch.setattr(api, "NOT_YET", {"node": "no nodes yet"})
    with pytest.raises(bench.NotAvailableError, match=r"node is not available .*: no nodes yet"):
        bench.run("node")


def test_an_unknown_benchmark_names_the_known_ones() -> None:
    """A typing mistake is answered with the list."""
    with pytest.raises(ValueError, match="append"):
        bench.run("apend")


def test_user_and_system_time_stand_apart_for_both_sides() -> None:
    """Seconds a GiB of all windows together, of ours and of the ceiling; nothing where one does
    not say."""
    ours = windows(1, 1, bytes=2**29, notes={"user_s": 0.25, "system_s": 0.5})
    bare = windows(2, 2, bytes=2**30, notes={"user_s": 0.5, "system_s": 1.5})
    row = summarize("r", "MB/s", ours, ceilings=bare)
    assert row.conditions["cpu_s_per_gib"] == {"user": 0.5, "system": 1.0}
    assert row.conditions["ceiling_cpu_s_per_gib"] == {"user": 0.5, "system": 1.5}
    assert not {"user_s", "system_s"} & row.conditions.keys()
    assert "0.50 + 1.50" in cells(row)
    silent = summarize("r", "MB/s", windows(1, bytes=2**30), ceilings=bare)
    assert "cpu_s_per_gib" not in silent.conditions
