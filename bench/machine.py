"""What the figures of a run depend on, apart from the code: processor, kernel, disk, versions.

No name of a host and no path is in it: results are published.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from bench.process import ROOT

# Libraries on whose speed figures depend.
LIBRARIES: Final = ("trio", "crc32c", "pyeclib", "zstandard")
_CONGESTION_CONTROL: Final = Path("/proc/sys/net/ipv4/tcp_congestion_control")
_FLUSHES: Final = 15  # The field of a block device's stat that counts flushes it completed.


@dataclass(frozen=True, slots=True)
class Device:
    """What the kernel says of the block device below a directory; None where it does not.

    kind: "hard disk", "solid state", "virtual disk", "memory" or "unknown".
    write_cache: "write back": it may lose what it was sent until it is told to flush; "write
        through": it says that it keeps what it has acknowledged.
    """

    name: str
    kind: str
    write_cache: str | None = None
    stat: Path | None = None

    def flushes(self) -> int | None:
        """Return how many flushes the device has completed so far, for whomever."""
        if self.stat is None:
            return None
        fields = self.stat.read_text(encoding="ascii").split()
        return int(fields[_FLUSHES]) if len(fields) > _FLUSHES else None


def machine_of(directory: Path) -> dict[str, Any]:
    """Return what the figures of a run in `directory` depend on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "file_system": file_system(directory),
        "congestion_control": congestion_control(),
        "load_1m_at_start": round(os.getloadavg()[0], 2),
    }


def congestion_control() -> str:
    """Return the system's, which paces or does not, also what a server sends over loopback."""
    try:
        return _CONGESTION_CONTROL.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def conditions_of(directory: Path) -> dict[str, Any]:
    """Return the conditions that every row of a run carries: the machine, and the versions."""
    device = device_of(directory)
    return {
        **machine_of(directory),
        "device": device.kind,
        "write_cache": device.write_cache or "unknown",
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of this project and of the libraries that do the work."""
    from logd import __version__

    found = {"logd": __version__, "commit": commit()}
    return {key: value for key, value in found.items() if value} | {
        name: _version(name) for name in LIBRARIES
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the checkout's commit, with a + when files differ from it; empty without git."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def file_system(directory: Path) -> str:
    """Return the type of the file system, by its device number."""
    wanted = _device_number(directory)
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            return after.split()[0]
    return "unknown"


def device_of(directory: Path) -> Device:
    """Return the block device below a directory, as far as the kernel tells."""
    if file_system(directory) in ("tmpfs", "ramfs"):
        return Device("memory", "memory")
    place = Path("/sys/dev/block", _device_number(directory))
    if not place.exists():  # Several devices (btrfs), none (network), or a container's view.
        return Device("unknown", "unknown")
    place = place.resolve()
    disk = place.parent if (place / "partition").exists() else place
    return Device(disk.name, _kind(disk), _word(disk / "queue/write_cache"), stat=disk / "stat")


def _device_number(directory: Path) -> str:
    number = directory.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _kind(disk: Path) -> str:
    """Virtual disks often say that they rotate; what is below them nobody can see from here."""
    if disk.name.startswith(("vd", "xvd", "loop")) or "virtio" in str(disk):
        return "virtual disk"
    if disk.name.startswith(("zram", "ram")):
        return "memory"
    return {"1": "hard disk", "0": "solid state"}.get(_word(disk / "queue/rotational") or "",
                                                      "unknown")  # fmt: skip


def _word(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # Device mapper and others have no such file.
        return None
