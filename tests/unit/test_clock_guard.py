"""policy.clock_guard: what time it is for retention, whatever happens to the wall clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.policy.clock_guard import (
    AHEAD_MAX_MS,
    DOWNTIME_MAX_MS,
    HOLD_MS,
    ClockGuard,
    ClockNote,
    start_guard,
)
from logd.units import DAY_MS, HOUR_MS, MINUTE_MS

WALL_MS = 1_700_000_000_000
BOOT_MS = 5_000_000


@pytest.mark.parametrize(
    ("jump_ms", "expected_ms", "stopped"),
    [
        pytest.param(0, 0, False, id="right"),
        pytest.param(AHEAD_MAX_MS, AHEAD_MAX_MS, False, id="as much as a time server corrects"),
        pytest.param(AHEAD_MAX_MS + 1, AHEAD_MAX_MS, True, id="a moment more"),
        pytest.param(DAY_MS, AHEAD_MAX_MS, True, id="a day ahead"),
        pytest.param(-DAY_MS, -DAY_MS, False, id="a day back: everything stays longer"),
        pytest.param(-WALL_MS, -WALL_MS, False, id="back to 1970"),
    ],
)
def test_a_jump_while_running(jump_ms: int, expected_ms: int, stopped: bool) -> None:
    """A jump ahead moves retention's time by five minutes at the most; a jump back by all of it."""
    guard = start_guard(wall_ms=WALL_MS, boot_ms=BOOT_MS, boot_id="a")
    hour = guard.time(wall_ms=WALL_MS + HOUR_MS + jump_ms, boot_ms=BOOT_MS + HOUR_MS)
    assert hour.now_ms == WALL_MS + HOUR_MS + expected_ms
    assert hour.stopped == stopped
    assert (hour.reason is not None) == stopped
    assert hour.believed_in_ms is None


def test_a_jump_while_running_is_never_believed() -> None:
    """However long it stands; set right again, it counts again at once."""
    guard = start_guard(wall_ms=WALL_MS, boot_ms=BOOT_MS, boot_id="a")
    later_ms = 30 * DAY_MS
    wrong = guard.time(wall_ms=WALL_MS + later_ms + DAY_MS, boot_ms=BOOT_MS + later_ms)
    assert wrong.stopped
    assert wrong.reason == (
        "the wall clock is 1d ahead of the time since the server started; "
        "what is due only by it stays"
    )
    right = guard.time(wall_ms=WALL_MS + later_ms, boot_ms=BOOT_MS + later_ms)
    assert (right.now_ms, right.stopped) == (WALL_MS + later_ms, False)


LAST = ClockNote(WALL_MS, BOOT_MS, "a")


@pytest.mark.parametrize(
    ("boot_id", "boot_ms", "wall_ms", "expected"),
    [
        pytest.param("a", HOUR_MS, HOUR_MS, (HOUR_MS, None), id="same boot, right"),
        pytest.param("a", HOUR_MS, HOUR_MS + AHEAD_MAX_MS, (HOUR_MS + AHEAD_MAX_MS, None),
                     id="same boot, a little ahead"),
        pytest.param("a", HOUR_MS, HOUR_MS + DAY_MS, (HOUR_MS + DAY_MS, HOUR_MS),
                     id="same boot, a day ahead: held where the boot-time clock says"),
        pytest.param("a", HOUR_MS, HOUR_MS - DAY_MS, (HOUR_MS, None),
                     id="same boot, a day behind: setting it right is no jump"),
        pytest.param("b", -BOOT_MS, MINUTE_MS, (MINUTE_MS, None), id="a quick reboot"),
        pytest.param("b", -BOOT_MS, DOWNTIME_MAX_MS, (DOWNTIME_MAX_MS, None), id="an hour off"),
        pytest.param("b", -BOOT_MS, DAY_MS, (DAY_MS, DOWNTIME_MAX_MS),
                     id="a day off, or a day ahead: nobody can tell"),
        pytest.param("b", HOUR_MS, DAY_MS, (DAY_MS, DOWNTIME_MAX_MS),
                     id="another boot's clock proves nothing"),
        pytest.param("b", -BOOT_MS, -WALL_MS, (0, None), id="1970: as the last run left it"),
        pytest.param("a", -1, DAY_MS, (DAY_MS, DOWNTIME_MAX_MS), id="a note that cannot be"),
    ],
)  # fmt: skip
def test_the_clock_at_start(
    boot_id: str, boot_ms: int, wall_ms: int, expected: tuple[int, int | None]
) -> None:
    """What the last run noted bears the wall clock out, or holds it; relative to that note."""
    guard = start_guard(
        wall_ms=WALL_MS + wall_ms, boot_ms=BOOT_MS + boot_ms, boot_id=boot_id, last=LAST
    )
    held_ms = None if guard.held_ms is None else guard.held_ms - WALL_MS
    assert (guard.wall_ms - WALL_MS, held_ms) == expected


def test_a_clock_that_came_up_ahead_is_believed_after_a_day() -> None:
    """Held, it stops retention and says for how long; set right, it counts at once."""
    boot_ms = BOOT_MS + HOUR_MS
    wall_ms = WALL_MS + HOUR_MS + 3 * DAY_MS
    guard = start_guard(wall_ms=wall_ms, boot_ms=boot_ms, boot_id="a", last=LAST)
    first = guard.time(wall_ms=wall_ms, boot_ms=boot_ms)
    assert (first.now_ms, first.stopped) == (WALL_MS + HOUR_MS + AHEAD_MAX_MS, True)
    assert first.reason == (
        "the wall clock is 3d ahead of where the server's last run left it; "
        "what is due only by it stays for another 1d"
    )
    almost = HOLD_MS - 1
    assert guard.time(wall_ms=wall_ms + almost, boot_ms=boot_ms + almost).stopped
    right = guard.time(wall_ms=wall_ms - 3 * DAY_MS + almost, boot_ms=boot_ms + almost)
    assert (right.now_ms, right.stopped) == (WALL_MS + HOUR_MS + almost, False)
    after = guard.time(wall_ms=wall_ms + HOLD_MS, boot_ms=boot_ms + HOLD_MS)
    assert (after.now_ms, after.stopped, after.believed_in_ms) == (wall_ms + HOLD_MS, False, None)


def test_restarts_do_not_wear_the_guard_down() -> None:
    """A wrong clock gains nothing by a server that is restarted a hundred times."""
    note = LAST
    for number in range(1, 101):
        boot_ms = BOOT_MS + number * MINUTE_MS
        wall_ms = WALL_MS + DAY_MS + number * MINUTE_MS
        guard = start_guard(wall_ms=wall_ms, boot_ms=boot_ms, boot_id="a", last=note)
        time = guard.time(wall_ms=wall_ms, boot_ms=boot_ms)
        assert time.stopped
        note = ClockNote(time.borne_out_ms, boot_ms, "a")
    assert note.time_ms == WALL_MS + 100 * MINUTE_MS


offsets_ms = st.integers(-10 * DAY_MS, 10 * DAY_MS)
guards = st.builds(
    lambda wall, boot, same, downtime: start_guard(
        wall_ms=WALL_MS + wall,
        boot_ms=BOOT_MS + boot,
        boot_id="a" if same else "b",
        last=ClockNote(WALL_MS + downtime, BOOT_MS, "a"),
    ),
    offsets_ms, st.integers(0, DAY_MS), st.booleans(), offsets_ms,
)  # fmt: skip


@given(guards, st.integers(0, HOLD_MS - 1), st.integers(0, 20 * DAY_MS))
def test_the_time_never_passes_the_wall_clock_nor_what_is_borne_out(
    guard: ClockGuard, passed_ms: int, wall_ms: int
) -> None:
    """Invariants: now <= wall; now <= what the last run and the boot-time clock say, within the
    hold; the note for the next run is no later than now."""
    boot_ms = guard.boot_ms + passed_ms
    time = guard.time(wall_ms=WALL_MS + wall_ms, boot_ms=boot_ms)
    start_ms = guard.wall_ms if guard.held_ms is None else guard.held_ms
    assert time.now_ms <= WALL_MS + wall_ms
    assert time.now_ms <= start_ms + passed_ms + AHEAD_MAX_MS
    assert time.borne_out_ms <= time.now_ms
    assert time.stopped == (time.now_ms < WALL_MS + wall_ms)


@given(guards, st.lists(st.integers(0, DAY_MS), min_size=2, max_size=10))
def test_time_goes_on_while_the_wall_clock_does(guard: ClockGuard, steps: list[int]) -> None:
    """Monotone: with both clocks going on together, retention's time never goes back."""
    boot_ms, wall_ms, before = guard.boot_ms, guard.wall_ms, 0
    for step in steps:
        boot_ms += step
        wall_ms += step
        now_ms = guard.time(wall_ms=wall_ms, boot_ms=boot_ms).now_ms
        assert now_ms >= before
        before = now_ms
