"""Erasure coding: the codec beside ISA-L's bare call, and whole segments beside a plain copy."""

from __future__ import annotations

from collections.abc import Callable

from bench.measurement import Measurement, Window
from bench.runner import Run, as_megabytes
from bench.suites.shapes import GIB
from ec.errors import KernelError
from ec.kernels import isal


def encode_rows(run: Run) -> list[Measurement]:
    """Code from memory with both kernels, and encode a segment of 1 GiB to six directories."""
    rows = []
    for profile in ("4+2", "6+3", "10+4"):
        name = f"code {profile} with block checksums"
        if _has_isal():
            rows.append(
                run.row(
                    f"{name}, ISA-L", "MB/s", _job(run, "code", profile=profile, kernel="isal"),
                    ceiling=_ceiling(run, "bare-code", profile=profile),
                    ceiling_name="the bare ec_encode_data",
                )
            )  # fmt: skip
        rows.append(
            run.row(
                f"{name}, portable", "MB/s", _job(run, "code", profile=profile, kernel="portable")
            )
        )
    spec = {"directory": str(run.directory), "profile": "4+2", "bytes": GIB}
    rows.append(
        run.row(
            "encode 1 GiB, 4+2, six directories", "MB/s", _job(run, "encode", **spec),
            ceiling=_ceiling(run, "bare-encode", **spec),
            ceiling_name="a plain copy of 1.5 GiB, as durable and as well read back",
            repetitions=1, prime=True,
        )
    )  # fmt: skip
    return rows


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
