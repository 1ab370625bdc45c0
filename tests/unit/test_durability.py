"""The durability model: against published figures, simulation, and its own limits."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from logd.policy.cold.durability import (
    YEAR_MS,
    DurabilityTerms,
    mean_years_to_loss,
    model_durability,
    nines_of_any,
    nines_of_chain,
    nines_of_windows,
)
from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import ColdState, Profile
from logd.units import DAY_MS, HOUR_MS
from tests.cold_values import facts, generation, nodes

SEED = 20240607
# AFR, repair time, then the nines of each profile by windows: figures of a model like Backblaze's.
PUBLISHED = (
    (0.02, 7 * DAY_MS, {"2+2": 7.9, "3+2": 7.5, "4+2": 7.2, "4+3": 10.4, "6+3": 9.8, "10+4": 12.1}),
    (0.02, DAY_MS, {"2+2": 9.6, "3+2": 9.2, "4+2": 8.9, "4+3": 12.9, "6+3": 12.4, "16+4": 14.6}),
    (0.02, HOUR_MS, {"2+2": 12.4, "4+2": 11.7, "6+3": 16.5, "12+3": 15.5, "8+4": 21.4}),
    (0.10, DAY_MS, {"2+2": 7.5, "4+2": 6.8, "4+3": 10.1, "6+3": 9.6, "10+4": 11.9}),
    (0.10, HOUR_MS, {"4+2": 9.6, "6+3": 13.7, "12+3": 12.7, "16+4": 16.6}),
)


@pytest.mark.parametrize(("afr", "repair_ms", "expected"), PUBLISHED)
def test_the_windows_give_the_published_figures(
    afr: float, repair_ms: int, expected: dict[str, float]
) -> None:
    """To the tenth that they are printed with."""
    for name, nines in expected.items():
        found = nines_of_windows(Profile.parse(name), afr=afr, repair_ms=repair_ms)
        assert found == pytest.approx(nines, abs=0.06), name


@pytest.mark.parametrize(("afr", "repair_ms", "expected"), PUBLISHED)
def test_the_chain_is_m_plus_1_times_as_careful(
    afr: float, repair_ms: int, expected: dict[str, float]
) -> None:
    """A loss that straddles two windows counts too; where repair is quick the ratio is m + 1."""
    for name in expected:
        profile = Profile.parse(name)
        windows = nines_of_windows(profile, afr=afr, repair_ms=repair_ms)
        chain = nines_of_chain(profile, afr=afr, repair_ms=[repair_ms] * profile.m)
        assert 10 ** (windows - chain) == pytest.approx(profile.m + 1, rel=0.05), name


def test_the_chain_is_what_a_simulation_gives() -> None:
    """Mean time to loss of 2+1 with failures often enough to see; 3000 runs, seeded."""
    profile, afr, repair_years = Profile(2, 1), 1.0, 0.05
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    total = 0.0
    runs = 3000
    for _ in range(runs):
        lost, at = 0, 0.0
        while lost <= profile.m:
            fails, mends = (profile.chunks - lost) * afr, lost / repair_years
            at += rng.expovariate(fails + mends)
            lost += 1 if rng.random() < fails / (fails + mends) else -1
        total += at
    expected = mean_years_to_loss(profile, afr=afr, repair_ms=[repair_years * YEAR_MS])
    assert total / runs == pytest.approx(expected, rel=0.06)


def test_ten_times_faster_repair_is_worth_m_nines() -> None:
    """As the research on such models says."""
    for profile in (Profile(4, 2), Profile(6, 3), Profile(10, 4)):
        slow, fast = (
            nines_of_chain(profile, afr=0.02, repair_ms=[ms] * profile.m)
            for ms in (10 * HOUR_MS, HOUR_MS)
        )
        assert fast - slow == pytest.approx(profile.m, abs=0.05)


def test_the_figures_are_finite_and_ordered_whatever_is_asked() -> None:
    """Failing always, repairing never or at once: 0 to 99 nines, and more parity is never less."""
    for afr in (1e-6, 0.02, 1.0, 50.0):
        for ms in (1, HOUR_MS, 100 * YEAR_MS):
            found = [
                nines_of_chain(Profile(4, m), afr=afr, repair_ms=[ms] * m) for m in (1, 2, 3, 4)
            ]
            assert all(0 <= nines <= 99 for nines in found)
            assert all(a <= b + 1e-9 for a, b in pairwise(found))
            assert 0 <= nines_of_windows(Profile(4, 2), afr=afr, repair_ms=ms) <= 99


def test_many_things_are_lost_more_easily_than_one() -> None:
    """A thousand independent sets cost three nines."""
    assert nines_of_any(9.0, 1000) == pytest.approx(6.0)
    assert nines_of_any(9.0, 1) == pytest.approx(9.0)


TERMS = DurabilityTerms(detect_ms=60_000, delay_ms={0: 0, 1: 60_000, 2: 900_000}, copy_ms=HOUR_MS)


def test_the_model_counts_what_is_in_use() -> None:
    """Segments of one profile on the same nodes are one thing to lose; others are others."""
    segments = [
        generation(1), generation(2), generation(3, "bcdefg"),
        generation(4, "abcdefg", profile=Profile(4, 3)),
        generation(5, state=ColdState.ABORTED, profile=Profile(2, 2), nodes="abcd"),
    ]  # fmt: skip
    found = model_durability(segments, facts(nodes("abcdefg")), TERMS)
    assert [(each.profile, each.segments, each.node_sets) for each in found.profiles] == [
        (Profile(4, 2), 3, 2), (Profile(4, 3), 1, 1),
    ]  # fmt: skip
    four_two, four_three = found.profiles
    assert four_two.repair_ms == 60_000 + 60_000 + HOUR_MS
    assert four_three.repair_ms == 60_000 + 900_000 + HOUR_MS
    assert four_two.nines_any < four_two.nines < four_three.nines
    assert four_two.stored_ratio == 1.5
    assert "4+2: " in str(found)


def test_it_says_what_it_assumes() -> None:
    """Where the time comes from, and where failures are not independent."""
    alone = [NodeFacts(name="a", device="8:1"), NodeFacts(name="b", device="8:2")]
    words = "\n".join(model_durability([], alone, TERMS).assumptions)
    assert "nothing was repaired here yet" in words
    assert "NOT SO" not in words
    together = [NodeFacts(name="a", device="8:1"), NodeFacts(name="b", device="8:1")]
    told = DurabilityTerms(detect_ms=0, delay_ms={}, copy_ms=0, repair_ms=2 * HOUR_MS)
    words = "\n".join(model_durability([], together, told).assumptions)
    assert "a loss stays 2.00 h, as asked" in words
    assert "NOT SO: a, b are on one device, 8:1" in words
