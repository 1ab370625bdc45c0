"""JoinGroup in every state: who is taken in, who is refused, and what begins a rebalance."""

from __future__ import annotations

from typing import Any

import pytest

from logd.policy.group.member import NEW_MEMBER_WAIT_MS
from logd.policy.group.values import GroupState, Leaver
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import DELAY_MS, REBALANCE_MS, SESSION_MS, TWO, GroupDriver

PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
E = ErrorCode


def driver_in(state: GroupState) -> GroupDriver:
    """Return a group of a (the leader), b and the static member s, in a state."""
    driver = GroupDriver()
    if state is GroupState.EMPTY:
        return driver
    for name in ("a", "b"):
        driver.join(f"join {name}", new_member_id=name)
    driver.join("join s", new_member_id="s", instance_id="i")
    driver.advance(2 * DELAY_MS)
    if state is COMPLETING:
        return driver
    driver.assign("sync a")
    driver.sync("sync b", "b")
    driver.sync("sync s", "s", instance_id="i")
    driver.confirm()
    if state is PREPARING:
        driver.join("a again", "a")
    if state is GroupState.DEAD:
        driver.carry_out(driver.group.die())
    assert driver.group.state is state
    return driver


# --- Refusals: the group is unharmed -----------------------------------------------------------


@pytest.mark.parametrize("state", list(GroupState))
@pytest.mark.parametrize("session_ms", [-1, 0, 5_999, 1_800_001])
def test_a_session_timeout_out_of_bounds_is_refused(state: GroupState, session_ms: int) -> None:
    """A session time-out below the minimum or above the maximum is INVALID_SESSION_TIMEOUT."""
    driver = driver_in(state)
    answer = driver.join("r", session_timeout_ms=session_ms)
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.INVALID_SESSION_TIMEOUT, "")
    assert driver.group.state is state


@pytest.mark.parametrize("state", [GroupState.EMPTY, PREPARING, COMPLETING, GroupState.STABLE])
@pytest.mark.parametrize(
    "changes",
    [{"protocol_type": ""}, {"protocols": ()}, {"needs_member_id": True, "protocols": ()}],
)
def test_no_protocol_is_refused(state: GroupState, changes: dict[str, Any]) -> None:
    """An empty protocol type or an empty list of protocols is INCONSISTENT_GROUP_PROTOCOL."""
    driver = driver_in(state)
    answer = driver.join("r", **changes)
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.INCONSISTENT_GROUP_PROTOCOL, "")
    assert (answer.protocol_type, answer.protocol_name) == (None, None)
    assert driver.group.state is state
    assert driver.group.pending_count == 0


@pytest.mark.parametrize("state", [PREPARING, COMPLETING, GroupState.STABLE])
@pytest.mark.parametrize(
    "changes", [{"protocol_type": "connect"}, {"protocols": (("other", b""),)}]
)
@pytest.mark.parametrize("member_id", ["", "a"])
def test_another_protocol_is_refused(
    state: GroupState, changes: dict[str, Any], member_id: str
) -> None:
    """Another type, or no protocol in common with the members, is INCONSISTENT_GROUP_PROTOCOL."""
    driver = driver_in(state)
    answer = driver.join("r", member_id, **changes)
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.INCONSISTENT_GROUP_PROTOCOL, member_id)
    assert driver.group.state is state
    assert set(driver.group.members) == {"a", "b", "s"}


@pytest.mark.parametrize(
    ("member_id", "instance_id", "error"),
    [
        ("stranger", None, E.UNKNOWN_MEMBER_ID),
        ("stranger", "i", E.FENCED_INSTANCE_ID),
        ("a", "i", E.FENCED_INSTANCE_ID),
        ("a", "unknown instance", E.UNKNOWN_MEMBER_ID),
        ("s", "unknown instance", E.UNKNOWN_MEMBER_ID),
    ],
)
@pytest.mark.parametrize("state", [PREPARING, COMPLETING, GroupState.STABLE])
def test_a_member_that_is_not_known_is_refused(
    state: GroupState, member_id: str, instance_id: str | None, error: ErrorCode
) -> None:
    """An unknown id is UNKNOWN_MEMBER_ID, another's instance id is FENCED_INSTANCE_ID."""
    driver = driver_in(state)
    answer = driver.join("r", member_id, instance_id=instance_id)
    assert answer is not None
    assert (answer.error, answer.member_id, answer.generation) == (error, member_id, -1)
    assert driver.group.state is state


def test_an_empty_group_knows_no_member() -> None:
    """A member id that an empty group never gave out is UNKNOWN_MEMBER_ID."""
    answer = GroupDriver().join("r", "a")
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.UNKNOWN_MEMBER_ID, "a")


@pytest.mark.parametrize("member_id", ["", "a"])
def test_a_dead_group_takes_nobody(member_id: str) -> None:
    """A join that reaches a dead group is told to look for the coordinator again."""
    answer = driver_in(GroupState.DEAD).join("r", member_id)
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.COORDINATOR_NOT_AVAILABLE, member_id)


# --- Member ids --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [GroupState.EMPTY, PREPARING, COMPLETING, GroupState.STABLE])
def test_a_newcomer_is_told_its_id_first(state: GroupState) -> None:
    """MEMBER_ID_REQUIRED carries the id, the state stays, and the next join makes the member."""
    driver = driver_in(state)
    answer = driver.join("r1", needs_member_id=True, new_member_id="n")
    assert answer is not None
    assert (answer.error, answer.member_id) == (E.MEMBER_ID_REQUIRED, "n")
    assert driver.group.state is state
    assert "n" not in driver.group.members
    assert driver.group.pending_count == 1
    assert driver.join("r2", "n", needs_member_id=True) is None
    assert driver.group.state is PREPARING
    assert "n" in driver.group.members
    assert driver.group.pending_count == 0


def test_an_id_that_is_not_used_lapses_with_its_session() -> None:
    """After the session time-out an id that was given out is unknown."""
    driver = GroupDriver()
    driver.join("r1", needs_member_id=True, new_member_id="n")
    driver.advance(SESSION_MS - 1)
    assert driver.group.pending_count == 1
    driver.advance(1)
    assert driver.group.pending_count == 0
    assert driver.group.next_deadline_ms is None
    driver.join("r2", "n")
    assert driver.errors("r2") == [E.UNKNOWN_MEMBER_ID]


def test_a_rebalance_waits_for_an_id_that_was_given_out() -> None:
    """Members that are about to join are waited for, until their ids lapse."""
    driver = GroupDriver().stable("a")
    driver.join("r1", needs_member_id=True, new_member_id="n")
    assert driver.join("a again", "a") is None
    driver.advance(SESSION_MS - 1)
    assert driver.group.state is PREPARING
    driver.advance(1)
    assert driver.errors("a again") == [E.NONE]
    assert driver.group.state is COMPLETING


def test_a_rebalance_goes_on_when_an_id_is_handed_back() -> None:
    """A pending member that leaves is not waited for any longer."""
    driver = GroupDriver().stable("a")
    driver.join("r1", needs_member_id=True, new_member_id="n")
    driver.join("a again", "a")
    assert driver.leave("n") == [E.NONE]
    assert driver.errors("a again") == [E.NONE]


def test_handing_an_id_back_leaves_a_stable_group_alone() -> None:
    """Nobody joins again for an id that never became a member."""
    driver = GroupDriver().stable("a")
    driver.join("r1", needs_member_id=True, new_member_id="n")
    assert driver.leave("n") == [E.NONE]
    assert driver.group.state is GroupState.STABLE
    assert driver.group.pending_count == 0


def test_a_pending_id_is_no_static_member() -> None:
    """A join with a pending id and an instance id is refused, and the id stays."""
    driver = GroupDriver()
    driver.join("r1", needs_member_id=True, new_member_id="n")
    driver.join("r2", "n", instance_id="i")
    assert driver.errors("r2") == [E.UNKNOWN_MEMBER_ID]
    assert driver.group.pending_count == 1


def test_a_static_newcomer_needs_no_id() -> None:
    """A static member is taken in with its first join, whatever the version."""
    driver = GroupDriver()
    assert driver.join("r1", new_member_id="s", instance_id="i", needs_member_id=True) is None
    assert set(driver.group.members) == {"s"}


# --- The size of a group -----------------------------------------------------------------------


@pytest.mark.parametrize("needs_member_id", [False, True])
@pytest.mark.parametrize("instance", [False, True])
def test_one_member_too_many_is_refused(needs_member_id: bool, instance: bool) -> None:
    """Of n + 1 newcomers one is told GROUP_MAX_SIZE_REACHED; who is in may join again."""
    driver = GroupDriver(members_max=3)
    names = ["a", "b", "c", "d"]
    for name in names:
        driver.join(
            f"{name}1",
            new_member_id=name,
            instance_id="i" + name if instance else None,
            needs_member_id=needs_member_id,
        )
    if needs_member_id and not instance:
        for name in names[:3]:
            driver.join(f"{name}2", name, needs_member_id=True)
    driver.advance(2 * DELAY_MS)
    assert driver.errors("d1") == [E.GROUP_MAX_SIZE_REACHED]
    assert driver.joined["d1"].member_id == ""
    assert set(driver.group.members) == set(names[:3])
    assert driver.group.state is COMPLETING
    for name in names:
        driver.join(f"{name}3", name, instance_id="i" + name if instance else None)
    assert driver.errors("a3", "b3", "c3", "d3") == [E.NONE] * 3 + [E.GROUP_MAX_SIZE_REACHED]


def test_ids_that_were_given_out_count() -> None:
    """Who asks for ids and never uses them cannot have more of them than the group has places."""
    driver = GroupDriver(members_max=3)
    for number in range(5):
        driver.join(number, needs_member_id=True, new_member_id=f"n{number}")
    assert driver.errors(*range(5)) == [E.MEMBER_ID_REQUIRED] * 3 + [E.GROUP_MAX_SIZE_REACHED] * 2
    driver.advance(SESSION_MS)
    driver.join(5, needs_member_id=True)
    assert driver.errors(5) == [E.MEMBER_ID_REQUIRED]


def test_a_full_stable_group_refuses_newcomers_and_keeps_its_members() -> None:
    """A refused newcomer does not begin a rebalance; a static member takes its own place again."""
    driver = GroupDriver(members_max=3)
    driver.join("join s", new_member_id="s", instance_id="i")
    driver.stable("a", "b")
    driver.join("r1")
    assert driver.errors("r1") == [E.GROUP_MAX_SIZE_REACHED]
    assert driver.group.state is GroupState.STABLE
    driver.join("r2", "b")
    driver.join("r3", new_member_id="s2", instance_id="i")
    driver.confirm()
    assert driver.errors("r2", "r3") == [E.NONE, E.NONE]
    assert set(driver.group.members) == {"a", "b", "s2"}


def test_the_last_to_join_a_group_that_has_become_too_large_are_dropped() -> None:
    """Where the limit was lowered, those go who join again last, and the rest goes on."""
    driver = GroupDriver(members_max=5).stable("a", "b", "c", "d", "e")
    driver.limits = GroupDriver(members_max=3).limits
    for name in "abcde":
        driver.join(f"{name} again", name)
    assert driver.errors(*(f"{name} again" for name in "abc")) == [E.NONE] * 3
    assert driver.errors("d again", "e again") == [E.GROUP_MAX_SIZE_REACHED] * 2
    assert set(driver.group.members) == {"a", "b", "c"}


# --- Joining again -----------------------------------------------------------------------------


def test_a_follower_that_lost_an_answer_gets_it_again() -> None:
    """While stable, an unchanged follower is told of the current generation, without a list."""
    driver = driver_in(GroupState.STABLE)
    answer = driver.join("r", "b")
    assert answer is not None
    assert (answer.error, answer.generation, answer.leader) == (E.NONE, 1, "a")
    assert (answer.protocol_type, answer.protocol_name) == ("consumer", "range")
    assert answer.members == ()
    assert driver.group.state is GroupState.STABLE


def test_the_leader_of_a_stable_group_begins_a_rebalance() -> None:
    """A leader joins again for what is not in its metadata: everybody has to."""
    driver = driver_in(GroupState.STABLE)
    assert driver.join("r", "a") is None
    assert driver.group.state is PREPARING


@pytest.mark.parametrize("state", [COMPLETING, GroupState.STABLE])
@pytest.mark.parametrize("protocols", [(("range", b"other"),), (*TWO,)])
def test_a_changed_member_begins_a_rebalance(
    state: GroupState, protocols: tuple[tuple[str, bytes], ...]
) -> None:
    """Other metadata, or another list of protocols, is known to the next generation."""
    driver = driver_in(state)
    assert driver.join("r", "b", protocols=protocols) is None
    assert driver.group.state is PREPARING
    assert driver.group.members["b"].metadata("range") == dict(protocols)["range"]


def test_the_order_of_protocols_is_part_of_what_a_member_says() -> None:
    """Preferring another protocol is a change."""
    driver = GroupDriver().stable("a", "b", protocols=TWO)
    assert driver.join("same", "b", protocols=TWO) is not None
    assert driver.join("turned", "b", protocols=TWO[::-1]) is None


@pytest.mark.parametrize("member_id", ["a", "b"])
def test_a_lost_answer_of_a_new_generation_is_given_again(member_id: str) -> None:
    """While completing, unchanged members are told again; the leader with all the members."""
    driver = driver_in(COMPLETING)
    first = driver.joined[f"join {member_id}"]
    assert driver.join("r", member_id) == first
    assert bool(first.members) == (member_id == "a")
    assert driver.group.state is COMPLETING


def test_joining_again_renews_the_session() -> None:
    """Who asks for a lost answer is alive."""
    driver = GroupDriver().stable("a", "b")
    driver.keep_alive(SESSION_MS - 1, "a")
    driver.join("r", "b")
    driver.keep_alive(SESSION_MS - 1, "a")
    assert "b" in driver.group.members


def test_a_second_join_of_a_waiting_member_ends_the_first() -> None:
    """The older request is answered, so that no reply is left over, and the newer one waits."""
    driver = driver_in(PREPARING)
    driver.join("r1", "b")
    assert driver.join("r2", "b") is None
    assert driver.errors("r1") == [E.REBALANCE_IN_PROGRESS]
    driver.join("r3", "s", instance_id="i")
    assert driver.errors("a again", "r2", "r3") == [E.NONE] * 3


def test_of_a_protocol_that_is_named_twice_the_first_counts() -> None:
    """A list with duplicates neither confuses the vote nor the metadata."""
    driver = GroupDriver()
    driver.completing("a", "b", protocols=(("range", b"1"), ("range", b"2")))
    assert driver.group.protocol_name == "range"
    assert driver.group.members["a"].metadata("range") == b"1"


# --- Choosing a protocol -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "chosen"),
    [
        (["xy", "yx", "yx"], "y"),
        (["xy", "xy", "yx"], "x"),
        (["xyz", "zy", "yz"], "y"),  # x is not common; y has the votes of the first and the last
        (["xy", "yx"], "x"),  # a draw: the older member's
        (["xz", "zy", "z"], "z"),
    ],
)
def test_members_vote_among_the_common_protocols(lists: list[str], chosen: str) -> None:
    """Each votes for the first in its list that all support, and the most votes win."""
    driver = GroupDriver()
    for number, names in enumerate(lists):
        protocols = tuple((name, f"{name}{number}".encode()) for name in names)
        driver.join(number, new_member_id=f"m{number}", protocols=protocols)
    driver.advance(2 * DELAY_MS)
    answer = driver.joined[0]
    assert answer.protocol_name == chosen
    expected = [(f"m{n}", None, f"{chosen}{n}".encode()) for n in range(len(lists))]
    assert list(answer.members) == expected


def test_who_shares_a_protocol_with_some_only_is_refused() -> None:
    """Every pair may have one in common, yet all three have none: the third is refused."""
    driver = GroupDriver()
    for number, names in enumerate(["xy", "yz", "zx"]):
        driver.join(number, protocols=tuple((name, b"") for name in names))
    assert driver.errors(0, 1, 2) == [None, None, E.INCONSISTENT_GROUP_PROTOCOL]


def test_an_empty_group_may_take_another_protocol_type() -> None:
    """What the members were once does not bind those that come later."""
    driver = GroupDriver().stable("a")
    driver.leave("a")
    driver.confirm()
    driver.join("r", protocol_type="connect", protocols=(("v2", b""),))
    driver.advance(DELAY_MS)
    assert driver.joined["r"].protocol_type == "connect"


# --- Waiting -----------------------------------------------------------------------------------


def test_a_newcomer_waits_longer_than_its_session_but_not_forever() -> None:
    """New members have no heartbeat to send: five minutes hold, then UNKNOWN_MEMBER_ID."""
    long_ms = 3 * NEW_MEMBER_WAIT_MS
    driver = GroupDriver().stable("a", rebalance_timeout_ms=long_ms)
    driver.join("r", new_member_id="n", rebalance_timeout_ms=long_ms)
    driver.keep_alive(NEW_MEMBER_WAIT_MS - 1, "a")
    assert driver.errors("r") == [None]
    driver.keep_alive(2, "a")
    assert driver.errors("r") == [E.UNKNOWN_MEMBER_ID]
    assert driver.joined["r"].member_id == ""
    assert set(driver.group.members) == {"a"}


def test_a_newcomer_that_asks_again_waits_anew() -> None:
    """A client that knows its id, and repeats its join, is not a dead one."""
    long_ms = 3 * NEW_MEMBER_WAIT_MS
    driver = GroupDriver().stable("a", rebalance_timeout_ms=long_ms)
    driver.join("r1", new_member_id="n", rebalance_timeout_ms=long_ms)
    driver.keep_alive(NEW_MEMBER_WAIT_MS - 1, "a")
    driver.join("r2", "n", rebalance_timeout_ms=long_ms)
    driver.keep_alive(NEW_MEMBER_WAIT_MS - 1, "a")
    assert driver.errors("r1", "r2") == [E.REBALANCE_IN_PROGRESS, None]


def test_protocols_that_nobody_supports_any_more_are_not_kept() -> None:
    """A member that says something new with each join does not make the group grow."""
    driver = GroupDriver().completing("a", protocols=TWO)
    for number in range(5):
        driver.join(number, "a", protocols=(TWO[0], (f"p{number}", b"")))
    assert len(driver.group.roster._supporters) == 2


def test_a_known_member_that_waits_does_not_lose_its_session() -> None:
    """While its join is parked, a member need not send heartbeats."""
    driver = GroupDriver().stable("a", "b")
    driver.join("r", "a")
    driver.keep_alive(REBALANCE_MS - 1, "b")
    assert "a" in driver.group.members
    driver.advance(1)
    assert driver.errors("r") == [E.NONE]


def test_a_waiting_member_that_leaves_is_answered() -> None:
    """Its parked join is told UNKNOWN_MEMBER_ID, and the rebalance goes on without it."""
    driver = driver_in(PREPARING)
    driver.join("r1", "b")
    driver.leave("b")
    assert driver.errors("r1") == [E.UNKNOWN_MEMBER_ID]
    assert driver.leave(Leaver("", "i")) == [E.NONE]
    assert driver.errors("a again") == [E.NONE]
