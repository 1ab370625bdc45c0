"""How a run measures: turns, what is skipped or fails, and the default that stays short."""

from __future__ import annotations

from collections import Counter

import pytest

import bench
from bench import api
from bench.measurement import Measurement, Window
from bench.process import BenchError
from bench.runner import Options, Plan, open_run
from bench.suites import SUITES, curves, fetch, recover


@pytest.fixture
def run(tmp_path):
    """A run of three turns that primes nothing."""
    with open_run(tmp_path, Options(repetitions=3, prime_bytes=0)) as opened:
        yield opened


def test_both_sides_of_all_points_take_turns(run) -> None:
    """A a B b A a B b: neighbours in time are compared, and a slow minute is in all points."""
    order = []

    def plan(name):
        return Plan(
            name, "MB/s", lambda: order.append(name) or Window(1.0),
            ceiling=lambda window: order.append(name.lower()) or Window(2.0), ceiling_name="bare",
        )  # fmt: skip

    rows = run.rows([plan("A"), plan("B")])
    assert order == ["A", "a", "B", "b"] * 3
    assert [(row.name, row.ratio, row.conditions["windows"]) for row in rows] == [
        ("A", 0.5, 3), ("B", 0.5, 3)]  # fmt: skip


def test_a_ceiling_is_given_the_window_of_its_turn(run) -> None:
    """What the server did in a turn is what the bare loop does in the same."""
    values = iter([1.0, 2.0, 4.0])
    seen = []
    run.row("r", "MB/s", lambda: Window(next(values)),
            ceiling=lambda window: seen.append(window.value) or Window(1.0))  # fmt: skip
    assert seen == [1.0, 2.0, 4.0]


def test_five_pairs_are_the_default() -> None:
    """Fewer would not be enough to call a change real."""
    assert Options().repetitions >= 5


def test_each_row_says_the_conditions_of_its_run(run) -> None:
    """Cores, processor, kernel, file system, device, versions, state of the cache."""
    conditions = run.row("r", "MB/s", lambda: Window(1.0)).conditions
    for name in ("cores", "cpu", "kernel", "file_system", "device", "versions", "cache"):
        assert conditions[name]
    assert {"logd", "trio", "crc32c"} <= conditions["versions"].keys()


def rows_of(name):
    return [Measurement(name, 1.0, "MB/s")]


def broken(_):
    raise BenchError("it died")


def test_of_all_suites_one_may_fail(tmp_path, monkeypatch) -> None:
    """The others are measured; the failure is named, and so is what does not exist yet."""
    monkeypatch.setattr(api, "SUITES", {
        "append": broken, "fetch": lambda run: rows_of("f")})  # fmt: skip
    seen = []
    results = api.measure("all", directory=tmp_path, options=Options(prime_bytes=0),
                          after_suite=lambda found: seen.append(list(found.waiting)))  # fmt: skip
    assert results.failed == {"append": "it died"}
    assert [row.name for row in results.rows] == ["f"]
    assert set(api.NOT_YET) <= results.skipped.keys()
    assert seen == [["fetch"], []]


def test_a_suite_that_was_asked_for_fails_the_run(tmp_path, monkeypatch) -> None:
    """Its error is the caller's."""
    monkeypatch.setattr(api, "SUITES", {"append": broken})
    with pytest.raises(BenchError, match="it died"):
        api.measure("append", directory=tmp_path, options=Options(prime_bytes=0))


def test_what_a_suite_could_not_measure_is_named(tmp_path, monkeypatch) -> None:
    """A suite may leave something out; it says what and why, and nobody overlooks it."""

    def suite(run):
        run.skipped["cold reads"] = "no O_DIRECT"
        return rows_of("d")

    monkeypatch.setattr(api, "SUITES", {"disk": suite})
    assert api.measure("disk", directory=tmp_path).skipped == {"cold reads": "no O_DIRECT"}


def test_an_unknown_name_is_refused() -> None:
    """The refusal lists the names that there are."""
    with pytest.raises(ValueError, match="there are disk, append"):
        bench.run("nothing")


def test_progress_says_which_part_of_how_many(tmp_path, monkeypatch) -> None:
    """Of all suites, the one that is measured, its number, the row and its turn are said."""
    said = []
    monkeypatch.setattr(api, "SUITES", {
        name: lambda run, name=name: [run.row(name, "MB/s", lambda: Window(1.0))]
        for name in ("append", "fetch")})  # fmt: skip
    options = Options(repetitions=1, prime_bytes=0, progress=said.append)
    api.measure("all", directory=tmp_path, options=options)
    assert said == ["append (1 of 2), append, 1 of 1", "fetch (2 of 2), fetch, 1 of 1"]


# --- Curves ---------------------------------------------------------------------------------------


def test_curves_are_measured_only_when_asked_for(run) -> None:
    """The default run stays short."""
    assert not run.options.curves
    assert curves.append_curves(run, None) == []
    assert recover._segments_kept(run) == []


@pytest.mark.slow
def test_every_curve_has_its_points(tmp_path, monkeypatch) -> None:
    """Each quantity is varied, and each point is a row with its place on the axis."""
    for name, points in (
        ("RECORD_SIZES", (10, 2**20)), ("BATCH_SIZES", (1024, 2**20)), ("DEPTHS", (1, 20)),
        ("CONNECTIONS", (1, 30)), ("PARTITIONS", (1, 20)),
    ):  # fmt: skip
        monkeypatch.setattr(curves, name, points)
    # On a busy machine two hundredths of a second may go by without an answer.
    options = Options(seconds=0.1, repetitions=1, prime_bytes=0, curves=True)
    with open_run(tmp_path, options) as opened, opened.server() as server:
        rows = curves.append_curves(opened, server)
    counts = Counter(row.conditions["curve"] for row in rows)
    assert counts == {
        "bytes a record": 2, "bytes a batch": 2, "requests in flight": 4, "connections": 2,
        "partitions": 2,
    }  # fmt: skip
    assert all(row.value > 0 and row.ratio for row in rows)
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.slow
def test_fetches_have_their_curves(tmp_path, monkeypatch) -> None:
    """Over the bytes of an answer, and over connections."""
    monkeypatch.setattr(fetch, "SIZES", (2**16, 2**20))
    monkeypatch.setattr(fetch, "CONNECTIONS", (1, 8))
    options = Options(seconds=0.1, repetitions=1, prime_bytes=0, curves=True)
    with (
        open_run(tmp_path, options) as opened,
        opened.server() as server,
        opened.topic(server) as topic,
    ):
        log = fetch.fill(opened, server, topic, 2**23)
        rows = fetch._curves(opened, server, topic, log)
    assert Counter(row.conditions["curve"] for row in rows) == {
        "bytes a fetch": 2, "connections": 2}  # fmt: skip
    assert all(row.value > 0 and row.ratio for row in rows)
    assert len({row.name for row in rows}) == len(rows)


def test_every_suite_knows_its_space() -> None:
    """What a suite writes at most is known before it begins."""
    from bench.suites import space_of

    for name in SUITES:
        assert space_of(name, Options()) > 0
