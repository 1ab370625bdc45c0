"""The report page: everything is on it, nothing is fetched, and what is said is escaped."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

import bench
from bench.api import Results
from bench.html_page import page
from bench.measurement import Measurement, Window, summarize
from bench.svg import Point, Scale, Series, line_chart, log_scale, log_ticks, short

VOID = {"meta", "br"}
CONDITIONS = {"cores": 2, "cpu": "<Fast & good>", "kernel": "6.1", "file_system": "ext4"}


def results_of(*rows, **fields):
    found = Results("all", "2026-01-02 03:04", {"pairs": 5, "seconds": 0.5})
    found.suites = {"append": list(rows)}
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def row(name="one row", **fields):
    windows = [Window(value) for value in (90, 100, 110, 95, 105)]
    ceilings = [Window(200) for _ in windows]
    conditions = {**CONDITIONS, **fields}
    return summarize(name, "MB/s", windows, ceilings=ceilings, ceiling_name="a bare loop",
                     conditions=conditions)  # fmt: skip


class Checker(HTMLParser):
    """Knows whether every element is closed in its order, and what is loaded from elsewhere."""

    def __init__(self, text):
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and not value.startswith("#"):
                self.loaded.append(value)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    """Every element is closed, no script is there, and nothing is loaded."""
    text = page(results_of(row(), row("two"), skipped={"repair": "not there"}))
    assert Checker(text).loaded == []
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_each_figure_has_its_ceiling_spread_and_conditions() -> None:
    """Median, spread, ceiling and its name, ratio, machine: all are there for each row."""
    text = page(results_of(row()))
    for words in ("one row", "90 to 110", "200", "0.5", "a bare loop", "2 × ", "Linux 6.1", "ext4"):
        assert words in text


def test_what_comes_from_outside_is_escaped() -> None:
    """A name with brackets is text, not markup."""
    text = page(results_of(row("<b>&"), failed={"x": "<i>oops</i>"}))
    assert "<i>oops" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "&lt;Fast &amp; good&gt;" in text


def test_what_is_missing_is_named() -> None:
    """Skipped, failed and waiting parts stand on the page with their reasons."""
    text = page(results_of(skipped={"repair": "no cold tier"}, failed={"fetch": "it died"},
                           waiting=["node"]))  # fmt: skip
    for words in ("repair", "no cold tier", "fetch", "it died", "still to come: node"):
        assert words in text


def test_a_suspicious_disk_is_shown_as_such() -> None:
    """The verdict is at the top, and looks bad when it is."""
    verdict = Measurement("verdict", 1, "x", conditions={
        "verdict": ["fdatasync is suspicious."], "fdatasync": "suspicious"})  # fmt: skip
    assert '<section class="verdict bad">' in page(results_of(verdict))


def test_rows_of_a_curve_are_a_chart() -> None:
    """Rows that vary one thing become one chart, with the ceiling as a second line."""
    rows = [row(f"row {x}", curve="bytes a record", x=x) for x in (10, 100, 1000)]
    text = page(results_of(*rows))
    assert text.count("<figure>") == 1
    assert "ceiling: a bare loop" in text
    assert text.count('<circle class="dot s0"') == 3


def test_latencies_are_a_chart() -> None:
    """Rows in microseconds with percentiles are drawn by percentile."""
    slow = Measurement("durable", 50, "us", conditions={
        "latency_us": {"50": 50.0, "99": 90.0, "99.9": 400.0, "100": 500.0}})  # fmt: skip
    text = page(results_of(slow))
    assert "Latency by percentile" in text
    assert "99.9 %: 400 us" in text


def test_latencies_have_their_ceilings_and_what_is_common_to_them() -> None:
    """A ceiling's percentiles are a dashed line of the row's colour; conditions stand below."""
    rows = [
        Measurement(name, 50, "us", ceiling_name="a bare loop", conditions={
            "latency_us": {"50": 50.0, "90": 90.0}, "flush_mode": "commit", "batch_bytes": 0,
            "depth": depth,
            **({"ceiling_latency_us": {"50": 5.0, "90": 9.0}} if depth == 1 else {})})
        for name, depth in (("alone", 1), ("many", 10))
    ]  # fmt: skip
    text = page(results_of(*rows))
    assert text.count('class="line s0 dashed"') == 1
    assert 'class="line s1 dashed"' not in text
    assert "a bare loop, 90 %: 9 us" in text
    assert "dashed: the ceiling" in text
    assert "flush.mode commit, one record a batch</p>" in text


def test_a_comparison_is_on_the_page() -> None:
    """What changed beyond the noise is listed, and the rule is stated."""
    before = [row()]
    better = summarize("one row", "MB/s", [Window(180 + n) for n in range(5)],
                       ceilings=[Window(200)] * 5, ceiling_name="a bare loop")  # fmt: skip
    text = page(results_of(better), bench.compare([better], before))
    assert 'class="better"' in text
    assert "+82%" in text
    assert "all else is noise" in text


def test_a_report_is_two_files(tmp_path) -> None:
    """The page, and the JSON that a later run is compared with."""
    found = results_of(row())
    data, text = bench.write_report(found, tmp_path / "new" / "report")
    assert bench.read_json(data) == found.rows
    assert text.name == "index.html"
    assert text.read_text() == page(found)


# --- Charts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points", [[(1, 5)], [(1, 5), (2, 5)], [(10, 0.001), (1e6, 1e7)], [(1, 3), (4096, 3.1)]]
)
def test_a_chart_is_well_formed_and_within_its_frame(points) -> None:
    """One point, a flat line, seven decades: every mark lies inside the picture."""
    series = Series("s", "s0", tuple(Point(x, y, y * 0.9, y * 1.1) for x, y in points))
    root = ET.fromstring(line_chart([series], label="l", x_label="x", y_label="y"))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == len(points)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height


def test_scales_and_ticks_are_round() -> None:
    """Axes end at 1, 2 or 5 times a power of ten, and never have too many ticks."""
    scale = log_scale([3.2, 740], start=100, end=0)
    assert (scale.low, scale.high) == (2, 1000)
    assert (scale.at(2), scale.at(1000)) == (100, 0)
    assert 2 <= len(log_ticks(scale)) <= 6
    assert Scale(0, 10, 0, 100, is_log=False).at(20) == 100


@pytest.mark.parametrize(("value", "text"), [(0.25, "0.25"), (1024, "1,024"), (2e4, "20k"),
                                             (1.5e6, "1.5M"), (3e9, "3G")])  # fmt: skip
def test_numbers_are_short(value, text) -> None:
    """Axes have few letters."""
    assert short(value) == text
