"""What a storage node is, by its probes: live, suspect or dead."""

from __future__ import annotations

import pytest

from logd.policy.node_health import (
    HealthLimits,
    NodeHealth,
    ProbeHistory,
    ProbeResult,
    describe_health,
    node_health,
)

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
