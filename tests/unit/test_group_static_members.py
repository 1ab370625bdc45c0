"""Static members start again: without a rebalance, under a new id, and the old one is fenced."""

from __future__ import annotations

import pytest

from logd.policy.group.group import Group
from logd.policy.group.values import GroupState, JoinAnswer, Leaver
from logd.wire.error_codes import ErrorCode
from tests.unit.group_driver import DELAY_MS, RANGE, SESSION_MS, TWO, GroupDriver

PREPARING = GroupState.PREPARING_REBALANCE
COMPLETING = GroupState.COMPLETING_REBALANCE
STABLE = GroupState.STABLE
E = ErrorCode


def statics(protocols: tuple[tuple[str, bytes], ...] = RANGE) -> GroupDriver:
    """Return a group that completes, of the static members a (the leader) and b."""
    driver = GroupDriver()
    for name in "ab":
        driver.join(f"join {name}", new_member_id=name, instance_id=f"i{name}", protocols=protocols)
    driver.advance(2 * DELAY_MS)
    return driver


def stable(protocols: tuple[tuple[str, bytes], ...] = RANGE) -> GroupDriver:
    """Return the same group, stable."""
    driver = statics(protocols)
    driver.sync("sync b", "b", instance_id="ib")
    driver.assign("sync a")
    driver.confirm()
    assert driver.group.state is STABLE
    return driver


def restart(driver: GroupDriver, name: str, reply: object = "r", **changes: object) -> None:
    """Have a member start again; its new id is its name twice."""
    driver.join(reply, new_member_id=name * 2, instance_id=f"i{name}", **changes)


# --- In a stable group -------------------------------------------------------------------------


@pytest.mark.parametrize("skips", [False, True])
def test_a_follower_starts_again_unnoticed(skips: bool) -> None:
    """It gets the current generation under a new id, when that is durable."""
    driver = stable()
    restart(driver, "b", skips_assignment_ok=skips)
    assert driver.errors("r") == [None]
    write = driver.confirm()
    assert driver.joined["r"] == JoinAnswer(E.NONE, "bb", 1, "consumer", "range", leader="a")
    assert (driver.group.state, driver.group.generation) == (STABLE, 1)
    assert [(m.member_id, m.instance_id, m.assignment) for m in write.group.members] == [
        ("a", "ia", b"a"),
        ("bb", "ib", b"b"),
    ]
    answer = driver.sync("s", "bb", instance_id="ib")
    assert answer is not None
    assert (answer.error, answer.assignment) == (E.NONE, b"b")
    assert driver.group.stored() == write.group


def test_a_leader_starts_again_and_is_told_to_skip_its_assignor() -> None:
    """From version 9 on: it leads, knows the members, and does not assign."""
    driver = stable()
    restart(driver, "a", skips_assignment_ok=True)
    driver.confirm()
    assert driver.joined["r"] == JoinAnswer(
        E.NONE,
        "aa",
        1,
        "consumer",
        "range",
        leader="aa",
        skip_assignment=True,
        members=(("b", "ib", b"topics"), ("aa", "ia", b"topics")),
    )
    assert (driver.group.leader, driver.group.state) == ("aa", STABLE)


def test_an_old_leader_that_starts_again_takes_itself_for_a_follower() -> None:
    """Before version 9 the answer names the old id as the leader, and no members."""
    driver = stable()
    restart(driver, "a")
    driver.confirm()
    assert driver.joined["r"] == JoinAnswer(E.NONE, "aa", 1, "consumer", "range", leader="a")
    assert driver.group.leader == "aa"
    answer = driver.sync("s", "aa", instance_id="ia")
    assert answer is not None
    assert answer.assignment == b"a"


def test_changed_metadata_alone_does_not_begin_a_rebalance() -> None:
    """What an assignor puts there changes with each start; the next generation learns of it."""
    driver = stable()
    restart(driver, "b", protocols=(("range", b"changed"),))
    driver.confirm()
    assert driver.group.state is STABLE
    assert driver.group.members["bb"].metadata("range") == b"changed"


def test_a_change_of_the_groups_protocol_begins_a_rebalance() -> None:
    """If the vote would end otherwise now, everybody has to join again."""
    driver = stable(TWO)
    assert driver.group.protocol_name == "range"
    restart(driver, "b", protocols=(TWO[1],))
    assert driver.group.state is PREPARING
    assert not driver.writes
    driver.join("a again", "a", instance_id="ia", protocols=TWO)
    assert driver.joined["r"].protocol_name == "sticky"
    assert driver.group.generation == 2


def test_the_old_id_is_fenced() -> None:
    """With its instance id the old member is FENCED_INSTANCE_ID, without it not known."""
    driver = stable()
    restart(driver, "b")
    driver.confirm()
    for instance_id, error in [("ib", E.FENCED_INSTANCE_ID), (None, E.UNKNOWN_MEMBER_ID)]:
        assert driver.heartbeat("b", instance_id=instance_id) is error
        assert driver.check_commit("b", instance_id=instance_id) is error
        assert driver.leave(Leaver("b", instance_id)) == [error]
        driver.sync(f"sync {error}", "b", instance_id=instance_id)
        driver.join(f"join {error}", "b", instance_id=instance_id)
        assert driver.errors(f"sync {error}", f"join {error}") == [error, error]
    assert driver.heartbeat("bb", instance_id="ib") is E.NONE
    assert driver.check_commit("bb", instance_id="ib") is E.NONE


def test_who_starts_again_has_a_session_of_its_own() -> None:
    """The new id's session begins with its answer, and with its own time-out."""
    driver = stable()
    driver.keep_alive(SESSION_MS - 1, "a", "b")
    restart(driver, "b", session_timeout_ms=2 * SESSION_MS)
    driver.confirm()
    driver.keep_alive(2 * SESSION_MS - 1, "a")
    assert "bb" in driver.group.members
    driver.keep_alive(1, "a")
    assert "bb" not in driver.group.members


# --- The write ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_new_id_that_cannot_be_written_is_taken_back(name: str) -> None:
    """The member gets the error and no id; the old id is what it was, lead and protocols too."""
    driver = stable()
    restart(driver, name, protocols=(("range", b"changed"),), session_timeout_ms=600_000)
    driver.confirm(E.KAFKA_STORAGE_ERROR)
    answer = driver.joined["r"]
    assert (answer.error, answer.member_id, answer.generation) == (E.NOT_COORDINATOR, "", 1)
    assert (answer.leader, answer.members) == ("a", ())
    assert driver.group.leader == "a"
    member = driver.group.members[name]
    assert (member.metadata("range"), member.session_timeout_ms) == (b"topics", SESSION_MS)
    assert driver.heartbeat(name, instance_id=f"i{name}") is E.NONE
    assert driver.group.stored().members == tuple(
        m for m in driver.group.stored().members if m.member_id in {"a", "b"}
    )


@pytest.mark.parametrize("error", [None, E.KAFKA_STORAGE_ERROR])
def test_a_rebalance_overtakes_the_write(error: ErrorCode | None) -> None:
    """A member that waits for its write takes part in a rebalance that begins meanwhile."""
    driver = stable()
    restart(driver, "b")
    driver.join("n", new_member_id="n")
    driver.confirm(error)
    assert driver.errors("r") == [None]
    driver.join("a again", "a", instance_id="ia")
    assert driver.joined["r"] == JoinAnswer(E.NONE, "bb", 2, "consumer", "range", leader="a")
    assert set(driver.group.members) == {"a", "bb", "n"}


def test_two_starts_while_one_write_is_under_way() -> None:
    """The first of them is fenced by the second, which is answered by its own write."""
    driver = stable()
    restart(driver, "b", "r1")
    driver.join("r2", new_member_id="b3", instance_id="ib")
    assert driver.errors("r1", "r2") == [E.FENCED_INSTANCE_ID, None]
    assert driver.joined["r1"].member_id == "bb"
    driver.confirm()
    assert driver.errors("r2") == [None]
    driver.confirm()
    assert (driver.joined["r2"].error, driver.joined["r2"].member_id) == (E.NONE, "b3")
    assert set(driver.group.members) == {"a", "b3"}


def test_a_forgotten_restart_is_not_answered() -> None:
    """The connection went before the write ended: the new id stands, and its session runs."""
    driver = stable()
    restart(driver, "b")
    driver.group.forget_reply("r")
    driver.confirm()
    assert driver.errors("r") == [None]
    driver.keep_alive(SESSION_MS, "a")
    assert set(driver.group.members) == {"a"}


# --- In a rebalance ----------------------------------------------------------------------------


def test_a_restart_while_joining_fences_the_parked_join() -> None:
    """The old request is answered, the new one takes its place."""
    driver = stable()
    driver.join("old", "b", instance_id="ib", protocols=(("range", b"changed"),))
    restart(driver, "b")
    assert driver.errors("old", "r") == [E.FENCED_INSTANCE_ID, None]
    assert driver.joined["old"].member_id == "b"
    driver.join("a again", "a", instance_id="ia")
    assert driver.errors("r", "a again") == [E.NONE, E.NONE]
    assert driver.joined["a again"].members[1][0] == "bb"


def test_the_last_one_missing_may_be_a_restart() -> None:
    """A static member that starts again during a rebalance has joined by that."""
    driver = stable()
    driver.join("a again", "a", instance_id="ia")
    restart(driver, "b")
    assert driver.errors("a again", "r") == [E.NONE, E.NONE]


def test_a_restart_while_completing_begins_again() -> None:
    """The leader was told of the old id, so its assignments would miss the new one."""
    driver = statics()
    driver.sync("sync b", "b", instance_id="ib")
    restart(driver, "b")
    assert driver.errors("sync b", "r") == [E.FENCED_INSTANCE_ID, None]
    assert driver.group.state is PREPARING


def test_a_sole_member_that_restarts_while_completing_goes_on_at_once() -> None:
    """Nobody else has to join again."""
    driver = GroupDriver()
    driver.join("join a", new_member_id="a", instance_id="ia")
    driver.advance(DELAY_MS)
    restart(driver, "a")
    assert (driver.joined["r"].error, driver.joined["r"].generation) == (E.NONE, 2)
    assert driver.joined["r"].leader == "aa"


# --- Known ids, and a restart of the server ----------------------------------------------------


def test_a_static_member_that_knows_its_id_joins_like_others() -> None:
    """A follower is told of the current generation, the leader begins a rebalance."""
    driver = stable()
    driver.join("r1", "b", instance_id="ib")
    assert driver.errors("r1") == [E.NONE]
    driver.join("r2", "a", instance_id="ia")
    assert driver.group.state is PREPARING


def test_a_static_member_survives_a_restart_of_the_server() -> None:
    """What was kept is a stable group in which it starts again without a rebalance."""
    stored = stable().group.stored()
    group = Group.restore("g", stored, now_ms=5)
    driver = GroupDriver(group=group, now_ms=5)
    restart(driver, "a", skips_assignment_ok=True)
    driver.confirm()
    answer = driver.joined["r"]
    assert (answer.error, answer.generation, answer.skip_assignment) == (E.NONE, 1, True)
    assert driver.group.state is STABLE
