"""Erasure coding: the codec beside ISA-L's bare call, and whole segments beside a plain copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.measurement import Measurement, Window
from bench.runner import Plan, Run, as_megabytes
from bench.suites.beside import encode_beside_rows
from bench.suites.shapes import GIB
from ec.errors import KernelError
from ec.kernels import isal

PROFILES: Final = ("4+2", "6+3", "10+4")
# More k at the same m, more m at the same k, and what people choose.
CURVE_PROFILES: Final = ("2+1", "4+1", "4+2", "4+4", "6+3", "8+2", "8+4", "10+4", "16+4")
CEILING: Final = "the bare ec_encode_data"


def encode_rows(run: Run) -> list[Measurement]:
    """Code from memory with both kernels, and encode a segment of 1 GiB to six directories."""
    profiles = CURVE_PROFILES if run.options.curves else PROFILES
    plans = []
    for profile in profiles:
        if _has_isal():
            plans.append(_code(run, profile, "isal"))
        if profile in PROFILES:
            plans.append(_code(run, profile, "portable"))
    rows = run.rows(plans)
    spec = {"directory": str(run.directory), "profile": "4+2", "bytes": GIB}
    rows.append(
        run.row(
            "encode 1 GiB, 4+2, six directories", "MB/s", _job(run, "encode", **spec),
            ceiling=_ceiling(run, "bare-encode", **spec),
            ceiling_name="a plain copy of 1.5 GiB, as durable and as well read back",
            prime=True,
        )
    )  # fmt: skip
    return rows + encode_beside_rows(run)


def _code(run: Run, profile: str, kernel: str) -> Plan:
    """The curve is over k times m: the work of coding a stripe grows with that."""
    k, m = map(int, profile.split("+"))
    bare = kernel == "isal"
    return Plan(
        f"code {profile} with block checksums, {'ISA-L' if bare else 'portable'}", "MB/s",
        _job(run, "code", profile=profile, kernel=kernel),
        ceiling=_ceiling(run, "bare-code", profile=profile) if bare else None,
        ceiling_name=CEILING if bare else None,
        conditions={"k": k, "m": m, "coded_by": kernel, "curve": "parity chunks times data chunks",
                    "x": k * m, "chart": f"coding from memory, {kernel}, by k times m"},
    )  # fmt: skip


def _has_isal() -> bool:
    try:
        isal.load()
    except KernelError:
        return False
    return True


def _ceiling(run: Run, job: str, **spec: object) -> Callable[[Window], Window]:
    measure = _job(run, job, **spec)
    return lambda _: measure()


def _job(run: Run, job: str, **spec: object) -> Callable[[], Window]:
    return lambda: as_megabytes(run.job(job, **spec))
