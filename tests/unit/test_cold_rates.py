"""How fast repair and scrub go, in which order scrub goes, and what it says when it is too slow."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logd.policy.cold.rates import (
    RATE_MIN_BYTES_S,
    MeasuredRate,
    RateLimits,
    TokenBucket,
    repair_rate,
)
from logd.policy.cold.scrub_plan import (
    RATE_MIN_BYTES_S as SCRUB_MIN,
)
from logd.policy.cold.scrub_plan import (
    ScrubCursor,
    ScrubItem,
    ScrubOrder,
    ScrubRules,
    chunk_item_name,
    plan_scrub_rate,
    scrub_eta_s,
    segment_item_name,
)
from logd.policy.cold.values import SegmentKey
from logd.units import DAY_MS, GIB, HOUR_MS, MIB

# --- rates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "measured", "margin", "rate"),
    [
        (0, None, 2, RATE_MIN_BYTES_S),
        (0, 100 * MIB, 2, 50 * MIB),
        (0, 100 * MIB, 0, 90 * MIB),
        (0, 100 * MIB, -1, 90 * MIB),
        (0, 10 * MIB, 1, RATE_MIN_BYTES_S),
        (5 * MIB, 100 * MIB, 0, 5 * MIB),
    ],
)
def test_repair_takes_half_of_what_is_there_but_never_less_than_its_floor(
    setting: int, measured: float | None, margin: int, rate: float
) -> None:
    """Most of it where nothing is left to lose; what is set is what is taken."""
    assert repair_rate(setting, measured_bytes_s=measured, margin=margin) == rate


def test_a_rate_is_kept_between_its_bounds() -> None:
    """A floor as well as a ceiling."""
    limits = RateLimits(10, 20)
    assert [limits.clamp(rate) for rate in (0, 15, 99)] == [10, 15, 20]
    assert RateLimits(10, None).clamp(1e9) == 1e9


@given(sizes=st.lists(st.integers(0, 5_000_000), min_size=1, max_size=60))
@settings(deadline=None)
def test_a_bucket_keeps_its_rate(sizes: list[int]) -> None:
    """Whoever waits as told gets no more than the rate gives, and hardly less."""
    rate = 1_000_000.0
    bucket, now_s = TokenBucket.full(rate, now_s=0.0), 0.0
    for size in sizes:
        bucket, wait_s = bucket.take(size, now_s=now_s)
        now_s += wait_s
    assert now_s >= sum(sizes) / rate - 0.25 - 1e-6
    assert now_s <= sum(sizes) / rate + 1e-6


def test_a_rate_can_change_while_somebody_waits() -> None:
    """A debt is paid back at the new rate; time that goes back gives nothing."""
    bucket, wait_s = TokenBucket.full(100.0, now_s=0.0).take(125, now_s=0.0)
    assert wait_s == 1.0
    bucket = bucket.at_rate(200.0, now_s=0.5)
    assert bucket.take(0, now_s=0.5)[1] == 0.25
    assert bucket.take(0, now_s=0.0)[1] == 0.25


def test_a_measured_rate_follows_what_happens() -> None:
    """Nothing measured is nothing; the latest minutes weigh most."""
    rate = MeasuredRate()
    assert rate.bytes_s is None
    assert rate.with_piece(5, seconds=0.0).bytes_s is None
    for _ in range(100):
        rate = rate.with_piece(100, seconds=1.0)
    assert rate.bytes_s == pytest.approx(100)
    for _ in range(600):
        rate = rate.with_piece(10, seconds=1.0)
    assert rate.bytes_s == pytest.approx(10, rel=0.05)


# --- order ----------------------------------------------------------------------------------------


def order(names: Iterable[str], size: int = 10) -> ScrubOrder:
    """Return items of one size."""
    return ScrubOrder(ScrubItem(name, size) for name in names)


def one_round(items: ScrubOrder, cursor: ScrubCursor) -> tuple[list[str], ScrubCursor]:
    """Return the names in the order of one round, and the cursor behind it."""
    seen = []
    while (item := items.next(cursor)) is not None:
        left = items.left_bytes(cursor)
        cursor = cursor.passed(item, verified_bytes=item.size_bytes)
        assert items.left_bytes(cursor) == left - item.size_bytes
        seen.append(item.name)
    assert items.left_bytes(cursor) == 0
    return seen, cursor


@given(names=st.sets(st.text("0123", min_size=1, max_size=4)), start=st.text("0123", max_size=4))
@settings(deadline=None)
def test_a_round_verifies_every_item_once(names: set[str], start: str) -> None:
    """From the start to the end and from the beginning to the start."""
    items = order(names)
    seen, cursor = one_round(items, ScrubCursor(start=start, began_ms=5))
    assert seen == sorted(n for n in names if n >= start) + sorted(n for n in names if n < start)
    assert cursor.verified_bytes == items.total_bytes
    again = cursor.next_round(now_ms=9)
    assert (again.previous_ms, again.began_ms, again.rounds) == (5, 9, 1)
    assert one_round(items, again)[0] == seen


@given(
    names=st.sets(st.integers(0, 99), min_size=1),
    changes=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 99), st.booleans())),
    start=st.integers(0, 99),
)
@settings(deadline=None)
def test_items_that_come_and_go_move_no_other(
    names: set[int], changes: list[tuple[int, int, bool]], start: int
) -> None:
    """What was there all the time is verified exactly once, whatever happens to the others."""
    now = {f"{name:02}" for name in names}
    always = set(now)
    cursor = ScrubCursor(start=f"{start:02}", began_ms=0)
    seen: list[str] = []
    for step in range(300):
        for at, name, comes in changes:
            if at == step:
                (now.add if comes else now.discard)(f"{name:02}")
                always.discard(f"{name:02}")
        item = order(now).next(cursor)
        if item is None:
            break
        seen.append(item.name)
        cursor = cursor.passed(item, verified_bytes=10)
    assert order(now).next(cursor) is None
    assert all(seen.count(name) == 1 for name in always)
    assert all(seen.count(name) <= 1 for name in seen)


def test_names_order_chunks_and_segments() -> None:
    """Chunks of one encoding are neighbours; segments of a partition lie by offset."""
    assert chunk_item_name("ab" * 16, 9) < chunk_item_name("ab" * 16, 10)
    names = [segment_item_name(SegmentKey(b"t" * 16, 3, at)) for at in (9, 10, 2**40)]
    assert names == sorted(names)


def test_the_oldest_is_as_old_as_the_round_before() -> None:
    """What comes next was last verified in the round before, at the earliest when that began."""
    cursor = ScrubCursor(start="", began_ms=100)
    assert cursor.oldest_ms(now_ms=250) == 150
    assert cursor.next_round(now_ms=300).oldest_ms(now_ms=350) == 250
    assert cursor.oldest_ms(now_ms=0) == 0


# --- rate of scrub --------------------------------------------------------------------------------

DAYS_14 = ScrubRules(cycle_ms=14 * DAY_MS)


def test_the_rate_follows_from_what_is_left_and_the_time_that_is_left() -> None:
    """A tenth more than needed; never below the floor; late rounds hurry, but not endlessly."""
    items = order("abcdefghij", 1000 * GIB)
    cursor = ScrubCursor(start="", began_ms=0)
    steady = 10_000 * GIB / (14 * 86_400)
    full = plan_scrub_rate("n1", items, cursor, DAYS_14, now_ms=0)
    assert full.needed_bytes_s == pytest.approx(steady)
    assert full.bytes_s == pytest.approx(1.1 * steady)
    assert full.warning is None
    half_time = plan_scrub_rate("n1", items, cursor, DAYS_14, now_ms=7 * DAY_MS)
    assert half_time.needed_bytes_s == pytest.approx(2 * steady)
    late = plan_scrub_rate("n1", items, cursor, DAYS_14, now_ms=70 * DAY_MS)
    assert late.needed_bytes_s == pytest.approx(20 * steady)
    few = plan_scrub_rate("n1", order("a"), cursor, DAYS_14, now_ms=0)
    assert few.bytes_s == SCRUB_MIN


def test_a_cycle_that_cannot_be_kept_is_said_so_with_the_sum() -> None:
    """1000 GiB in 14 days need 866 KiB a second; 512 KiB are allowed; it takes 23 days and more."""
    items = order("abcdefghij", 100 * GIB)
    rules = ScrubRules(cycle_ms=14 * DAY_MS, rate_bytes=512 * 1024)
    found = plan_scrub_rate("n1", items, ScrubCursor(start="", began_ms=0), rules, now_ms=0)
    assert found.bytes_s == 512 * 1024
    assert found.warning == (
        "n1: 1000.0 GiB in 14d (scrub.cycle.ms) needs 866.9 KiB a second, scrub.rate.bytes allows "
        "512.0 KiB: a round takes 23d16h53m"
    )
    slow = ScrubRules(cycle_ms=14 * DAY_MS, device_bytes_s=100_000.0)
    words = plan_scrub_rate("n1", items, ScrubCursor(start="", began_ms=0), slow, now_ms=0)
    assert "half of its device gives" in str(words.warning)


def test_a_round_that_people_ask_for_goes_at_the_allowed_rate() -> None:
    """Unbounded where nothing is set."""
    cursor = ScrubCursor(start="", began_ms=0)
    free = plan_scrub_rate("n1", order("ab"), cursor, ScrubRules(hurries=True), now_ms=0)
    assert free.bytes_s is None
    bound = ScrubRules(hurries=True, rate_bytes=7)
    assert plan_scrub_rate("n1", order("ab"), cursor, bound, now_ms=0).bytes_s == 7.0


def test_when_a_round_ends() -> None:
    """By what was achieved, else by what is planned, else nobody knows."""
    cursor = ScrubCursor(start="", began_ms=0)
    rate = plan_scrub_rate("n1", order("ab", 60 * MIB), cursor, DAYS_14, now_ms=HOUR_MS)
    assert scrub_eta_s(0, rate=rate, measured_bytes_s=None) == 0
    assert scrub_eta_s(120 * MIB, rate=rate, measured_bytes_s=None) == 120
    assert scrub_eta_s(120 * MIB, rate=rate, measured_bytes_s=2.0 * MIB) == 60
    hurry = plan_scrub_rate("n1", order("ab"), cursor, ScrubRules(hurries=True), now_ms=0)
    assert scrub_eta_s(20, rate=hurry, measured_bytes_s=None) is None
