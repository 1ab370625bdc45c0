"""Heartbeats and commits in every state, what is kept, and what comes back after a crash."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from logd.policy.group.core import NOTHING_STORED
from logd.policy.group.group import Group
from logd.policy.group.values import GroupState
from logd.record.group_records import NO_TIMEOUT, GroupMember, GroupValue
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import SESSION_MS, GroupDriver, limits

EMPTY = GroupState.EMPTY
PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE
DEAD = GroupState.DEAD
E = ErrorCode


def subscription(*topics: str, version: int = 0) -> bytes:
    """Return a consumer's metadata."""
    names = b"".join(struct.pack(">h", len(t.encode())) + t.encode() for t in topics)
    return struct.pack(">hi", version, len(topics)) + names + b"\xff\xff\xff\xff"


def driver_in(state: GroupState) -> GroupDriver:
    """Return a group of a and the static member s, instance i; empty and dead ones had members."""
    driver = GroupDriver()
    driver.join("join a", new_member_id="a")
    driver.join("join s", new_member_id="s", instance_id="i")
    driver.advance(6_000)
    if state is COMPLETING:
        return driver
    driver.assign("sync a")
    driver.sync("sync s", "s", instance_id="i")
    driver.confirm()
    if state is PREPARING:
        driver.join("n", new_member_id="n")
    elif state is EMPTY:
        driver.leave("a", "s")
        driver.confirm()
    elif state is DEAD:
        driver.carry_out(driver.group.die())
    assert driver.group.state is state
    return driver


# --- Heartbeats and commits --------------------------------------------------------------------

# What a heartbeat and a commit are told in the states that have members, in this order.
WITH_MEMBERS = (PREPARING, COMPLETING, STABLE)
SENDERS = [
    # member, generation, instance, heartbeat, commit
    ("a", 1, None, [E.REBALANCE_IN_PROGRESS, E.NONE, E.NONE], [E.NONE, E.REBALANCE_IN_PROGRESS]),
    ("s", 1, "i", [E.REBALANCE_IN_PROGRESS, E.NONE, E.NONE], [E.NONE, E.REBALANCE_IN_PROGRESS]),
    ("s", 1, None, [E.REBALANCE_IN_PROGRESS, E.NONE, E.NONE], [E.NONE, E.REBALANCE_IN_PROGRESS]),
    ("a", 0, None, [E.ILLEGAL_GENERATION] * 3, [E.ILLEGAL_GENERATION] * 2),
    ("a", 2, None, [E.ILLEGAL_GENERATION] * 3, [E.ILLEGAL_GENERATION] * 2),
    ("a", -1, None, [E.ILLEGAL_GENERATION] * 3, [E.ILLEGAL_GENERATION] * 2),
    ("stranger", 1, None, [E.UNKNOWN_MEMBER_ID] * 3, [E.UNKNOWN_MEMBER_ID] * 2),
    ("stranger", 9, None, [E.UNKNOWN_MEMBER_ID] * 3, [E.UNKNOWN_MEMBER_ID] * 2),
    ("", -1, None, [E.UNKNOWN_MEMBER_ID] * 3, [E.UNKNOWN_MEMBER_ID] * 2),
    ("", -1, "i", [E.FENCED_INSTANCE_ID] * 3, [E.FENCED_INSTANCE_ID] * 2),
    ("a", 1, "i", [E.FENCED_INSTANCE_ID] * 3, [E.FENCED_INSTANCE_ID] * 2),
    ("a", 1, "unknown", [E.UNKNOWN_MEMBER_ID] * 3, [E.UNKNOWN_MEMBER_ID] * 2),
]


@pytest.mark.parametrize(("member_id", "generation", "instance_id", "beats", "commits"), SENDERS)
def test_heartbeats_and_commits_of_a_group_with_members(
    member_id: str,
    generation: int,
    instance_id: str | None,
    beats: list[ErrorCode],
    commits: list[ErrorCode],
) -> None:
    """Commits go on while others join, and stop until the own part of a generation is known."""
    # While stable, a commit is told what it is while members join.
    for state, beat, commit in zip(WITH_MEMBERS, beats, [*commits, commits[0]], strict=True):
        driver = driver_in(state)
        told = driver.heartbeat(member_id, generation=generation, instance_id=instance_id)
        assert told is beat, state
        told = driver.check_commit(member_id, generation=generation, instance_id=instance_id)
        assert told is commit, state
        assert driver.group.state is state


@pytest.mark.parametrize(
    ("member_id", "generation", "instance_id", "commit"),
    [
        ("", -1, None, E.NONE),  # a simple consumer, or an administrator
        ("anybody", -1, None, E.NONE),
        ("", -1, "i", E.NONE),
        ("", 0, None, E.UNKNOWN_MEMBER_ID),
        ("a", 1, None, E.UNKNOWN_MEMBER_ID),
        ("a", 2, None, E.UNKNOWN_MEMBER_ID),
        ("s", 2, "i", E.UNKNOWN_MEMBER_ID),
    ],
)
def test_commits_to_an_empty_group(
    member_id: str, generation: int, instance_id: str | None, commit: ErrorCode
) -> None:
    """Without a generation they are taken; there is no member to send one with."""
    driver = driver_in(EMPTY)
    told = driver.check_commit(member_id, generation=generation, instance_id=instance_id)
    assert told is commit
    told = driver.heartbeat(member_id, generation=generation, instance_id=instance_id)
    assert told is E.UNKNOWN_MEMBER_ID


@pytest.mark.parametrize(("member_id", "generation"), [("a", 1), ("", -1), ("stranger", 9)])
def test_a_dead_group_answers_that_it_is_gone(member_id: str, generation: int) -> None:
    """Heartbeats and commits alike look for the coordinator again."""
    driver = driver_in(DEAD)
    assert driver.heartbeat(member_id, generation=generation) is E.COORDINATOR_NOT_AVAILABLE
    assert driver.check_commit(member_id, generation=generation) is E.COORDINATOR_NOT_AVAILABLE


def test_a_pending_member_is_no_member() -> None:
    """An id that has not joined yet can neither send heartbeats nor commit."""
    driver = driver_in(STABLE)
    driver.join("r", new_member_id="n", needs_member_id=True)
    assert driver.heartbeat("n") is E.UNKNOWN_MEMBER_ID
    assert driver.check_commit("n") is E.UNKNOWN_MEMBER_ID


# --- Death -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(GroupState))
def test_a_group_dies_in_any_state(state: GroupState) -> None:
    """Who waits is told to look again; afterwards nothing happens any more."""
    driver = driver_in(state)
    if state is COMPLETING:
        driver.sync("r", "s")
    driver.join("p", needs_member_id=True)
    driver.carry_out(driver.group.die())
    assert driver.group.state is DEAD
    if state is PREPARING:
        assert driver.errors("n") == [E.COORDINATOR_NOT_AVAILABLE]
    if state is COMPLETING:
        assert driver.errors("r") == [E.COORDINATOR_NOT_AVAILABLE]
    assert driver.group.next_deadline_ms is None
    assert driver.group.tick(driver.now_ms + 1_000_000) == []


def test_a_write_may_end_after_its_group() -> None:
    """What was under way when the group died is confirmed to nobody."""
    driver = driver_in(COMPLETING)
    driver.assign("sync a")
    driver.carry_out(driver.group.die())
    assert driver.errors("sync a") == [E.COORDINATOR_NOT_AVAILABLE]
    driver.confirm()
    assert driver.group.state is DEAD


# --- What is kept ------------------------------------------------------------------------------


def test_what_is_kept_is_what_was_durable_last() -> None:
    """A rebalance changes nothing of it until its assignments are written."""
    driver = GroupDriver()
    assert driver.group.stored() == NOTHING_STORED
    driver.completing("a", "b")
    assert driver.group.stored() == NOTHING_STORED
    driver.assign("sync a")
    assert driver.group.stored() == NOTHING_STORED
    first = driver.confirm().group
    assert driver.group.stored() == first
    driver.join("a again", "a")
    driver.join("b again", "b")
    assert driver.group.generation == 2
    assert driver.group.stored() == first


def test_a_group_comes_back_as_it_was_kept() -> None:
    """Members, lead, generation and assignments are there, and everybody may go on."""
    stored = driver_in(STABLE).group.stored()
    driver = GroupDriver(group=Group.restore("g", stored, now_ms=50), now_ms=50)
    group = driver.group
    assert (group.state, group.generation, group.leader) == (STABLE, 1, "a")
    assert (group.protocol_type, group.protocol_name) == ("consumer", "range")
    assert group.stored() == stored
    for name in ("a", "s"):
        assert driver.heartbeat(name) is E.NONE
        assert driver.check_commit(name) is E.NONE
        answer = driver.sync(f"sync {name}", name)
        assert answer is not None
        assert answer.assignment == name.encode()
    assert driver.heartbeat("s", instance_id="i") is E.NONE
    member = group.members["s"]
    assert (member.instance_id, member.client_id, member.client_host) == (
        "i",
        "client",
        "127.0.0.1",
    )


def test_members_that_do_not_come_back_are_dropped_after_a_session() -> None:
    """Each has the whole of its session time-out to be heard of after a start."""
    stored = driver_in(STABLE).group.stored()
    driver = GroupDriver(group=Group.restore("g", stored, now_ms=50), now_ms=50)
    driver.advance(SESSION_MS - 1)
    assert driver.group.state is STABLE
    driver.advance(1)
    assert (driver.group.state, driver.group.generation) == (EMPTY, 2)


def test_the_generation_goes_on_from_what_was_kept() -> None:
    """After a start a rebalance leads to the next generation, not to one that was there."""
    stored = driver_in(STABLE).group.stored()
    driver = GroupDriver(group=Group.restore("g", stored, now_ms=50), now_ms=50)
    driver.leave("s")
    driver.join("a again", "a")
    assert driver.joined["a again"].generation == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"members": (), "leader": None, "protocol_name": None},
        {"members": ()},
        {"protocol_name": None},
    ],
)
def test_a_group_without_members_or_protocol_comes_back_empty(changes: dict[str, object]) -> None:
    """Its generation and protocol type are kept; anybody may join."""
    stored = replace(driver_in(STABLE).group.stored(), **changes)
    driver = GroupDriver(group=Group.restore("g", stored, now_ms=50), now_ms=50)
    assert (driver.group.state, driver.group.generation) == (EMPTY, 1)
    assert driver.group.protocol_type == "consumer"
    assert driver.group.next_deadline_ms is None
    driver.join("r")
    driver.advance(6_000)
    assert driver.joined["r"].generation == 2


def test_a_group_that_only_had_commits_comes_back_without_a_type() -> None:
    """No protocol type is no type at all, not an empty one."""
    assert Group.restore("g", NOTHING_STORED, now_ms=0).protocol_type is None


def test_a_log_with_doubtful_members_is_read() -> None:
    """Of members with one id, or one instance id, the first counts; an unknown leader does not."""

    def member(member_id: str, instance_id: str | None) -> GroupMember:
        return GroupMember(member_id, instance_id, "c", "h", 60_000, 10_000, b"", b"")

    members = (member("a", "i"), member("a", None), member("b", "i"), member("c", None))
    stored = GroupValue("consumer", 3, "range", "gone", -1, members)
    group = Group.restore("g", stored, now_ms=0)
    assert set(group.members) == {"a", "c"}
    assert group.leader == "a"


def test_a_member_of_an_old_log_rejoins_within_its_session_time_out() -> None:
    """The first version of the format has no rebalance time-out; the session's counts."""
    kept = GroupMember("a", None, "c", "h", NO_TIMEOUT, 10_000, b"", b"")
    group = Group.restore("g", GroupValue("consumer", 3, "range", "a", -1, (kept,)), now_ms=0)
    assert group.members["a"].rebalance_timeout_ms == 10_000


def test_a_group_that_is_too_large_after_a_start_joins_again() -> None:
    """Where group.max.size was lowered, its members join again and the last ones are refused."""
    stored = GroupDriver().stable(*"abc").group.stored()
    small = limits(members_max=2)
    assert Group.restore("g", stored, now_ms=0, limits=limits(members_max=3)).state is STABLE
    group = Group.restore("g", stored, now_ms=0, limits=small)
    assert group.state is PREPARING
    driver = GroupDriver(group=group, now_ms=0, members_max=2)
    for name in "abc":
        driver.join(f"{name} again", name)
    assert driver.errors("a again", "b again", "c again") == [
        E.NONE,
        E.NONE,
        E.GROUP_MAX_SIZE_REACHED,
    ]


# --- Subscriptions -----------------------------------------------------------------------------


def subscribed(*metadata: bytes, protocol_type: str = "consumer") -> GroupDriver:
    """Return a group whose members said these things."""
    driver = GroupDriver()
    for number, one in enumerate(metadata):
        driver.join(
            number,
            new_member_id=f"m{number}",
            protocols=(("range", one),),
            protocol_type=protocol_type,
        )
    driver.advance(6_000)
    return driver


def test_the_topics_of_all_members_are_known() -> None:
    """Whatever version a subscription has, its topics stand at the same place."""
    driver = subscribed(subscription("t", "u"), subscription("u", "v", version=3))
    assert driver.group.subscribed_topics() == {"t", "u", "v"}
    restored = driver.group
    assert restored.subscribed_topics() is restored.subscribed_topics()


@pytest.mark.parametrize(
    ("driver", "topics"),
    [
        (subscribed(subscription("t"), b"junk"), None),
        (subscribed(subscription("t"), protocol_type="connect"), None),
        (subscribed(subscription()), frozenset()),
        (GroupDriver(), None),
    ],
)
def test_topics_that_are_not_known(driver: GroupDriver, topics: frozenset[str] | None) -> None:
    """None says that every topic may be subscribed to; that is not the same as no topic."""
    assert driver.group.subscribed_topics() == topics


def test_topics_before_and_after_a_generation() -> None:
    """Members that join for the first time have subscribed to nobody knows what; gone, to none."""
    driver = GroupDriver()
    driver.join("r", new_member_id="a", protocols=(("range", subscription("t")),))
    assert driver.group.subscribed_topics() is None
    driver.advance(6_000)
    assert driver.group.subscribed_topics() == {"t"}
    driver.leave("a")
    assert driver.group.state is EMPTY
    assert driver.group.subscribed_topics() == frozenset()


def test_topics_are_known_after_a_start() -> None:
    """They are read from what was kept."""
    driver = GroupDriver().stable("a", protocols=(("range", subscription("t")),))
    restored = Group.restore("g", driver.group.stored(), now_ms=0)
    assert restored.subscribed_topics() == {"t"}
