"""What would be lost, and how likely: `logd cold simulate` and `logd cold durability`.

Measured margins first, then the model with its assumptions, the time of a repair from the rate that
was measured here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from logd.cold.chunk_health import ChunkHealth, TopicName
from logd.cold.repairing import RUNNING_MAX, Repairer, RepairSettings
from logd.cold.tier import ColdTier
from logd.policy.cold.durability import Durability, DurabilityTerms, model_durability
from logd.policy.cold.rates import RATE_MIN_BYTES_S
from logd.policy.cold.repair_plan import RepairRules
from logd.policy.cold.targets import chunk_bytes_of
from logd.policy.cold.values import LIVE
from logd.policy.cold.what_if import Outcome, simulate_failure
from logd.units import HOUR_MS, SECOND_MS

LOST_SHOWN_MAX: Final = 1000


class Outlook:
    """See the module. Lives on the event loop.

    Args:
        dead_ms: node.dead.ms.
    """

    def __init__(
        self,
        tier: ColdTier,
        health: ChunkHealth,
        repairer: Repairer,
        settings: RepairSettings,
        *,
        dead_ms: int,
        topic_name: TopicName,
    ) -> None:
        self._tier = tier
        self._health = health
        self._repairer = repairer
        self._rules = RepairRules(delay_ms=settings.delay_ms, running_max=RUNNING_MAX)
        self._dead_ms = dead_ms
        self._topic_name = topic_name

    def durability(self, *, afr: float, repair_hours: float | None) -> dict[str, Any]:
        """Return margins, the model's figures and its assumptions."""
        measured = self._repairer.rate.bytes_s
        terms = DurabilityTerms(
            afr=afr,
            detect_ms=self._dead_ms,
            delay_ms={margin: self._rules.delay_at(margin) for margin in range(5)},
            copy_ms=self._copy_ms(measured),
            repair_ms=None if repair_hours is None else int(repair_hours * HOUR_MS),
            is_measured=measured is not None,
        )
        model = model_durability(self._tier.generations(), self._tier.nodes.facts(), terms)
        return self._document(model, terms, measured)

    def _copy_ms(self, bytes_s: float | None) -> int:
        """Return how long making the fullest node's chunks again takes; each is read k times."""
        by_node: dict[str, int] = {}
        for each in self._tier.generations():
            if each.state in LIVE:
                for node in each.held.values():
                    work = chunk_bytes_of(each) * (each.profile.k + 1)
                    by_node[node] = by_node.get(node, 0) + work
        return int(1000 * max(by_node.values(), default=0) / (bytes_s or RATE_MIN_BYTES_S))

    def _document(
        self, model: Durability, terms: DurabilityTerms, measured: float | None
    ) -> dict[str, Any]:
        counts = self._health.counts()
        return {
            "segments_by_margin": counts.as_words(),
            "segments_by_rack_margin": {str(key): count for key, count in counts.by_domain},
            "uncertain": counts.uncertain,
            "repair_bytes_s": measured,
            "afr": terms.afr,
            "profiles": [
                {
                    "profile": str(each.profile),
                    "segments": each.segments,
                    "node_sets": each.node_sets,
                    "nines": round(each.nines, 2),
                    "nines_all": round(each.nines_any, 2),
                    "nines_windows": round(each.nines_windows, 2),
                    "mean_years_to_loss": each.years,
                    "repair_s": each.repair_ms / SECOND_MS,
                    "stored_ratio": round(each.stored_ratio, 4),
                }
                for each in model.profiles
            ],
            "assumptions": list(model.assumptions),
        }

    def simulate(self, failed: Collection[str]) -> dict[str, Any]:
        """Return what the failure of some nodes would mean.

        Raises:
            UnknownNodeError: there is no such node.
        """
        for name in failed:
            self._tier.nodes.node(name)
        segments = [condition for condition, _ in self._health.look()]
        outcome = simulate_failure(
            segments,
            self._health.nodes(),
            failed,
            self._rules,
            detect_ms=self._dead_ms,
            bytes_s=self._repairer.rate.bytes_s,
            anew=self._repairer.anew(each.generation for each in segments),
        )
        return self._outcome(outcome)

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "failed": list(outcome.failed),
            "lost": [
                {
                    "topic": self._topic_name(each.key.topic_id) or each.key.topic_id.hex(),
                    "partition": each.key.partition,
                    "base_offset": each.key.base_offset,
                    "bytes": each.source_bytes,
                }
                for each in outcome.lost[:LOST_SHOWN_MAX]
            ],
            "lost_count": len(outcome.lost),
            "degraded": outcome.degraded,
            "segments_by_margin": {str(margin): count for margin, count in outcome.by_margin},
            "repair_read_bytes": outcome.read_bytes,
            "repair_write_bytes": outcome.write_bytes,
            "repair_s": outcome.repair_s,
            "repair_s_is_measured": outcome.is_measured,
            "no_target": outcome.no_target,
            "summary": str(outcome),
        }
