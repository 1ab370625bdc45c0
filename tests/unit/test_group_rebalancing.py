"""The joining phase: when it ends, who is in the next generation, and who leads it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logd.policy.group.group import Group
from logd.policy.group.values import GroupState, JoinAnswer
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import DELAY_MS, REBALANCE_MS, SESSION_MS, GroupDriver

PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
E = ErrorCode

# --- The initial delay -------------------------------------------------------------------------


def test_a_first_member_waits_for_the_delay() -> None:
    """One member alone gets its generation when the initial delay is over, not later."""
    driver = GroupDriver()
    driver.join("r", new_member_id="a")
    driver.advance(DELAY_MS - 1)
    assert (driver.group.state, driver.group.generation) == (PREPARING, 0)
    driver.advance(1)
    assert driver.joined["r"] == JoinAnswer(
        error=E.NONE,
        member_id="a",
        generation=1,
        protocol_type="consumer",
        protocol_name="range",
        leader="a",
        members=(("a", None, b"topics"),),
    )
    assert driver.group.state is COMPLETING


def test_without_a_delay_a_first_member_is_answered_at_once() -> None:
    """An initial delay of nothing means what it says."""
    assert GroupDriver(delay_ms=0).join("r") is not None


@pytest.mark.parametrize(
    ("timeout_ms", "joins_ms", "end_ms"),
    [
        (60_000, [0, 1], 6_000),  # Someone came in the first delay: one more.
        (60_000, [0, 3_001], 3_000),  # Nobody did: the second member is too late.
        (60_000, [0, 1, 3_001, 6_001], 12_000),
        (60_000, [0, *range(1, 120_000, 1_000)], 60_000),  # The first one's time-out is the end,
        (7_000, [0, *range(1, 20_000, 1_000)], 7_000),  # whether the delay divides it or not.
        (2_000, [0, 1], 3_000),  # A time-out below the delay does not shorten the delay.
    ],
)
def test_the_delay_grows_while_members_come(
    timeout_ms: int, joins_ms: list[int], end_ms: int
) -> None:
    """Each delay in which a member came is followed by another, up to the rebalance time-out."""
    driver = GroupDriver()
    begin_ms = driver.now_ms
    for number, at_ms in enumerate(joins_ms):
        driver.advance(begin_ms + at_ms - driver.now_ms)
        if driver.group.generation:
            break
        driver.join(number, rebalance_timeout_ms=timeout_ms)
    while not driver.group.generation:
        driver.advance(1)
    assert driver.joined[0].error is E.NONE
    first_missed = next((at_ms for at_ms in joins_ms if at_ms >= end_ms), end_ms)
    assert end_ms <= driver.now_ms - begin_ms <= first_missed


def test_a_group_whose_first_members_go_ends_empty() -> None:
    """When all leave during the initial delay, its end is an empty generation, and durable."""
    driver = GroupDriver()
    driver.join("r", new_member_id="a")
    driver.leave("a")
    assert driver.group.state is PREPARING
    driver.advance(DELAY_MS)
    assert (driver.group.state, driver.group.generation) == (GroupState.EMPTY, 1)
    driver.confirm()
    assert driver.group.stored().generation == 1


# --- Everybody again ---------------------------------------------------------------------------


def test_the_last_member_to_join_ends_the_phase() -> None:
    """A hundred members are answered with the join of the last one, without a tick."""
    names = [f"m{number}" for number in range(100)]
    driver = GroupDriver().stable(*names)
    for name in names[:-1]:
        driver.join(f"{name} again", name, protocols=(("range", name.encode()),))
        assert driver.group.state is PREPARING
    driver.join("last", names[-1])
    replies = [f"{name} again" for name in names[:-1]] + ["last"]
    assert driver.errors(*replies) == [E.NONE] * 100
    answers = [driver.joined[reply] for reply in replies]
    assert {answer.generation for answer in answers} == {2}
    assert {answer.leader for answer in answers} == {names[0]}
    lists = [answer.members for answer in answers if answer.members]
    assert len(lists) == 1
    assert [member_id for member_id, _, _ in lists[0]] == names
    driver.assign()
    for name in names[1:]:
        driver.sync(f"{name} syncs", name)
    assert not driver.errors("assign")[0]
    driver.confirm()
    assert driver.errors("assign", *(f"{name} syncs" for name in names[1:])) == [E.NONE] * 100
    assert driver.group.state is GroupState.STABLE


def test_who_does_not_join_in_time_is_dropped() -> None:
    """The rebalance time-out of the slowest member is waited for; then it goes without them."""
    driver = GroupDriver()
    for name, timeout_ms in [("a", 10_000), ("b", 30_000), ("c", 20_000)]:
        driver.join(f"join {name}", new_member_id=name, rebalance_timeout_ms=timeout_ms)
    driver.stable("d", rebalance_timeout_ms=10_000)
    for name in "bcd":
        driver.sync(f"{name} late", name)
    driver.join("a again", "a", rebalance_timeout_ms=10_000)
    driver.keep_alive(30_000 - 1, "b", "c", "d")
    assert driver.errors("a again") == [None]
    driver.keep_alive(1, "b", "c", "d")
    assert driver.errors("a again") == [E.NONE]
    assert set(driver.group.members) == {"a"}
    assert driver.heartbeat("b") is E.UNKNOWN_MEMBER_ID


def test_a_leader_that_does_not_join_in_time_is_succeeded() -> None:
    """The lead goes to a member that has joined."""
    driver = GroupDriver().stable("a", "b", "c")
    driver.join("r", new_member_id="n")
    driver.join("c again", "c")
    driver.keep_alive(REBALANCE_MS, "a", "b")
    assert driver.group.leader in {"c", "n"}
    assert driver.errors("c again", "r") == [E.NONE, E.NONE]
    leader = driver.group.leader
    answers = [driver.joined["c again"], driver.joined["r"]]
    assert [bool(answer.members) for answer in answers] == [
        answer.member_id == leader for answer in answers
    ]


def test_a_leader_that_leaves_is_succeeded_by_the_oldest_member() -> None:
    """The lead is never with somebody who is gone."""
    driver = GroupDriver().stable("a", "b", "c")
    driver.leave("a")
    assert driver.group.leader == "b"


def test_a_member_whose_session_ends_is_not_waited_for() -> None:
    """Silence ends sooner than the rebalance time-out."""
    driver = GroupDriver().stable("a", "b", "c")
    driver.join("a again", "a")
    driver.join("b again", "b")
    driver.advance(SESSION_MS)
    assert driver.errors("a again", "b again") == [E.NONE, E.NONE]
    assert set(driver.group.members) == {"a", "b"}


def test_nobody_joins_and_the_group_ends_empty() -> None:
    """A rebalance that nobody takes part in leaves an empty group, written as such."""
    driver = GroupDriver().stable("a", "b")
    driver.leave("b")
    assert driver.group.state is PREPARING
    driver.advance(SESSION_MS)
    assert (driver.group.state, driver.group.generation) == (GroupState.EMPTY, 2)
    stored = driver.confirm().group
    assert (stored.protocol_name, stored.leader, stored.members) == (None, None, ())
    assert (stored.protocol_type, stored.generation) == ("consumer", 2)
    assert driver.group.next_deadline_ms is None


# --- Static members ----------------------------------------------------------------------------


def statics(**changes: int) -> GroupDriver:
    """Return a stable group of the static members a (the leader) and b."""
    driver = GroupDriver()
    for name in "ab":
        driver.join(f"join {name}", new_member_id=name, instance_id=f"i{name}", **changes)
    driver.advance(2 * DELAY_MS)
    driver.assign("sync a")
    driver.sync("sync b", "b", instance_id="ib")
    driver.confirm()
    assert driver.group.state is GroupState.STABLE
    return driver


def test_static_members_that_do_not_join_in_time_stay() -> None:
    """They are in the next generation, but do not lead it, until their session ends."""
    driver = statics(session_timeout_ms=600_000)
    driver.join("r", new_member_id="n")
    driver.advance(REBALANCE_MS)
    answer = driver.joined["r"]
    assert (answer.error, answer.leader, answer.generation) == (E.NONE, "n", 2)
    assert [(member_id, instance) for member_id, instance, _ in answer.members] == [
        ("a", "ia"),
        ("b", "ib"),
        ("n", None),
    ]


def test_static_members_in_a_generation_have_to_sync_like_all() -> None:
    """Who neither joins nor syncs is dropped when the time for syncing is over."""
    driver = statics(session_timeout_ms=600_000)
    driver.join("r", new_member_id="n")
    driver.advance(REBALANCE_MS)
    driver.assign()
    driver.confirm()
    driver.keep_alive(REBALANCE_MS, "n")
    assert set(driver.group.members) == {"n"}


def test_a_rebalance_that_nobody_joins_waits_for_static_members() -> None:
    """With only static members left, the phase is prolonged until one comes back."""
    driver = statics(session_timeout_ms=600_000)
    driver.join("r", new_member_id="n")
    driver.leave("n")
    driver.advance(2 * REBALANCE_MS + 1)
    assert (driver.group.state, driver.group.generation) == (PREPARING, 1)
    driver.join("a again", new_member_id="a2", instance_id="ia")
    driver.advance(REBALANCE_MS)
    assert driver.errors("a again") == [E.NONE]
    assert set(driver.group.members) == {"a2", "b"}


def test_a_rebalance_that_nobody_joins_ends_with_the_sessions() -> None:
    """When the static members' sessions are over as well, the group is empty."""
    driver = statics(session_timeout_ms=150_000)
    driver.join("r", new_member_id="n")
    driver.leave("n")
    driver.advance(150_000)
    assert driver.group.state is GroupState.EMPTY
    assert driver.tick_count < 20


def test_a_rebalance_timeout_of_nothing_does_not_spin() -> None:
    """Static members that ask for no rebalance time at all do not keep the driver busy."""
    stored = statics(session_timeout_ms=60_000).group.stored()
    members = tuple(replace(member, rebalance_timeout_ms=0) for member in stored.members)
    driver = GroupDriver(group=Group.restore("g", replace(stored, members=members), now_ms=1_000))
    driver.join("r", new_member_id="n", rebalance_timeout_ms=0)
    driver.leave("n")
    driver.advance(60_000 - 1)
    assert (driver.group.state, len(driver.group.members)) == (PREPARING, 2)
    driver.advance(1)
    assert driver.group.state is GroupState.EMPTY
    assert driver.tick_count < 100


# --- A connection that is gone -----------------------------------------------------------------


def test_a_forgotten_join_is_not_answered_but_counts() -> None:
    """The member is in the next generation; it asks again, or its time to sync ends."""
    driver = GroupDriver()
    driver.join("r1", new_member_id="a")
    driver.join("r2", new_member_id="b")
    driver.group.forget_reply("r2")
    driver.advance(2 * DELAY_MS)
    assert driver.errors("r1", "r2") == [E.NONE, None]
    assert set(driver.group.members) == {"a", "b"}
    assert driver.join("r3", "b") is not None
    assert driver.errors("r2", "r3") == [None, E.NONE]


def test_a_forgotten_join_is_replaced_in_silence() -> None:
    """The next join of the member waits in its place."""
    driver = GroupDriver().stable("a", "b")
    driver.join("r1", "a")
    driver.group.forget_reply("r1")
    driver.join("r2", "a")
    driver.join("r3", "b")
    assert driver.errors("r1", "r2", "r3") == [None, E.NONE, E.NONE]


def test_forgetting_what_does_not_wait_changes_nothing() -> None:
    """Most connections end without anything parked."""
    driver = GroupDriver().stable("a")
    driver.group.forget_reply("join a")
    driver.group.forget_reply(object())
    assert driver.heartbeat("a") is E.NONE
