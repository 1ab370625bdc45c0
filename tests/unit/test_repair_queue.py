"""The repair queue as people see it: every state an item can be in, with its reason and its end."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from logd.broker.cold_segments import ColdSegments
from logd.broker.upkeep_status import upkeep_problems
from logd.cold.repair_jobs import item_document
from logd.policy.cold.condition import NodeCondition
from logd.policy.cold.leases import Work
from logd.policy.cold.moves import Move
from logd.policy.cold.queue_eta import estimate_queue
from logd.policy.cold.repair_plan import Hold, RepairFacts, RepairRules, plan_repairs
from logd.units import HOUR_MS, MIB, MINUTE_MS
from tests.cold_values import FOUR_TWO, dead, draining, generation, look, node, nodes, suspect
from tests.unit.repair_rig import RepairRig
from tests.unit.test_cold_life import until
from tests.unit.upkept_rig import coded

NOW_MS = 10 * HOUR_MS
ONE = generation()
SEVEN = nodes("abcdefg")
RULES = RepairRules(delay_ms=15 * MINUTE_MS)
DOCUMENTATION = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "repair.md")

Case = tuple[dict[str, NodeCondition], dict[str, Any], str]

CASES: dict[str, Case] = {
    "ready": (dead(SEVEN, "a"), {}, ""),
    "running": (dead(SEVEN, "a"), {"running": frozenset({ONE.encoding})}, ""),
    "delay": (dead(SEVEN, "a", since_ms=NOW_MS - 1000), {}, "margin 1: begins in 59s"),
    "rate": (dead(SEVEN, "a"), {"running": frozenset({"x", "y"})}, "2 others are being repaired"),
    "no-target": (
        dead(nodes(), "a"), {},
        "1 of 6 chunks of 4+2 have no target: of 6 nodes 5 keep its other chunks (a is dead)",
    ),
    "source-slow": (
        suspect(dead(SEVEN, "a"), "bc"), {},
        "3 of the 4 chunks that are needed can be read now; nothing is known of 1 on b, 2 on c",
    ),
    "leased": (dead(SEVEN, "a"), {"leased": {ONE.key: Work.THAW}}, "it is being worked on: thaw"),
    "retry": (
        dead(SEVEN, "a"), {"retry_at_ms": {ONE.encoding: NOW_MS + 5000}},
        "the last attempt failed, the next is in 5s",
    ),
    "unrecoverable": (dead(SEVEN, "abc"), {}, "3 chunks are left, 4 are needed"),
}  # fmt: skip


def shown(known: dict[str, NodeCondition], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the one item of the queue as the admin port has it."""
    about = replace(RepairFacts(known), **facts)
    plan = plan_repairs(look([ONE], known), about, RULES, now_ms=NOW_MS)
    eta = estimate_queue(plan, bytes_s=20.0 * MIB, now_ms=NOW_MS)
    (item,) = plan.items
    return item_document(item, eta, lambda _: "t")


@pytest.mark.parametrize("state", CASES)
async def test_every_state_is_shown_with_its_reason(state: str, autojump_clock: MockClock) -> None:
    """One item in each state there is: reason, methods, chunks; an end where there is one."""
    known, facts, reason = CASES[state]
    found = shown(known, facts)
    assert (found["state"], found["reason"]) == (state, reason)
    assert [chunk["state"] for chunk in found["chunks"]] == ["missing"] * len(found["chunks"])
    assert found["chunks"][0]["node"] == "a"
    is_stuck = state in ("no-target", "source-slow", "leased", "unrecoverable")
    assert (found["eta_s"] is None) == is_stuck
    can_be_made = state not in ("no-target", "source-slow", "unrecoverable")
    assert (found["methods"] != []) == can_be_made
    assert found["margin"] == {"source-slow": 1, "unrecoverable": -1}.get(state, 1)


def test_no_state_is_left_out() -> None:
    """Of the table, of the reasons that a plan knows, and of the documentation."""
    assert set(CASES) == {"ready", "running"} | {hold.value for hold in Hold}
    with open(DOCUMENTATION, encoding="utf-8") as file:
        text = file.read()
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    said = {word for row in rows for word in re.findall(r"`([a-z-]+)`", row)}
    assert set(CASES) <= said


async def test_what_cannot_be_coded_anew_waits_for_nodes(autojump_clock: MockClock) -> None:
    """Three of six gone, a hot copy here: ready on six others, no target on three; promises end."""
    hot = {"anew": {ONE.encoding: FOUR_TWO}}
    found = shown(dead(nodes("abcdefghi"), "abc"), hot)
    assert (found["state"], found["methods"]) == ("ready", ["hot copy"])
    assert (found["write_bytes"], found["read_bytes"]) == (24 * MIB, 16 * MIB)
    few = shown(dead(nodes(), "abc"), hot)
    assert few["state"] == "no-target"
    assert "to be coded anew: 3 of 6 chunks of 4+2 have no target" in few["reason"]
    # What it was promised in vain is there for the next in the queue.
    other = generation(2, "defxyz")
    small = {name: node(name, free=5 * MIB) for name in "defghxyz"}
    known = dead(small | nodes("abc"), "abcxyz")
    both = plan_repairs(
        look([ONE, other], known),
        RepairFacts(known, anew={ONE.encoding: FOUR_TWO}),
        RULES,
        now_ms=NOW_MS,
    )
    assert [item.state for item in both.items] == ["no-target", "unrecoverable"]


async def test_a_drain_is_in_the_queue_as_a_copy(autojump_clock: MockClock) -> None:
    """Of what only leaves nothing is lost, and the margin is whole."""
    found = shown(draining(SEVEN, "f"), {})
    assert (found["state"], found["methods"], found["margin"]) == ("ready", ["copy"], 2)
    [chunk] = found["chunks"]
    assert (chunk["node"], chunk["target"], chunk["state"]) == ("f", "g", "live")


async def test_moves_are_listed_one_by_one(directory: str, autojump_clock: MockClock) -> None:
    """What people want elsewhere: which chunk, from where to where, and why it waits."""
    rig = RepairRig(directory)
    one = rig.code("abcdef")
    rig.repairer.add_moves([Move(one, 0, "a", "g")])
    [move] = rig.repairer.move_documents(lambda _: "t")
    assert (move["chunk"], move["source"], move["target"]) == (0, "a", "g")
    assert move["state"] == "queued"
    assert move["reason"] != ""


# --- exactly k + m nodes --------------------------------------------------------------------------


async def test_that_there_is_no_spare_is_said_before_a_loss(
    directory: str, autojump_clock: MockClock
) -> None:
    """Six nodes for 4+2: warned of while all is well; the loss waits; a replacement ends it."""
    async with coded(directory, "abcdef") as rig:
        segments = ColdSegments(rig.tier, rig.offload, rig.services, topic_name=lambda _: "t")
        segments.life = rig.life

        def problems() -> dict[str, str]:
            return {each.kind: each.message for each in upkeep_problems(segments, rig.tier)}

        await until(lambda: rig.upkeep.health.counts().is_well)
        assert set(problems()) == {"no_spare_node"}
        assert "4+2 on 6 nodes leaves no spare: a lost chunk waits" in problems()["no_spare_node"]
        rig.lose("c")
        await trio.sleep(5)
        assert rig.upkeep.repairer.counts.made == 0
        assert "of 6 nodes 5 keep its other chunks" in problems()["repair_no_target"]
        summary = rig.upkeep.repair_summary()
        assert (summary["states"], summary["queued"], summary["stuck"]) == ({"no-target": 2}, 2, 2)
        assert "4+2 on 5 nodes" in problems()["no_spare_node"]
        # An empty disk under the node's name, as `logd node replace` leaves it.
        rig.nodes.set_live("c", is_live=True)
        rig.upkeep.health.replaced("c")
        rig.upkeep.missing.look_soon("c")
        await until(lambda: rig.upkeep.repairer.counts.made == 2, limit_s=60)
        await until(lambda: rig.upkeep.health.counts().is_well and not rig.queue(), limit_s=60)
        assert set(problems()) == {"no_spare_node"}
        await rig.check_readable()


async def test_with_a_spare_nothing_is_said(directory: str, autojump_clock: MockClock) -> None:
    """Seven nodes for 4+2; when one has died, and all is made again, the next would wait."""
    async with coded(directory, "abcdefg") as rig:
        segments = ColdSegments(rig.tier, rig.offload, rig.services, topic_name=lambda _: "t")
        segments.life = rig.life
        await until(lambda: rig.upkeep.health.counts().is_well)
        assert list(upkeep_problems(segments, rig.tier)) == []
        rig.lose("b")
        await until(lambda: rig.upkeep.health.counts().is_well and not rig.queue())
        [problem] = upkeep_problems(segments, rig.tier)
        assert problem.kind == "no_spare_node"
