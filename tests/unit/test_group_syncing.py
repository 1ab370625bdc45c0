"""SyncGroup in every state: assignments are told once they are durable, and to all."""

from __future__ import annotations

from typing import Any

import pytest

from logd.policy.group.values import GroupState, Leaver, SyncAnswer
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import REBALANCE_MS, SESSION_MS, GroupDriver

PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE
E = ErrorCode


def told(assignment: bytes) -> SyncAnswer:
    """Return the answer that carries an assignment."""
    return SyncAnswer(E.NONE, "consumer", "range", assignment)


def driver_in(state: GroupState) -> GroupDriver:
    """Return a group of a (the leader) and b in a state; b has not synced in the first three."""
    driver = GroupDriver()
    if state is GroupState.EMPTY:
        return driver
    driver.completing("a", "b")
    if state is COMPLETING:
        return driver
    driver.assign("sync a")
    driver.confirm()
    if state is PREPARING:
        driver.join("a again", "a")
    if state is GroupState.DEAD:
        driver.carry_out(driver.group.die())
    return driver


# --- Refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [COMPLETING, STABLE])
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"member_id": "stranger"}, E.UNKNOWN_MEMBER_ID),
        ({"member_id": ""}, E.UNKNOWN_MEMBER_ID),
        ({"instance_id": "unknown"}, E.UNKNOWN_MEMBER_ID),
        ({"generation": 0}, E.ILLEGAL_GENERATION),
        ({"generation": 2}, E.ILLEGAL_GENERATION),
        ({"generation": -1}, E.ILLEGAL_GENERATION),
        ({"protocol_type": "connect"}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_type": ""}, E.INCONSISTENT_GROUP_PROTOCOL),
        ({"protocol_name": "sticky"}, E.INCONSISTENT_GROUP_PROTOCOL),
    ],
)
def test_a_sync_that_does_not_fit_is_refused(
    state: GroupState, changes: dict[str, Any], error: ErrorCode
) -> None:
    """Who it is, which generation and which protocol have to be right; the group is unharmed."""
    driver = driver_in(state)
    answer = driver.sync("r", **({"member_id": "a"} | changes))
    assert answer == SyncAnswer(error)
    assert driver.group.state is state
    assert not driver.writes


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (GroupState.EMPTY, E.UNKNOWN_MEMBER_ID),
        (PREPARING, E.REBALANCE_IN_PROGRESS),
        (GroupState.DEAD, E.COORDINATOR_NOT_AVAILABLE),
    ],
)
def test_states_in_which_nobody_syncs(state: GroupState, error: ErrorCode) -> None:
    """There is nothing to be told in an empty, a rebalancing or a dead group."""
    assert driver_in(state).sync("r", "b") == SyncAnswer(error)


def test_another_members_instance_is_fenced() -> None:
    """A sync under the instance id of somebody else is FENCED_INSTANCE_ID."""
    driver = GroupDriver()
    driver.join("join s", new_member_id="s", instance_id="i")
    driver.completing("a")
    assert driver.sync("r", "a", instance_id="i") == SyncAnswer(E.FENCED_INSTANCE_ID)


# --- The leader's word -------------------------------------------------------------------------


@pytest.mark.parametrize("leader_first", [True, False])
def test_assignments_are_told_when_they_are_durable(leader_first: bool) -> None:
    """Leader and followers wait for the write, in whatever order they came."""
    driver = GroupDriver().completing("a", "b", "c")
    for name in ("abc", "cba")[not leader_first]:
        if name == "a":
            driver.assign("sync a")
        else:
            driver.sync(f"sync {name}", name)
    assert driver.errors("sync a", "sync b", "sync c") == [None] * 3
    assert (driver.group.state, len(driver.writes)) == (COMPLETING, 1)
    write = driver.confirm()
    assert [driver.synced[f"sync {name}"] for name in "abc"] == [told(b"a"), told(b"b"), told(b"c")]
    assert driver.group.state is STABLE
    assert driver.group.stored() == write.group
    assert [(m.member_id, m.assignment) for m in write.group.members] == [
        ("a", b"a"),
        ("b", b"b"),
        ("c", b"c"),
    ]


def test_who_is_given_nothing_is_told_so() -> None:
    """Members that the leader leaves out get an empty assignment; strangers are left out."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b")
    driver.sync("sync a", "a", assignments=(("a", b"1"), ("stranger", b"2")))
    write = driver.confirm()
    assert (driver.synced["sync a"], driver.synced["sync b"]) == (told(b"1"), told(b""))
    assert [m.member_id for m in write.group.members] == ["a", "b"]


def test_a_followers_assignments_do_not_count() -> None:
    """Only the leader assigns."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b", assignments=(("b", b"mine"),))
    assert not driver.writes


def test_a_late_follower_is_told_at_once() -> None:
    """In a stable group a sync is answered, as often as it comes."""
    driver = driver_in(STABLE)
    assert driver.sync("r1", "b") == told(b"b")
    assert driver.sync("r2", "b", protocol_type="consumer", protocol_name="range") == told(b"b")


def test_the_leaders_first_word_counts() -> None:
    """A leader that syncs again while its write is under way does not write again."""
    driver = GroupDriver().completing("a", "b")
    driver.assign("r1")
    driver.sync("r2", "a", assignments=(("a", b"other"),))
    assert driver.errors("r1", "r2") == [E.REBALANCE_IN_PROGRESS, None]
    assert len(driver.writes) == 1
    driver.confirm()
    assert driver.synced["r2"] == told(b"a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (E.KAFKA_STORAGE_ERROR, E.NOT_COORDINATOR),
        (E.MESSAGE_TOO_LARGE, E.UNKNOWN_SERVER_ERROR),
        (E.UNKNOWN_TOPIC_OR_PARTITION, E.COORDINATOR_NOT_AVAILABLE),
        (E.REQUEST_TIMED_OUT, E.REBALANCE_IN_PROGRESS),
        (E.UNKNOWN_SERVER_ERROR, E.UNKNOWN_SERVER_ERROR),
    ],
)
def test_assignments_that_cannot_be_written_are_not_told(error: ErrorCode, said: ErrorCode) -> None:
    """All who wait get the error, in a code that they understand, and have to join again."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b")
    driver.assign("sync a")
    driver.confirm(error)
    assert driver.errors("sync a", "sync b") == [said, said]
    assert driver.synced["sync b"].assignment == b""
    assert driver.group.state is PREPARING
    assert driver.group.stored().generation == 0
    for name in "ab":
        driver.join(f"{name} again", name)
    assert driver.errors("a again", "b again") == [E.NONE, E.NONE]


@pytest.mark.parametrize("error", [None, E.KAFKA_STORAGE_ERROR])
def test_a_write_that_ends_too_late_is_out_of_date(error: ErrorCode | None) -> None:
    """Assignments of a generation that has ended meanwhile are told to nobody."""
    driver = GroupDriver().completing("a", "b")
    driver.assign("sync a")
    driver.join("b again", "b", protocols=(("range", b"changed"),))
    assert driver.errors("sync a") == [E.REBALANCE_IN_PROGRESS]
    driver.confirm(error)
    assert driver.group.state is PREPARING
    driver.join("a again", "a")
    assert driver.group.generation == 2
    assert driver.group.members["a"].assignment == b""
    driver.assign("sync a 2")
    assert len(driver.writes) == 1
    driver.confirm()
    assert driver.synced["sync a 2"] == told(b"a")


def test_writes_of_two_generations_end_in_order() -> None:
    """The older one changes nothing for the newer generation, which waits for its own."""
    driver = GroupDriver().completing("a")
    driver.assign("sync 1")
    driver.join("again", "a", protocols=(("range", b"changed"),))
    driver.assign("sync 2")
    assert len(driver.writes) == 2
    driver.confirm()
    assert (driver.group.state, driver.group.stored().generation) == (COMPLETING, 1)
    driver.confirm()
    assert (driver.group.state, driver.group.stored().generation) == (STABLE, 2)


# --- Time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("synced", ["a", "b", ""])
def test_who_does_not_sync_in_time_is_dropped(synced: str) -> None:
    """After the rebalance time-out the others, leader or not, join again without them."""
    driver = GroupDriver().completing("a", "b")
    if synced == "a":
        driver.assign("r")
        driver.confirm()
    elif synced:
        driver.sync("r", synced)
    driver.keep_alive(REBALANCE_MS - 1, "a", "b")
    assert set(driver.group.members) == {"a", "b"}
    driver.keep_alive(1, "a", "b")
    assert set(driver.group.members) == set(synced)
    assert driver.group.state is (PREPARING if synced else GroupState.EMPTY)
    if synced == "b":
        assert driver.errors("r") == [E.REBALANCE_IN_PROGRESS]


def test_when_all_have_synced_nobody_is_dropped() -> None:
    """The time-out ends with the last sync."""
    driver = GroupDriver().stable("a", "b")
    driver.keep_alive(3 * REBALANCE_MS, "a", "b")
    assert driver.group.state is STABLE
    assert driver.group.generation == 1


def test_a_member_that_waits_for_the_leader_keeps_its_session() -> None:
    """A follower is not dropped for silence while its sync is parked; told, it begins anew."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b")
    driver.keep_alive(REBALANCE_MS - 1, "a")
    assert "b" in driver.group.members
    driver.assign("sync a")
    driver.confirm()
    driver.keep_alive(SESSION_MS - 1, "a")
    assert "b" in driver.group.members
    driver.keep_alive(1, "a")
    assert "b" not in driver.group.members


def test_a_leader_that_falls_silent_makes_the_others_join_again() -> None:
    """Its session ends before the time for syncing does; who waits is told to join again."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b")
    driver.advance(SESSION_MS)
    assert driver.errors("sync b") == [E.REBALANCE_IN_PROGRESS]
    assert (set(driver.group.members), driver.group.leader) == ({"b"}, "b")


def test_a_member_that_leaves_while_it_waits_is_answered() -> None:
    """Its parked sync is told UNKNOWN_MEMBER_ID, everybody else's to join again."""
    driver = GroupDriver().completing("a", "b", "c")
    driver.sync("sync b", "b")
    driver.sync("sync c", "c")
    assert driver.leave(Leaver("b", None)) == [E.NONE]
    assert driver.errors("sync b", "sync c") == [E.UNKNOWN_MEMBER_ID, E.REBALANCE_IN_PROGRESS]


def test_a_newcomer_interrupts_the_syncing() -> None:
    """A join of a new member while others wait for the leader makes them join again."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("sync b", "b")
    driver.join("r", new_member_id="n")
    assert driver.errors("sync b", "r") == [E.REBALANCE_IN_PROGRESS, None]
    assert driver.group.state is PREPARING


def test_a_forgotten_sync_is_not_answered() -> None:
    """The assignment is in force all the same, and told when the member asks again."""
    driver = GroupDriver().completing("a", "b")
    driver.sync("r1", "b")
    driver.group.forget_reply("r1")
    driver.assign("sync a")
    driver.confirm()
    assert driver.errors("r1", "sync a") == [None, E.NONE]
    assert driver.sync("r2", "b") == told(b"b")
