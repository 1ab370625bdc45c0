"""Committed offsets lapse when nobody has used them for the retention time, and not before."""

from __future__ import annotations

import struct

import pytest

from logd.policy.group.committed import CommittedOffset, expired_offsets
from tests.unit.group_driver import GroupDriver

DAY_MS = 86_400_000
RETENTION_MS = 7 * DAY_MS
NOW_MS = 100 * DAY_MS
OLD = CommittedOffset(5, -1, "", commit_timestamp_ms=NOW_MS - RETENTION_MS)
YOUNG = CommittedOffset(5, -1, "", commit_timestamp_ms=NOW_MS - RETENTION_MS + 1)
TOLD_LATER = CommittedOffset(5, -1, "", OLD.commit_timestamp_ms, expire_timestamp_ms=NOW_MS + 1)
TOLD_NOW = CommittedOffset(5, -1, "", NOW_MS, expire_timestamp_ms=NOW_MS)
OFFSETS = {
    ("t", 0): OLD,
    ("t", 1): YOUNG,
    ("u", 0): OLD,
    ("u", 1): YOUNG,
    ("u", 2): TOLD_LATER,
    ("u", 3): TOLD_NOW,
}
T_ONLY = (("range", struct.pack(">hih", 0, 1, 1) + b"t"),)


def expired(driver: GroupDriver, empty_since_ms: int | None = None) -> list[tuple[str, int]]:
    return expired_offsets(
        driver.group,
        OFFSETS,
        empty_since_ms=empty_since_ms,
        now_ms=NOW_MS,
        retention_ms=RETENTION_MS,
    )


def emptied() -> GroupDriver:
    """Return a group that had a member."""
    driver = GroupDriver().stable("a", protocols=T_ONLY)
    driver.leave("a")
    return driver


def test_offsets_of_a_group_that_never_had_members_lapse_each_in_its_time() -> None:
    """The commit counts, or the time that an old client named."""
    assert expired(GroupDriver()) == [("t", 0), ("u", 0), ("u", 3)]


def test_offsets_that_are_subscribed_to_do_not_lapse() -> None:
    """In a stable group only those of other topics do."""
    assert expired(GroupDriver().stable("a", protocols=T_ONLY)) == [("u", 0), ("u", 3)]


@pytest.mark.parametrize(
    "driver",
    [
        GroupDriver().stable("a", protocol_type="connect"),
        GroupDriver().stable("a"),  # metadata that is no subscription
        GroupDriver().completing("a", protocols=T_ONLY),
    ],
)
def test_where_the_topics_are_not_known_nothing_lapses(driver: GroupDriver) -> None:
    """Any offset may be in use."""
    assert expired(driver) == []


@pytest.mark.parametrize(
    ("empty_since_ms", "lapsed"),
    [
        (NOW_MS - RETENTION_MS, [("t", 0), ("u", 0), ("u", 3)]),
        (NOW_MS - RETENTION_MS + 1, [("u", 3)]),
        (None, [("t", 0), ("u", 0), ("u", 3)]),  # not known: the commit counts
    ],
)
def test_offsets_of_an_emptied_group_lapse_after_it_became_empty(
    empty_since_ms: int | None, lapsed: list[tuple[str, int]]
) -> None:
    """As long as there were members, they were in use, however old the commit is."""
    assert expired(emptied(), empty_since_ms) == lapsed
