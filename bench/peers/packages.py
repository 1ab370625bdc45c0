"""Where the peers' programs come from: their packages, by name, through the usual clients.

Maven for Kafka's jars, apt for Redis, go for the NATS server and for a coding library, pip for
another. Each is got once, into a directory
beside other caches of this user and outside the repository; nothing is installed, no service is
started. What cannot be had is `UnavailableError`, with a reason that is printed: what is measured
of a peer that is not there must not look as if it had been won.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

DOWNLOAD_TIMEOUT_S: Final = 300.0
VERSION_TIMEOUT_S: Final = 30.0


class UnavailableError(Exception):  # A reason to leave a peer out, no error.
    """This machine has no such program and cannot get it; the text says why."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be run: its path, and where its shared libraries are if not usual."""

    path: Path
    libraries: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return what must be added to the environment to run it."""
        return {} if self.libraries is None else {"LD_LIBRARY_PATH": str(self.libraries)}


def cache() -> Path:
    """Return the directory that keeps what was got."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    place = Path(base) / "logd-bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def tool(name: str) -> str:
    """Return the path of a program that the machine must have.

    Raises:
        UnavailableError: it has none.
    """
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"no {name} on this machine")
    return found


def say(command: Sequence[str], *, environment: dict[str, str] | None = None,
        timeout_s: float = VERSION_TIMEOUT_S, cwd: Path | None = None) -> str:  # fmt: skip
    """Run a command to its end; return what it wrote to stdout and stderr.

    Raises:
        UnavailableError: it failed or took too long; the text has its first line of complaint.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=cwd,
            env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"{Path(command[0]).name} had not ended in {timeout_s:g} s"
        ) from None
    said = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise UnavailableError(
            f"{Path(command[0]).name} failed: {said.partition(chr(10))[0][:200]}"
        )
    return said


@contextmanager
def _filled_once(name: str) -> Iterator[Path | None]:
    """Yield a directory to fill, or None when an earlier run has filled it.

    It is renamed into its place at the end: half a download is never used.
    """
    place = cache() / name
    if place.is_dir():
        yield None
        return
    with tempfile.TemporaryDirectory(dir=cache(), prefix="getting-") as work:
        filled = Path(work, "filled")
        filled.mkdir()
        yield filled
        try:
            filled.rename(place)
        except OSError:
            if not place.is_dir():  # It is there when another run was faster: as good as ours.
                raise


# --- Maven --------------------------------------------------------------------------------------

_POM: Final = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>logd.bench</groupId>
  <artifactId>peer</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>{dependencies}</dependencies>
</project>
"""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A Maven artifact by its coordinates, and what it names that is not to be got."""

    group: str
    name: str
    version: str
    without: tuple[str, ...] = ()  # names in the same group

    def xml(self) -> str:
        """Return it as a dependency of a POM."""
        left_out = "".join(
            f"<exclusion><groupId>{self.group}</groupId><artifactId>{name}</artifactId></exclusion>"
            for name in self.without
        )
        return (
            f"<dependency><groupId>{self.group}</groupId><artifactId>{self.name}</artifactId>"
            f"<version>{self.version}</version><exclusions>{left_out}</exclusions></dependency>"
        )


def maven_jars(name: str, artifacts: Sequence[Artifact]) -> Path:
    """Return a directory with the artifacts and all that they need at run time.

    Raises:
        UnavailableError: there is no mvn, or it could not get them.
    """
    with _filled_once(name) as place:
        if place is not None:
            pom = place.parent / "pom.xml"
            pom.write_text(_POM.format(dependencies="".join(a.xml() for a in artifacts)))
            goal = ["dependency:copy-dependencies", "-DincludeScope=runtime"]
            command = [tool("mvn"), "-B", "-q", "-Dstyle.color=never", "-f", str(pom), *goal]
            say([*command, f"-DoutputDirectory={place}"], timeout_s=DOWNLOAD_TIMEOUT_S)
    return cache() / name


# --- Go -----------------------------------------------------------------------------------------


def go_program(module: str, version: str) -> Program:
    """Return the program of a Go module, built here.

    Raises:
        UnavailableError: there is no go, or it could not build it.
    """
    name = module.rsplit("/", 2)[-2] if module.rpartition("/")[2][:1] == "v" else module
    directory = f"{name}-{version}"
    with _filled_once(directory) as place:
        if place is not None:
            command = [tool("go"), "install", f"{module}@v{version}"]
            say(command, environment={"GOBIN": str(place)}, timeout_s=DOWNLOAD_TIMEOUT_S,
                cwd=place.parent)  # fmt: skip
    return Program(cache() / directory / name)


def go_directory(source: Path, name: str) -> Program:
    """Return the program of a directory of Go source, built here with the modules it asks for.

    Raises:
        UnavailableError: there is no go, or it could not build it.
    """
    with _filled_once(name) as place:
        if place is not None:
            work = place.with_name("source")
            shutil.copytree(source, work)
            go = tool("go")
            # Sums of modules come with them, from the proxy, and are kept nowhere else.
            say([go, "mod", "tidy"], timeout_s=DOWNLOAD_TIMEOUT_S, cwd=work)
            say([go, "build", "-o", str(place / "program"), "."], timeout_s=DOWNLOAD_TIMEOUT_S,
                cwd=work)  # fmt: skip
    return Program(cache() / name / "program")


# --- Python -------------------------------------------------------------------------------------


def python_library(name: str, version: str) -> Path:
    """Return a directory with a library from PyPI, which nothing else sees.

    Raises:
        UnavailableError: pip could not get it.
    """
    directory = f"python-{name}-{version}"
    with _filled_once(directory) as place:
        if place is not None:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--target",
                str(place),
                f"{name}=={version}",
            ]
            say(command, timeout_s=DOWNLOAD_TIMEOUT_S)  # fmt: skip
    return cache() / directory


# --- Debian -------------------------------------------------------------------------------------


def debian_program(package: str, program: str) -> Program:
    """Return a program that the machine has, or that of a Debian package, unpacked and no more.

    Raises:
        UnavailableError: neither is to be had.
    """
    installed = shutil.which(program)
    if installed is not None:
        return Program(Path(installed))
    with _filled_once(f"debian-{package}") as place:
        if place is not None:
            _unpack(package, place)
    root = cache() / f"debian-{package}"
    return Program(root / "usr/bin" / program, _libraries(root))


def _unpack(package: str, place: Path) -> None:
    """Unpack the package, and those of what it needs that the machine lacks."""
    plan = say([tool("apt-get"), "install", "-s", "--no-install-recommends", package])
    names = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    if not names:
        raise UnavailableError(f"apt-get would install nothing for {package}")
    with tempfile.TemporaryDirectory() as work:
        say([tool("apt-get"), "download", *names], timeout_s=DOWNLOAD_TIMEOUT_S, cwd=Path(work))
        for file in sorted(Path(work).glob("*.deb")):
            say([tool("dpkg-deb"), "-x", str(file), str(place)])


def _libraries(root: Path) -> Path | None:
    found = sorted(root.glob("usr/lib/*-linux-*"))
    return found[0] if found else None
