"""Members of groups in JavaScript and in Go: our programs, with clients got by package name.

Client and compiled program are kept outside of the repository, under a name made of what they are
made of, so that a second run needs no network. What a machine lacks for that is a reason to skip,
said in the test report; a program that does not compile, or fails, is not.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
NODE = HERE / "node"
GO = HERE / "go"
NODE_AT_LEAST = 14  # kafkajs does not start on less.
CHATTER = re.compile(r"npm warn |go: downloading |$")  # Lines that say no reason.
DOWNLOAD_TIMEOUT_S = 90  # Below pytest's own, so that a slow network skips and does not fail.


class UnavailableError(Exception):  # A reason to skip, no error.
    """This machine cannot run the program; the text says why."""


def kafkajs_member() -> tuple[str, ...]:
    """Return the command of the kafkajs program, without its arguments.

    Raises:
        UnavailableError: there is no node of the right age, no npm, or no way to the registry.
    """
    node = _program("node")
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.match(r"v(\d+)", said)
    if version is None or int(version[1]) < NODE_AT_LEAST:
        raise UnavailableError(f"kafkajs needs Node.js {NODE_AT_LEAST}; here is {said.strip()}")
    packages = (NODE / "package.json", NODE / "package-lock.json")
    modules = _kept("kafkajs", packages, _install) / "node_modules"
    # Node.js looks for packages beside the program, or where this tells it to.
    return ("/usr/bin/env", f"NODE_PATH={modules}", node, str(NODE / "member.js"))


def franz_go_member() -> tuple[str, ...]:
    """Return the command of the franz-go program, without its arguments.

    Raises:
        UnavailableError: there is no go of the right age, or no way to the module proxy.
    """
    _program("go")
    sources = (GO / "go.mod", GO / "go.sum", GO / "main.go")
    return (str(_kept("franz-go", sources, _build) / "member"),)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"no {name} on this machine")
    return path


def _kept(name: str, sources: tuple[Path, ...], make: Callable[[Path], None]) -> Path:
    """Return the directory that `make` fills from these sources, filled now if it never was.

    It is filled under another name and then renamed: half of it is never used.
    """
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "logd-tests"
    kept = cache / f"{name}-{digest}"
    if kept.is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        work = Path(scratch, "work")
        work.mkdir()
        make(work)
        try:
            work.rename(kept)
        except OSError:
            if not kept.is_dir():  # It is there when another run was faster: as good as ours.
                raise
    return kept


def _install(directory: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(NODE / name, directory)
    npm = _program("npm")
    _get((npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"), directory, "kafkajs")


def _build(directory: Path) -> None:
    go = _program("go")
    _get((go, "mod", "download"), GO, "franz-go")
    done = subprocess.run(
        (go, "build", "-o", str(directory / "member"), "."),
        cwd=GO, env=_go_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _go_environment() -> dict[str, str]:
    # Go would get a newer toolchain by itself; this machine's own is to do, or none.
    return {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}


def _get(command: tuple[str, ...], directory: Path, what: str) -> None:
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command, cwd=directory, env=_go_environment(), capture_output=True, text=True,
            timeout=DOWNLOAD_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{tool} had not got {what} in {DOWNLOAD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if not CHATTER.match(line)]
        raise UnavailableError(f"{tool} could not get {what}: {(said or ['it said nothing'])[0]}")
