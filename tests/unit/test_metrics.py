"""Metrics: cheap to add to, bounded, and rendered so that Prometheus' own parser agrees."""

from __future__ import annotations

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from logd.metrics import (
    OVERFLOW_LABEL,
    SERIES_MAX,
    Counter,
    Gauge,
    Histogram,
    Registry,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    """Every sample, as Prometheus' parser reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_and_gauges() -> None:
    """Adding, setting and asking a function all end up in the text."""
    registry = Registry()
    fetches = registry.counter("logd_requests_total", "Requests.", api="Fetch")
    fetches.add()
    fetches.add(4)
    fetches.value += 2
    registry.counter("logd_requests_total", "Requests.", api="Produce")
    registry.gauge("logd_connections", "Open connections.").value = 12
    registry.gauge("logd_loop_lag_seconds", "Lag.", lambda: 0.25)
    assert parse(registry.render()) == {
        ("logd_requests_total", (("api", "Fetch"),)): 7,
        ("logd_requests_total", (("api", "Produce"),)): 0,
        ("logd_connections", ()): 12,
        ("logd_loop_lag_seconds", ()): 0.25,
    }


def test_golden_text() -> None:
    """The text is stable: families by name, series by labels, a newline at the end."""
    registry = Registry()
    registry.histogram("logd_z_seconds", "Last.", (0.5, 2)).observe(1.5)
    registry.counter("logd_b_total", "Second.", b="2", a="1").add(3)
    registry.counter("logd_b_total", "Second.", a="0", b="9").add(1)
    registry.gauge("logd_a_bytes", "First.").value = -1.5
    assert registry.render() == (
        "# HELP logd_a_bytes First.\n# TYPE logd_a_bytes gauge\nlogd_a_bytes -1.5\n"
        "# HELP logd_b_total Second.\n# TYPE logd_b_total counter\n"
        'logd_b_total{a="0",b="9"} 1\nlogd_b_total{a="1",b="2"} 3\n'
        "# HELP logd_z_seconds Last.\n# TYPE logd_z_seconds histogram\n"
        'logd_z_seconds_bucket{le="0.5"} 0\nlogd_z_seconds_bucket{le="2"} 1\n'
        'logd_z_seconds_bucket{le="+Inf"} 1\nlogd_z_seconds_sum 1.5\nlogd_z_seconds_count 1\n'
    )


def test_an_empty_registry_renders_nothing() -> None:
    """No families, no text."""
    assert Registry().render() == ""


def test_the_same_name_and_labels_are_the_same_object() -> None:
    """Whoever asks second counts on, whatever the order of the labels."""
    registry = Registry()
    first = registry.counter("logd_x_total", "X.", a="1", b="2")
    assert registry.counter("logd_x_total", "X.", b="2", a="1") is first
    assert registry.counter("logd_x_total", "X.", a="1", b="3") is not first
    assert registry.gauge("logd_y", "Y.") is registry.gauge("logd_y", "Y.")
    bounds = (1, 2)
    assert registry.histogram("logd_z", "Z.", bounds) is registry.histogram("logd_z", "Z.", bounds)


@pytest.mark.parametrize(
    ("value", "counts"),
    [(0, [1, 0, 0]), (1, [1, 0, 0]), (1.001, [0, 1, 0]), (10, [0, 1, 0]), (11, [0, 0, 1])],
)
def test_an_observation_goes_to_the_least_bound_that_holds_it(
    value: float, counts: list[int]
) -> None:
    """Bounds are inclusive, as `le` says; above all of them is infinity's."""
    histogram = Histogram((1, 10))
    histogram.observe(value)
    assert histogram.counts == counts


def test_histograms_are_cumulative() -> None:
    """Buckets, sum and count agree with the observations, in the text too."""
    registry = Registry()
    histogram = registry.histogram("logd_sync_seconds", "Sync.", (0.01, 0.1, 1), mode="commit")
    for value in (0.005, 0.01, 0.05, 0.5, 7):
        histogram.observe(value)
    assert histogram.buckets == [(0.01, 2), (0.1, 3), (1, 4), (math.inf, 5)]
    assert histogram.count == 5
    assert histogram.sum == pytest.approx(7.565)
    samples = parse(registry.render())
    assert samples["logd_sync_seconds_bucket", (("le", "0.1"), ("mode", "commit"))] == 3
    assert samples["logd_sync_seconds_bucket", (("le", "+Inf"), ("mode", "commit"))] == 5
    assert samples["logd_sync_seconds_count", (("mode", "commit"),)] == 5
    assert samples["logd_sync_seconds_sum", (("mode", "commit"),)] == pytest.approx(7.565)


def test_label_values_are_escaped() -> None:
    """Quotes, backslashes, newlines and any Unicode in a label come back as they were."""
    registry = Registry()
    nasty = ['"', "\\", "\n", '\\n"', "a{b}=c,d", "日本 # HELP", "", "\\\\", " "]
    for number, value in enumerate(nasty):
        registry.counter(
            "logd_clients_total", 'Help with \\ and\nnewline, "quoted".', name=value
        ).add(number)
    samples = parse(registry.render())
    for number, value in enumerate(nasty):
        assert samples["logd_clients_total", (("name", value),)] == number
    (family,) = text_string_to_metric_families(registry.render())
    assert family.documentation == 'Help with \\ and\nnewline, "quoted".'


@pytest.mark.parametrize("value", [math.inf, -math.inf, 1e300, 2**70, -0.001])
def test_numbers_of_all_kinds(value: float) -> None:
    """Infinite, large and small values are written as Prometheus writes them."""
    registry = Registry()
    registry.gauge("logd_number", "A number.").value = value
    assert parse(registry.render()) == {("logd_number", ()): value}


def test_nan_is_rendered() -> None:
    """Not a number is a value of Prometheus'."""
    registry = Registry()
    registry.gauge("logd_number", "A number.").value = math.nan
    assert math.isnan(parse(registry.render())["logd_number", ()])


def test_computed_families_ask_at_each_scrape() -> None:
    """The function's rows, as they are now, in order of their labels."""
    registry = Registry()
    sizes = {"b": 2, "a": 1}
    registry.family(
        "logd_log_size_bytes",
        "Bytes of a log.",
        "gauge",
        lambda: (({"topic": name, "partition": "0"}, size) for name, size in sizes.items()),
    )
    assert [line for line in registry.render().splitlines() if line[0] != "#"] == [
        'logd_log_size_bytes{partition="0",topic="a"} 1',
        'logd_log_size_bytes{partition="0",topic="b"} 2',
    ]
    del sizes["a"]
    assert list(parse(registry.render()).values()) == [2]


def test_series_made_by_clients_are_bounded() -> None:
    """Beyond the limit everything is counted in one series: no memory grows, no count is lost."""
    registry = Registry()
    for number in range(SERIES_MAX * 3):
        registry.counter("logd_clients_total", "By name.", client=f"name-{number}", api="x").add()
    samples = parse(registry.render())
    assert len(samples) == SERIES_MAX
    overflow = (("api", OVERFLOW_LABEL), ("client", OVERFLOW_LABEL))
    assert samples["logd_clients_total", overflow] == 2 * SERIES_MAX + 1
    assert samples["logd_clients_total", (("api", "x"), ("client", "name-0"))] == 1
    assert sum(samples.values()) == SERIES_MAX * 3


def test_the_limit_is_a_familys_own() -> None:
    """One family at its limit takes nothing from another; known series go on as before."""
    registry = Registry()
    kept = registry.counter("logd_clients_total", "By name.", client="first")
    for number in range(SERIES_MAX):
        registry.counter("logd_clients_total", "By name.", client=str(number))
    assert registry.counter("logd_clients_total", "By name.", client="first") is kept
    assert isinstance(registry.counter("logd_other_total", "Other.", client="new"), Counter)
    registry.counter("logd_other_total", "Other.", client="new").add()
    assert parse(registry.render())["logd_other_total", (("client", "new"),)] == 1


@pytest.mark.parametrize("name", ["", "1x", "logd-x", "logd x", 'x"y', "ü"])
def test_bad_names_are_bugs(name: str) -> None:
    """Names come from our code: a bad one asserts at start."""
    registry = Registry()
    with pytest.raises(AssertionError):
        registry.gauge(name, "Bad.")
    with pytest.raises(AssertionError):
        registry.gauge("logd_good", "Bad label.", None, **{name: "x"})
    with pytest.raises(AssertionError):
        registry.family(name, "Bad.", "gauge", list)


def test_a_name_keeps_its_kind_labels_and_bounds() -> None:
    """Using one name in two ways is a bug."""
    registry = Registry()
    registry.counter("logd_x_total", "X.", a="1")
    registry.histogram("logd_h", "H.", (1, 2))
    with pytest.raises(AssertionError):
        registry.gauge("logd_x_total", "X.", a="1")
    with pytest.raises(AssertionError):
        registry.counter("logd_x_total", "X.", b="1")
    with pytest.raises(AssertionError):
        registry.counter("logd_x", "No _total.")
    with pytest.raises(AssertionError):
        registry.histogram("logd_h", "H.", (1, 3))
    with pytest.raises(AssertionError):
        registry.family("logd_h", "H.", "gauge", list)
    with pytest.raises(AssertionError):
        Histogram((2, 1))


def test_metrics_are_small() -> None:
    """Slotted objects: nothing can be added to them by mistake."""
    for metric in (Counter(), Gauge(), Histogram((1,))):
        assert not hasattr(metric, "__dict__")
