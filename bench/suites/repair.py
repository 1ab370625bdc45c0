"""Making lost chunks again: one, and as many as may be lost, beside a bare decode of the files.

MB/s are of lost chunks. What is measured is the library on local directories; how soon a server
begins and how much it may take of its nodes are settings, not speeds. Scrub rows verify all chunks
of the segment, one after the other. What others on the disk notice of a repair: `beside`.
"""

from __future__ import annotations

from bench.measurement import Measurement, Window
from bench.process import run_job
from bench.runner import JOB_TIMEOUT_S, Plan, Run, as_megabytes, window_of
from bench.suites.beside import repair_beside_rows
from bench.suites.loss import loss_rows
from bench.suites.shapes import MIB, counted
from ec.profile import Profile

PROFILES = ("4+2", "10+4")
SEGMENT_BYTES = 256 * MIB
CEILING = "k chunks read side by side, decoded, written, synced and read back"


def repair_rows(run: Run) -> list[Measurement]:
    """One lost chunk and m of them, for two profiles; with curves a whole node."""
    rows: list[Measurement] = []
    for profile in PROFILES:
        directory = str(run.directory / f"repair-{profile}")
        (run.directory / f"repair-{profile}").mkdir()
        run.options.progress(f"encoding a segment as {profile}")
        spec = {"directory": directory, "profile": profile, "bytes": SEGMENT_BYTES, "keep": True}
        run_job("encode", spec, timeout_s=JOB_TIMEOUT_S)
        losses = sorted({1, Profile.parse(profile).m})
        rows += run.rows([_plan(directory, profile, lost) for lost in losses])
        if profile == PROFILES[0]:
            rows += run.rows([_scrub_plan(directory, profile, cold=cold) for cold in (True, False)])
    return rows + repair_beside_rows(run) + loss_rows(run)


def _scrub_plan(directory: str, profile: str, *, cold: bool) -> Plan:
    spec = {"directory": directory, "profile": profile, "cold": cold}
    where = "the device" if cold else "the page cache"

    def measure(job: str) -> Window:
        return as_megabytes(window_of(run_job(job, spec, timeout_s=JOB_TIMEOUT_S)))

    return Plan(
        f"scrub chunks of {profile} from {where}", "MB/s", lambda: measure("scrub-chunks"),
        ceiling=lambda _: measure("bare-scrub"),
        ceiling_name="1 MiB a read, XXH3-64 of each 64 KiB",
        conditions={"cache": "cold: the chunks' pages dropped" if cold else "warm"},
    )  # fmt: skip


def _plan(directory: str, profile: str, lost: int) -> Plan:
    spec = {"directory": directory, "profile": profile, "lost": lost}
    noted: dict[str, object] = {"cache": "cold: the chunks' pages dropped", "profile": profile}

    def ours() -> Window:
        answer = run_job("rebuild-chunks", spec, timeout_s=JOB_TIMEOUT_S)
        noted["read_bytes_a_byte_made"] = answer["read_per_byte"]
        return as_megabytes(window_of(answer))

    return Plan(
        f"repair {counted(lost, 'chunk')} of {profile}", "MB/s", ours,
        ceiling=lambda _: as_megabytes(
            window_of(run_job("bare-rebuild", spec, timeout_s=JOB_TIMEOUT_S))
        ),
        ceiling_name=CEILING,
        conditions=noted,
    )  # fmt: skip
