"""LeaveGroup and the end of sessions: who goes, with which code, and what the others notice."""

from __future__ import annotations

import pytest

from logd.policy.group.values import GroupState, Leaver
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import SESSION_MS, GroupDriver

PREPARING = GroupState.PREPARING_REBALANCE
E = ErrorCode


def driver_with_statics() -> GroupDriver:
    """Return a stable group: the dynamic leader a, and s and t of the instances i and j."""
    driver = GroupDriver()
    driver.join("join a", new_member_id="a")
    driver.join("join s", new_member_id="s", instance_id="i")
    driver.join("join t", new_member_id="t", instance_id="j")
    driver.advance(6_000)
    driver.assign("sync a")
    driver.sync("sync s", "s", instance_id="i")
    driver.sync("sync t", "t", instance_id="j")
    driver.confirm()
    assert driver.group.state is GroupState.STABLE
    return driver


@pytest.mark.parametrize(
    ("member_id", "instance_id", "error"),
    [
        ("a", None, E.NONE),
        ("s", None, E.NONE),
        ("s", "i", E.NONE),
        ("", "i", E.NONE),
        ("", "unknown", E.UNKNOWN_MEMBER_ID),
        ("", None, E.UNKNOWN_MEMBER_ID),
        ("stranger", None, E.UNKNOWN_MEMBER_ID),
        ("s", "unknown", E.UNKNOWN_MEMBER_ID),
        ("a", "i", E.FENCED_INSTANCE_ID),
        ("stranger", "i", E.FENCED_INSTANCE_ID),
    ],
)
def test_who_may_leave(member_id: str, instance_id: str | None, error: ErrorCode) -> None:
    """A member by its id, a static one by its instance as well; a refused leave changes nothing."""
    driver = driver_with_statics()
    assert driver.leave(Leaver(member_id, instance_id)) == [error]
    assert driver.group.state is (GroupState.STABLE if error else PREPARING)
    assert len(driver.group.members) == (3 if error else 2)


def test_several_leave_with_one_request() -> None:
    """Each has a code of its own, and the others join again once."""
    driver = driver_with_statics()
    leavers = [Leaver("", "i"), Leaver("stranger", None), Leaver("t", "j"), Leaver("t", "j")]
    codes = [E.NONE, E.UNKNOWN_MEMBER_ID, E.NONE, E.UNKNOWN_MEMBER_ID]
    assert driver.leave(*leavers) == codes
    assert (driver.group.state, set(driver.group.members)) == (PREPARING, {"a"})
    driver.join("a again", "a")
    assert (driver.errors("a again"), driver.group.generation) == ([E.NONE], 2)


def test_the_last_ones_to_leave_leave_an_empty_group() -> None:
    """It is empty at once, one generation on, and written; nothing is left to wait for."""
    driver = driver_with_statics()
    assert driver.leave("a", "s", "t") == [E.NONE] * 3
    assert (driver.group.state, driver.group.generation) == (GroupState.EMPTY, 2)
    assert (driver.group.leader, driver.group.protocol_name) == (None, None)
    assert driver.group.protocol_type == "consumer"
    stored = driver.confirm().group
    assert (stored.generation, stored.members) == (2, ())
    assert driver.group.stored() == stored
    driver.advance(10 * SESSION_MS)
    assert driver.group.next_deadline_ms is None


def test_an_empty_group_that_cannot_be_written_is_empty() -> None:
    """A crash would bring members back that are gone; their sessions end again."""
    driver = GroupDriver().stable("a")
    kept = driver.group.stored()
    driver.leave("a")
    driver.confirm(E.KAFKA_STORAGE_ERROR)
    assert driver.group.state is GroupState.EMPTY
    assert driver.group.stored() == kept


def test_nobody_leaves_a_dead_group() -> None:
    """Every leaver is told to look for the coordinator again."""
    driver = driver_with_statics()
    driver.carry_out(driver.group.die())
    assert driver.leave("a", "s") == [E.COORDINATOR_NOT_AVAILABLE] * 2


# --- Sessions ----------------------------------------------------------------------------------


def test_a_silent_member_is_dropped_when_its_session_ends() -> None:
    """Not a millisecond sooner; the others are told by their heartbeats."""
    driver = GroupDriver().stable("a", "b")
    driver.keep_alive(SESSION_MS - 1, "a")
    assert driver.heartbeat("a") is E.NONE
    driver.advance(1)
    assert driver.heartbeat("a") is E.REBALANCE_IN_PROGRESS
    assert driver.heartbeat("b") is E.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize("renew", ["heartbeat", "check_commit"])
def test_what_renews_a_session(renew: str) -> None:
    """Heartbeats and commits do, as long as they come in time."""
    driver = GroupDriver().stable("a")
    for _ in range(10):
        driver.advance(SESSION_MS - 1)
        assert getattr(driver, renew)("a") is E.NONE
    driver.advance(SESSION_MS)
    assert driver.group.state is GroupState.EMPTY


@pytest.mark.parametrize("renew", ["heartbeat", "check_commit"])
def test_a_refused_request_renews_nothing(renew: str) -> None:
    """A member of another generation is as silent as one that does not speak."""
    driver = GroupDriver().stable("a")
    driver.advance(SESSION_MS - 1)
    assert getattr(driver, renew)("a", generation=7) is E.ILLEGAL_GENERATION
    driver.advance(1)
    assert driver.group.state is GroupState.EMPTY


def test_members_of_a_rebalance_keep_their_session_with_heartbeats() -> None:
    """A slow member is not dropped for its session, but when the rebalance time-out ends."""
    driver = GroupDriver().stable("a", "b", rebalance_timeout_ms=30_000)
    driver.join("a again", "a", rebalance_timeout_ms=30_000)
    driver.keep_alive(29_999, "b")
    assert driver.heartbeat("b") is E.REBALANCE_IN_PROGRESS
    driver.advance(1)
    assert set(driver.group.members) == {"a"}


def test_members_with_different_sessions_are_dropped_each_in_its_time() -> None:
    """The next deadline is found anew after each tick."""
    driver = GroupDriver()
    for name, session_ms in [("a", 30_000), ("b", 10_000), ("c", 20_000)]:
        driver.join(f"join {name}", new_member_id=name, session_timeout_ms=session_ms)
    driver.advance(6_000)
    driver.assign("sync a")
    driver.sync("sync b", "b")
    driver.sync("sync c", "c")
    driver.confirm()
    begin_ms = driver.now_ms
    left: list[tuple[int, set[str]]] = []
    for at_ms in (9_999, 10_000, 19_999, 20_000, 29_999, 30_000):
        driver.advance(begin_ms + at_ms - driver.now_ms)
        left.append((at_ms, set(driver.group.members)))
    assert left == [
        (9_999, {"a", "b", "c"}),
        (10_000, {"a", "c"}),
        (19_999, {"a", "c"}),
        (20_000, {"a"}),
        (29_999, {"a"}),
        (30_000, set()),
    ]


def test_a_group_at_rest_is_nearly_never_ticked() -> None:
    """An hour of heartbeats of five members takes about one tick for each session time-out."""
    driver = GroupDriver().stable(*"abcde", session_timeout_ms=45_000)
    driver.tick_count = 0
    driver.keep_alive(3_600_000, *"abcde")
    assert driver.group.state is GroupState.STABLE
    assert driver.tick_count <= 3_600_000 / 42_000 + 1
