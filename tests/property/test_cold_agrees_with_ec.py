"""The server's decisions and the coding library mean the same, though neither imports the other."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.policy.cold.preflight import Fit, NodeFacts, chunk_bytes_max, preflight
from logd.policy.cold.values import Profile
from logd.policy.tiering import choose_profile

pytest.importorskip("ec.placement")

from ec.errors import PlacementError, ProfileError
from ec.geometry import blocks_of, parity_bytes_max
from ec.manifest import MANIFEST_BYTES_MAX
from ec.placement import Candidate, default_profile, place
from ec.profile import Profile as EcProfile


def test_the_same_profiles() -> None:
    """What the one can record the other can code, from 2+1 to 16+4."""
    for k, m in product(range(20), range(7)):
        text = f"{k}+{m}"
        try:
            expected = str(EcProfile.parse(text))
        except ProfileError:
            with pytest.raises(ValueError, match="no profile"):
                Profile.parse(text)
        else:
            assert str(Profile.parse(text)) == expected


def test_the_same_profile_for_a_number_of_nodes() -> None:
    """`auto`, from no node to twenty."""
    for nodes in range(21):
        profile = default_profile(nodes)
        facts = [NodeFacts(name=f"n{at}", free_bytes=2**30) for at in range(nodes)]
        chosen = choose_profile("auto", facts)
        assert isinstance(chosen, Profile) == (profile is not None)
        assert profile is None or str(chosen) == str(profile)


@given(
    st.lists(st.tuples(st.sampled_from([None, "r", "s", "n0"]), st.booleans()), max_size=12),
    st.integers(2, 6), st.integers(1, 4), st.integers(0, 99),
)  # fmt: skip
def test_what_passes_the_pre_flight_can_be_placed(
    made: list[tuple[str | None, bool]], k: int, m: int, seed: int
) -> None:
    """And what does not cannot."""
    facts = [
        NodeFacts(name=f"n{at}", rack=rack, free_bytes=10 if has_room else 9)
        for at, (rack, has_room) in enumerate(made)
    ]
    candidates = [
        Candidate(f"n{at}", 10 if has_room else 9, rack) for at, (rack, has_room) in enumerate(made)
    ]
    found = preflight(Profile(k, m), facts, chunk_bytes=10)
    try:
        placed = place(EcProfile(k, m), candidates, chunk_bytes=10, seed=seed)
    except PlacementError:
        assert not isinstance(found, Fit)
    else:
        assert isinstance(found, Fit)
        assert set(placed.nodes) <= set(found.nodes)


@given(st.integers(0, 2**40), st.integers(2, 16), st.integers(1, 4))
def test_no_chunk_is_longer_than_was_reckoned(size: int, k: int, m: int) -> None:
    """Payload, checksums and a manifest as long as it may be; 512 bytes for the trailer."""
    payload = parity_bytes_max(size, k)
    least = payload + blocks_of(payload) * 8 + MANIFEST_BYTES_MAX + 512
    assert chunk_bytes_max(size, Profile(k, m), index_bytes=0) >= least
