"""`python -m bench NAME`: the benchmarks without the command line of logd around them.

It has what `logd bench` has, and how much is measured in detail.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import bench

EXIT_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run a benchmark; print its table. Returns the exit code."""
    chosen = _parser().parse_args(arguments)
    options = bench.Options(
        seconds=chosen.seconds, repetitions=chosen.pairs, curves=chosen.curves, progress=_say
    )
    if chosen.fill is not None:
        options = replace(options, fill_bytes=chosen.fill)
    if chosen.prime is not None:
        options = replace(options, prime_bytes=chosen.prime)
    try:
        before = bench.read_json(chosen.against) if chosen.against else []
        results = bench.measure(chosen.name, directory=chosen.dir, options=options)
    except (bench.BenchError, bench.AnswerError, bench.NotAvailableError, ValueError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    rows = results.rows
    changes = bench.compare(rows, before)
    bench.print_table(rows, comparisons=changes, skipped=results.skipped)
    if chosen.out:
        bench.write_json(rows, chosen.out)
    if chosen.report:
        bench.write_report(results, chosen.report, comparisons=changes)
    for suite, reason in results.failed.items():
        _say(f"FAILED {suite}: {reason}")
    return 1 if results.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=bench.NAMES)
    parser.add_argument("--dir", help="on the disk to be measured; default: here")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one window")
    parser.add_argument("--pairs", type=int, default=5, help="windows of each side")
    parser.add_argument("--curves", action="store_true", help="also how figures scale")
    parser.add_argument("--fill", type=int, help="bytes of log for the start-up rows")
    parser.add_argument("--prime", type=int, help="bytes of page cache to touch; 0 for none")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    parser.add_argument("--against", help="compare with the rows in this file")
    parser.add_argument("--report", help="write index.html and measurements.json here")
    return parser


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
