"""`python -m bench.checker --kills N --seconds S --data DIR`: run, judge, print the verdict.

Exit code 0: every promise held. 4: one was broken. 1: the run proves nothing.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import Final

from bench.checker.run import Plan, check
from bench.checker.verdict import Verdict
from bench.process import BenchError

EXIT_VALID: Final = 0
EXIT_NO_PROOF: Final = 1
EXIT_BROKEN: Final = 4
EXAMPLES_MAX: Final = 5


def main(arguments: list[str]) -> int:
    """Run the checker; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.checker", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30.0, help="of random waits before kills")
    parser.add_argument("--data", type=Path, required=True, help="the server's; not there yet")
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=3)
    parser.add_argument(
        "--nodes", type=int, default=0, help="code segments onto so many directories meanwhile"
    )
    parser.add_argument("--seed", type=int, help="of the times of the kills; default: random")
    chosen = parser.parse_args(arguments)
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    plan = Plan(
        data=chosen.data.absolute(), kills=chosen.kills, seconds=chosen.seconds, seed=seed,
        producers=chosen.producers, partitions=chosen.partitions,
        nodes=chosen.nodes, progress=_say,
    )  # fmt: skip
    try:
        verdict = check(plan)
    except (BenchError, OSError) as error:
        _say(f"NO PROOF: {error}")
        return EXIT_NO_PROOF
    sys.stdout.write(describe(verdict, plan))
    if verdict.is_harness_failure:
        return EXIT_NO_PROOF
    return EXIT_VALID if verdict.is_valid else EXIT_BROKEN


def describe(verdict: Verdict, plan: Plan) -> str:
    """Return the verdict as a person reads it, with how to run it again."""
    word = "NO PROOF" if verdict.is_harness_failure else "VALID" if verdict.is_valid else "BROKEN"
    lines = [
        f"{word}: {verdict.acknowledged} of {verdict.sent} records acknowledged",
        f"  {verdict.kills} kills, slowest start {verdict.slowest_start_s:.2f} s",
        f"  {verdict.unknown} attempts of unknown end, {verdict.unknown_but_present} in the log",
        f"  {verdict.records} records in the log",
    ]
    for kind, count in verdict.counts().most_common():
        lines.append(f"  {kind}: {count}")
        examples = [finding for finding in verdict.findings if finding.kind == kind]
        lines += [f"    {finding.detail}" for finding in examples[:EXAMPLES_MAX]]
    lines.append(
        f"  again: python -m bench.checker --kills {plan.kills} --seconds {plan.seconds:g} "
        f"{f'--nodes {plan.nodes} ' if plan.nodes else ''}--seed {plan.seed} --data DIR"
    )
    return "\n".join(lines) + "\n"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
