"""How likely a coded segment survives a year, by a model that says what it assumes.

The model: nodes fail one by one, independently, at a constant rate (the annual failure rate); each
loss is repaired after a mean time, losses of one segment side by side. A segment is lost when m + 1
of its k + m chunks are lost at once. That is a birth-death chain with states 0 to m + 1 and rates
(n - i) a up and i / T_i down; its mean time to the last state is the sum of

    t(0) = 1 / (n a),   t(i) = (1 + i / T_i t(i - 1)) / ((n - i) a)

which has positive terms only, so nothing cancels. The probability for a year is 1 - exp(-1 / mean).
Published tables often count otherwise: the chance that more than m of n fail within the same window
of length T, for all windows of a year. Losses that straddle two windows are left out there, which
makes it about m + 1 times smaller. Both are given; what we lead with is the chain.

Failures of real nodes are not independent: disks of one batch, one rack, one bad release. Studies
of large fleets find that this costs most of the nines that such a model promises. So the figures
come after the measured margins, and with their assumptions.

Sources: the chain is that of Markov models for RAID (Gibson 1992); the windows those of Backblaze's
published durability calculation (2018); correlation: Ford et al., OSDI 2010.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from logd.policy.cold.preflight import NodeFacts
from logd.policy.cold.values import LIVE, Generation, Profile
from logd.units import DAY_MS, HOUR_MS

YEAR_MS: Final = 365 * DAY_MS
AFR_DEFAULT: Final = 0.02
NINES_MAX: Final = 99.0
"""Where the probability is too small for a float."""


def mean_years_to_loss(profile: Profile, *, afr: float, repair_ms: Sequence[float]) -> float:
    """Return the mean time until a segment is lost, by the chain.

    Args:
        afr: failures of a node a year.
        repair_ms: for 1, 2, … m lost chunks, how long each loss stays.
    """
    assert afr > 0
    assert len(repair_ms) == profile.m
    passage = total = 1 / (profile.chunks * afr)
    for lost, one_ms in enumerate(repair_ms, 1):
        repairs = lost * YEAR_MS / max(one_ms, 1)
        passage = (1 + repairs * passage) / ((profile.chunks - lost) * afr)
        total += passage
    return total


def nines_of_chain(profile: Profile, *, afr: float, repair_ms: Sequence[float]) -> float:
    """Return the nines for a year, by the chain."""
    years = mean_years_to_loss(profile, afr=afr, repair_ms=repair_ms)
    return _nines(-math.expm1(-1 / years))


def nines_of_windows(profile: Profile, *, afr: float, repair_ms: float) -> float:
    """Return the nines for a year, counted in windows of the length of a repair."""
    windows = YEAR_MS / max(repair_ms, 1)
    one = min(afr / windows, 1.0)
    chunks = profile.chunks
    tail = sum(
        math.comb(chunks, lost) * one**lost * (1 - one) ** (chunks - lost)
        for lost in range(profile.m + 1, chunks + 1)
    )
    return _nines(-math.expm1(windows * math.log1p(-tail)) if tail < 1 else 1.0)


def nines_of_any(nines: float, count: int) -> float:
    """Return the nines of "none of so many is lost", where each has `nines` and fails by itself."""
    assert count >= 1
    one = 10**-nines
    return _nines(-math.expm1(count * math.log1p(-one)) if one < 1 else 1.0)


def _nines(probability: float) -> float:
    assert probability >= 0
    return NINES_MAX if probability == 0 else min(NINES_MAX, max(0.0, -math.log10(probability)))


# --- what is printed ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DurabilityTerms:
    """What the model is told.

    Attributes:
        afr: failures of a node a year.
        detect_ms: node.dead.ms.
        delay_ms: by margin, how long repair waits (`repair_plan.RepairRules.delay_at`).
        copy_ms: how long making a node's chunks again takes, at the measured rate.
        repair_ms: --repair-hours: stands for the three above; None: not given.
        is_measured: whether `copy_ms` follows from a measured rate.
    """

    afr: float = AFR_DEFAULT
    detect_ms: int
    delay_ms: Mapping[int, int]
    copy_ms: int
    repair_ms: int | None = None
    is_measured: bool = False

    def for_profile(self, profile: Profile) -> tuple[float, ...]:
        """Return how long a loss stays, for 1, 2, … m lost chunks."""
        if self.repair_ms is not None:
            return (float(self.repair_ms),) * profile.m
        return tuple(
            float(self.detect_ms + self.delay_ms.get(profile.m - lost, 0) + self.copy_ms)
            for lost in range(1, profile.m + 1)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileDurability:
    """What the model says of the segments of one profile.

    Attributes:
        node_sets: on how many different sets of nodes they lie: so many things can be lost.
        nines: for a given segment and a year, by the chain; `nines_windows`: by windows.
        nines_any: that none of them is lost.
        years: mean time until a given one is lost.
        repair_ms: how long the first loss stays.
    """

    profile: Profile
    segments: int
    node_sets: int
    nines: float
    nines_windows: float
    nines_any: float
    years: float
    repair_ms: float

    @property
    def stored_ratio(self) -> float:
        """Stored bytes per byte of source, without checksums and indexes."""
        return self.profile.chunks / self.profile.k

    def __str__(self) -> str:
        return (
            f"{self.profile}: {self.nines:.1f} nines a segment and year "
            f"({self.nines_windows:.1f} counted in windows), {self.nines_any:.1f} for all "
            f"{self.segments}, {self.stored_ratio:.2f} bytes stored a byte"
        )


@dataclass(frozen=True, slots=True)
class Durability:
    """What the model says, and what it assumes."""

    profiles: tuple[ProfileDurability, ...]
    assumptions: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join((*map(str, self.profiles), *self.assumptions))


def model_durability(
    generations: Iterable[Generation],
    nodes: Sequence[NodeFacts],
    terms: DurabilityTerms,
    *,
    also: Collection[Profile] = (),
) -> Durability:
    """Return the model's figures for every profile in use.

    Args:
        also: profiles to show though no segment has them yet.
    """
    by_profile: dict[Profile, list[Generation]] = {profile: [] for profile in also}
    for each in generations:
        if each.state in LIVE:
            by_profile.setdefault(each.profile, []).append(each)
    figures = tuple(_model(profile, found, terms) for profile, found in sorted(by_profile.items()))
    return Durability(figures, _assumptions(nodes, terms))


def _model(
    profile: Profile, generations: Sequence[Generation], terms: DurabilityTerms
) -> ProfileDurability:
    repair_ms = terms.for_profile(profile)
    node_sets = {frozenset(each.held.values()) for each in generations}
    nines = nines_of_chain(profile, afr=terms.afr, repair_ms=repair_ms)
    return ProfileDurability(
        profile=profile,
        segments=len(generations),
        node_sets=len(node_sets),
        nines=nines,
        nines_windows=nines_of_windows(profile, afr=terms.afr, repair_ms=repair_ms[0]),
        nines_any=nines_of_any(nines, max(len(node_sets), 1)),
        years=mean_years_to_loss(profile, afr=terms.afr, repair_ms=repair_ms),
        repair_ms=repair_ms[0],
    )


def _assumptions(nodes: Sequence[NodeFacts], terms: DurabilityTerms) -> tuple[str, ...]:
    found = [
        f"each node fails {terms.afr:.2%} of a time a year, by itself, at a constant rate",
        "segments on the same nodes are lost together, those on different sets apart",
        "bad blocks are found and mended before a second loss (scrub); people make no mistakes",
    ]
    if terms.repair_ms is not None:
        found.append(f"a loss stays {terms.repair_ms / HOUR_MS:.2f} h, as asked")
    else:
        rate = "measured here" if terms.is_measured else "assumed: nothing was repaired here yet"
        found.append(
            f"a loss stays {terms.detect_ms / HOUR_MS:.2f} h until its node is called dead, then "
            f"the delay of its margin, then {terms.copy_ms / HOUR_MS:.2f} h of repair at the rate "
            f"{rate}"
        )
    found += _shared_fates(nodes)
    return tuple(found)


def _shared_fates(nodes: Sequence[NodeFacts]) -> list[str]:
    """Return where the first assumption does not hold, as far as is known."""
    by_device: dict[str, list[str]] = {}
    for node in nodes:
        if node.device is not None:
            by_device.setdefault(node.device, []).append(node.name)
    return [
        f"NOT SO: {', '.join(sorted(names))} are on one device, {device}, and fail together: the "
        "figures do not hold for them"
        for device, names in sorted(by_device.items())
        if len(names) > 1
    ]
