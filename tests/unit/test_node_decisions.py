"""Circuit breaker, backoff and node health: what is decided about one node's calls."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logd.policy.backoff import RetryPolicy, retry_wait_ms, wait_max_ms, worst_wait_ms
from logd.policy.breaker import Breaker, BreakerSettings, BreakerState, Outcome, Permit
from logd.policy.node_health import (
    HealthLimits,
    NodeHealth,
    ProbeHistory,
    ProbeResult,
    describe_health,
    node_health,
)

GOOD, BAD, NONE = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED
CLOSED, OPEN, HALF_OPEN = BreakerState
OPEN_MS = 30_000


def breaker() -> Breaker:
    return Breaker(BreakerSettings())


def call(one: Breaker, outcome: Outcome, *, now_ms: int = 0, took_ms: int = 1) -> None:
    """Make one call that must be allowed."""
    permit = one.try_call(now_ms)
    assert permit is not None
    one.ended(permit, outcome, now_ms=now_ms + took_ms)


def opened() -> Breaker:
    """Return a breaker that opened at 1 ms."""
    one = breaker()
    for _ in range(10):
        call(one, BAD)
    assert one.view(1).state is OPEN
    return one


# --- the breaker ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "bad", "state"),
    [(0, 9, CLOSED), (0, 10, OPEN), (5, 5, OPEN), (6, 5, CLOSED), (50, 49, CLOSED), (50, 50, OPEN)],
)
def test_it_opens_at_half_of_ten_calls_or_more(good: int, bad: int, state: BreakerState) -> None:
    """Fewer than ten prove nothing; from ten on half of them is too many."""
    one = breaker()
    for outcome in [GOOD] * good + [BAD] * bad:
        call(one, outcome)
    assert one.view(1).state is state
    assert (one.try_call(1) is None) == (state is OPEN)


@pytest.mark.parametrize(("slow", "state"), [(79, CLOSED), (80, OPEN)])
def test_it_opens_when_most_calls_are_slow(slow: int, state: BreakerState) -> None:
    """80 % at 3 s or longer, though all of them succeed."""
    one = breaker()
    for at in range(100):
        call(one, GOOD, took_ms=3000 if at >= 100 - slow else 2999)
    assert one.view(3000).state is state


def test_only_the_last_hundred_calls_count() -> None:
    """What failed long ago is forgotten, call by call."""
    one = breaker()
    for outcome in [GOOD] * 60 + [BAD] * 40 + [GOOD] * 100:
        call(one, outcome)
    view = one.view(1)
    assert (view.state, view.calls, view.failed) == (CLOSED, 100, 0)
    for _ in range(49):
        call(one, BAD)
    assert one.view(1).failed == 49
    call(one, BAD)
    assert one.view(1).state is OPEN


def test_what_says_nothing_about_the_node_does_not_count() -> None:
    """Checksum failures, chunks that are not there and cancelled calls, however slow."""
    one = breaker()
    for _ in range(200):
        call(one, NONE, took_ms=5000)
    view = one.view(5000)
    assert (view.state, view.calls) == (CLOSED, 0)


def test_an_open_breaker_lets_nothing_out_until_its_time() -> None:
    """30 s after it opened, three probes and no more; good ones close it, with a clean slate."""
    one = opened()
    assert one.view(OPEN_MS).open_until_ms == OPEN_MS + 1
    assert one.try_call(OPEN_MS) is None
    probes = [one.try_call(OPEN_MS + 1) for _ in range(4)]
    assert [probe is not None and probe.is_probe for probe in probes] == [True] * 3 + [False]
    for at, probe in enumerate(probes[:3]):
        assert probe is not None
        assert one.view(OPEN_MS + 5).state is HALF_OPEN, at
        one.ended(probe, GOOD, now_ms=OPEN_MS + 5)
    view = one.view(OPEN_MS + 5)
    assert (view.state, view.calls, view.failed, view.times_opened) == (CLOSED, 0, 0, 1)
    assert view.open_until_ms is None


@pytest.mark.parametrize(("outcome", "took_ms"), [(BAD, 1), (GOOD, 3000)])
def test_a_bad_probe_opens_it_again(outcome: Outcome, took_ms: int) -> None:
    """One failed or slow probe is enough, and the time begins anew."""
    one = opened()
    permits = [one.try_call(40_000) for _ in range(3)]
    assert permits[0] is not None
    assert permits[1] is not None
    one.ended(permits[0], GOOD, now_ms=40_001)
    one.ended(permits[1], outcome, now_ms=40_000 + took_ms)
    view = one.view(45_000)
    assert (view.state, view.times_opened) == (OPEN, 2)
    assert view.open_until_ms == 40_000 + took_ms + OPEN_MS


def test_a_probe_that_says_nothing_is_made_again() -> None:
    """A 404 neither closes nor opens it."""
    one = opened()
    for _ in range(5):
        call(one, NONE, now_ms=40_000)
    assert one.view(40_001).state is HALF_OPEN
    for _ in range(3):
        call(one, GOOD, now_ms=40_002)
    assert one.view(40_003).state is CLOSED


def test_lost_probes_do_not_keep_a_node_out() -> None:
    """If nobody says how they ended, others go out after the same time; late ends are ignored."""
    one = opened()
    lost = [one.try_call(40_000) for _ in range(3)]
    assert one.try_call(69_999) is None
    again = [one.try_call(70_000) for _ in range(3)]
    assert lost[0] is not None
    one.ended(lost[0], BAD, now_ms=70_001)
    assert one.view(70_001).state is HALF_OPEN
    for probe in again:
        assert probe is not None
        one.ended(probe, GOOD, now_ms=70_002)
    assert one.view(70_002).state is CLOSED


def test_calls_from_before_do_not_count_after() -> None:
    """What began before it opened ends without effect, whenever that is."""
    one = breaker()
    old = [one.try_call(0) for _ in range(20)]
    for _ in range(10):
        call(one, BAD)
    for permit in old[:10]:
        assert permit is not None
        one.ended(permit, GOOD, now_ms=2)
    assert one.view(2).state is OPEN
    assert one.try_call(40_000) is not None
    for permit in old[10:]:
        assert permit is not None
        one.ended(permit, BAD, now_ms=40_000)
    assert one.view(40_000).state is HALF_OPEN


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["try", "good", "bad", "ignored"]),
            st.sampled_from([0, 1, 10, 2999, 3000, 30_000]),
            st.integers(0, 5),
        ),
        max_size=120,
    ),
    limits=st.builds(
        lambda window, least, probes: BreakerSettings(
            window_calls=max(window, least), calls_min=least, probes=probes
        ),
        st.integers(1, 8), st.integers(1, 4), st.integers(1, 3),
    ),
)  # fmt: skip
def test_it_agrees_with_its_description(
    steps: list[tuple[str, int, int]], limits: BreakerSettings
) -> None:
    """Whatever is called in whatever order: never open without a cause, never for longer than
    open_ms, never more probes out than there may be, and the window is the last calls.
    """
    one, now_ms, out = Breaker(limits), 0, list[Permit]()
    ended: list[tuple[bool, bool]] = []
    for what, ms, which in steps:
        now_ms += ms
        before = one.view(now_ms)
        if before.state is not CLOSED:
            ended.clear()
        if what == "try":
            permit = one.try_call(now_ms)
            assert permit is None or before.state is not OPEN
            assert before.state is not CLOSED or permit is not None
            out += [permit] if permit else []
        elif out:
            permit = out.pop(which % len(out))
            outcome = {"good": GOOD, "bad": BAD, "ignored": NONE}[what]
            one.ended(permit, outcome, now_ms=now_ms)
            if before.state is CLOSED and outcome is not NONE and one._period == permit.period:
                ended.append((outcome is BAD, now_ms - permit.began_ms >= limits.slow_ms))
        view = one.view(now_ms)
        if view.state is OPEN:
            assert view.open_until_ms is not None
            assert now_ms < view.open_until_ms <= now_ms + limits.open_ms
            assert before.state is not CLOSED or what in ("good", "bad")
        if view.state is CLOSED:
            last = ended[-limits.window_calls :]
            assert (view.calls, view.failed) == (len(last), sum(bad for bad, _ in last))
            assert view.slow == sum(slow for _, slow in last)
        assert one._probes_out + one._probes_good <= limits.probes
    assert one.view(now_ms + 2 * limits.open_ms).state is not OPEN


# --- backoff --------------------------------------------------------------------------------------


def test_waits_double_up_to_the_cap() -> None:
    """50, 100, 200, … and never more than two seconds."""
    policy = RetryPolicy(attempts_max=9)
    waits = [wait_max_ms(policy, attempt) for attempt in range(1, 9)]
    assert waits == [50, 100, 200, 400, 800, 1600, 2000, 2000]
    assert worst_wait_ms(policy) == sum(waits)
    assert wait_max_ms(policy, 10**6) == 2000


def test_attempts_end() -> None:
    """After the last one there is no wait, whatever the chance."""
    policy = RetryPolicy(attempts_max=3)
    waits = [retry_wait_ms(policy, attempt, 0.999) for attempt in (1, 2, 3, 4)]
    assert waits == [50, 100, None, None]
    assert retry_wait_ms(RetryPolicy(attempts_max=1), 1, 0.5) is None


@given(
    attempt=st.integers(1, 100), fraction=st.floats(0, 1, exclude_max=True),
    base_ms=st.integers(0, 1000), cap_ms=st.integers(1000, 10**6),
)  # fmt: skip
def test_a_wait_is_between_nothing_and_its_bound(
    attempt: int, fraction: float, base_ms: int, cap_ms: int
) -> None:
    """For any settings and any chance; and it grows with the chance."""
    policy = RetryPolicy(attempts_max=1000, base_ms=base_ms, cap_ms=cap_ms)
    wait_ms = retry_wait_ms(policy, attempt, fraction)
    assert wait_ms is not None
    assert 0 <= wait_ms <= wait_max_ms(policy, attempt) <= cap_ms
    assert retry_wait_ms(policy, attempt, 0) == 0


def test_the_jitter_is_full(rng: random.Random) -> None:
    """Each wait from nothing to the bound is as likely: callers spread out."""
    policy = RetryPolicy(attempts_max=9)
    waits = [retry_wait_ms(policy, 4, rng.random()) for _ in range(4000)]
    quarters = [sum(wait is not None and wait // 101 == at for wait in waits) for at in range(4)]
    assert min(quarters) > 800, quarters


# --- health ---------------------------------------------------------------------------------------

LIMITS = HealthLimits()
OK, SILENT = ProbeResult.ANSWERED, ProbeResult.NO_ANSWER


def history(*probes: tuple[int, ProbeResult]) -> ProbeHistory:
    """Return the history of probes at some times."""
    made = ProbeHistory()
    for now_ms, result in probes:
        made = made.probed(result, now_ms=now_ms)
    return made


@pytest.mark.parametrize(
    ("probes", "health"),
    [
        ((), NodeHealth.SUSPECT),
        (((0, OK),), NodeHealth.LIVE),
        (((0, SILENT),), NodeHealth.SUSPECT),
        (((0, OK), (9_999, SILENT)), NodeHealth.LIVE),
        (((0, OK), (10_000, SILENT)), NodeHealth.SUSPECT),
        (((0, OK), (100_000, SILENT)), NodeHealth.SUSPECT),
        (((0, OK), (1, SILENT), (2, SILENT), (59_999, SILENT)), NodeHealth.SUSPECT),
        (((0, OK), (1, SILENT), (60_000, SILENT)), NodeHealth.SUSPECT),
        (((0, OK), (1, SILENT), (2, SILENT), (60_000, SILENT)), NodeHealth.DEAD),
        (((0, SILENT), (30_000, SILENT), (60_000, SILENT)), NodeHealth.DEAD),
        (((0, SILENT), (30_000, SILENT), (60_000, SILENT), (60_001, OK)), NodeHealth.LIVE),
        (((0, OK), (1, ProbeResult.NOT_MOUNTED)), NodeHealth.DEAD),
        (((0, OK), (1, ProbeResult.WRONG_IDENTITY)), NodeHealth.DEAD),
        (((0, OK), (1, ProbeResult.NOT_MOUNTED), (2, OK)), NodeHealth.LIVE),
    ],
)
def test_what_a_node_is(probes: tuple[tuple[int, ProbeResult], ...], health: NodeHealth) -> None:
    """By the time since the last good probe, the failed ones since, and what the last one said."""
    assert node_health(history(*probes), LIMITS) is health


def test_silence_without_questions_changes_nothing() -> None:
    """An hour in which the server slept: the first probe after it decides nothing by itself."""
    paused = history((0, OK), (3_600_000, SILENT))
    assert node_health(paused, LIMITS) is NodeHealth.SUSPECT
    assert node_health(paused.probed(SILENT, now_ms=3_601_000), LIMITS) is NodeHealth.SUSPECT
    assert node_health(paused.probed(OK, now_ms=3_601_000), LIMITS) is NodeHealth.LIVE


def test_health_is_said_in_words() -> None:
    """State, what the last probe brought, and for how long."""
    assert describe_health(history(), LIMITS) == "suspect: not asked yet"
    assert describe_health(history((5, OK)), LIMITS) == "live"
    silent = history((0, OK), (12_000, SILENT))
    assert describe_health(silent, LIMITS) == "suspect: does not answer, for 12s"
    gone = history((0, OK), (1000, ProbeResult.NOT_MOUNTED))
    assert describe_health(gone, LIMITS) == ("dead: says that its disk is not mounted, for 1s")
