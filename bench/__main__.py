"""`python -m bench NAME`: the benchmarks without the command line of logd around them."""

from __future__ import annotations

import argparse
import sys

import bench


def main(arguments: list[str]) -> int:
    """Run a benchmark; print its table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=bench.NAMES)
    parser.add_argument("--dir", help="on the disk to be measured; default: here")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one window")
    parser.add_argument("--repetitions", type=int, default=3, help="windows of each side")
    parser.add_argument("--fill", type=int, help="bytes of log for the start-up rows")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    parser.add_argument("--against", help="compare with the rows in this file")
    parser.add_argument("--report", help="write measurements.json and report.md here")
    chosen = parser.parse_args(arguments)
    options = bench.Options(seconds=chosen.seconds, repetitions=chosen.repetitions)
    try:
        before = bench.read_json(chosen.against) if chosen.against else []
        rows = bench.run(
            chosen.name, directory=chosen.dir, options=_filled(options, chosen.fill), progress=_say
        )
    except (bench.BenchError, bench.AnswerError, bench.NotAvailableError, ValueError) as error:
        _say(str(error))
        return 1
    bench.print_table(rows, comparisons=bench.compare(rows, before))
    if chosen.out:
        bench.write_json(rows, chosen.out)
    if chosen.report:
        bench.write_report(rows, chosen.report)
    return 0


def _filled(options: bench.Options, fill_bytes: int | None) -> bench.Options:
    from dataclasses import replace

    return options if fill_bytes is None else replace(options, fill_bytes=fill_bytes)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
