"""Calls that have one place: the file system, time, randomness, threads, output.

Each rule names what is banned, where it is allowed all the same, and why it has that one place. An
exception is a line here, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from tests.tidy.layers import is_below_drivers, is_within
from tests.tidy.source import Module, Modules

_OS_FILE_CALLS = (
    "access", "chdir", "chmod", "chown", "copy_file_range", "creat", "fchmod", "fchown",
    "fdatasync", "fdopen", "fstat", "fstatvfs", "fsync", "ftruncate", "getcwd", "getxattr",
    "lchown", "link", "listdir", "listxattr", "lockf", "lseek", "lstat", "makedirs",
    "memfd_create", "mkdir", "mkfifo", "mknod", "open", "openpty", "pread", "preadv", "pwrite",
    "pwritev", "read", "readlink", "readv", "remove", "removedirs", "removexattr", "rename",
    "renames", "replace", "rmdir", "scandir", "sendfile", "setxattr", "splice", "stat",
    "statvfs", "symlink", "sync", "truncate", "unlink", "utime", "walk", "fwalk", "write",
    "writev", "posix_fadvise", "posix_fallocate",
)  # fmt: skip
_OS_PATH_CALLS = (
    "exists", "getatime", "getctime", "getmtime", "getsize", "isdir", "isfile", "islink",
    "ismount", "lexists", "realpath", "samefile", "sameopenfile", "expanduser",
)  # fmt: skip
_FILE_MODULES = ("fcntl", "fileinput", "glob", "pathlib", "shutil", "tempfile", "sqlite3")

PEOPLES_TOOLS = ("cli", "bench", "tools", "tests")


@dataclass(frozen=True)
class Ban:
    """What is banned where.

    Attributes:
        names: dotted names, not to be used or imported; what begins with one is banned too.
        calls: dotted names that may be named (as a type, say) but not called.
        applies: whether the rule holds for a module at all.
        reason: what to do instead.
    """

    names: tuple[str, ...]
    applies: Callable[[str], bool]
    reason: str
    calls: tuple[str, ...] = ()


def _outside(*allowed: str) -> Callable[[str], bool]:
    return lambda name: not is_within(name, allowed)


BANS = (
    Ban(
        (
            *(f"os.{call}" for call in _OS_FILE_CALLS),
            *(f"os.path.{call}" for call in _OS_PATH_CALLS),
            *_FILE_MODULES,
            "open",
            "io.open",
            "io.FileIO",
        ),
        _outside("logd.storage.files", *PEOPLES_TOOLS),
        "only logd/storage/files.py touches the file system, so that faults can be injected",
        calls=("mmap.mmap",),
    ),
    Ban(
        ("trio.to_thread", "threading.Thread", "threading.Timer", "concurrent", "_thread"),
        _outside("logd.offload", "ec.offload", *PEOPLES_TOOLS),
        "threads are started in the offload modules only",
    ),
    Ban(
        ("multiprocessing", "subprocess", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"),
        _outside("logd.broker.worker", *PEOPLES_TOOLS),
        "processes are started in logd/broker/worker.py only",
    ),
    Ban(
        ("time", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
         "datetime.date.today"),
        _outside("logd.clock", *PEOPLES_TOOLS),
        "only logd/clock.py asks what time it is; time comes in as a value",
    ),
    Ban(
        ("trio", "socket", "select", "selectors", "asyncio", "random", "secrets", "logging",
         "signal", "os.urandom", "os.getrandom", "uuid.uuid1", "uuid.uuid4", "os.environ",
         "os.getenv"),
        is_below_drivers,
        "below the drivers there is no event loop, socket, clock, randomness or logging",
    ),
    Ban(
        ("print", "input", "sys.exit", "exit", "quit", "os._exit", "breakpoint"),
        _outside(*PEOPLES_TOOLS),
        "only the command line talks to people and ends the process",
    ),
    Ban(
        ("eval", "exec", "pickle", "marshal", "shelve"),
        _outside("tests"),
        "data is never run",
    ),
)  # fmt: skip

# (module, name) -> why it is allowed there.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("logd.net.send", "os.sendfile"): "the slice is handed to the socket here",
    (
        "logd.storage.catalog_database",
        "sqlite3",
    ): "SQLite does its own file work; crash tests stop around it",
    ("logd.config.sources", "open"): "reads the user's own file of settings",
    ("logd.config.sources", "os.stat"): "reads the user's own file of settings",
}


def check_calls(modules: Modules) -> Iterator[str]:
    """Nothing is called, or imported, out of its place."""
    for module in modules.values():
        bans = [ban for ban in BANS if ban.applies(module.name)]
        seen: set[tuple[int, str]] = set()
        for ban in bans:
            for banned, line in _violations(module, ban):
                if (line, ban.reason) not in seen and (module.name, banned) not in EXCEPTIONS:
                    seen.add((line, ban.reason))
                    yield module.at(line, f"{banned}: {ban.reason}")


def _violations(module: Module, ban: Ban) -> Iterator[tuple[str, int]]:
    names, calls = frozenset(ban.names), frozenset(ban.calls)
    for name, line in (*module.uses, *module.imports):
        if (banned := _banned_name(name, names)) is not None:
            yield banned, line
    for name, line in module.calls if calls else ():
        if (banned := _banned_name(name, calls)) is not None:
            yield banned, line


def _banned_name(name: str, banned: Collection[str]) -> str | None:
    """Return the banned name that this is, or that it begins with."""
    end = len(name)
    while end > 0:
        if name[:end] in banned:
            return name[:end]
        end = name.rfind(".", 0, end)
    return None


def check_exceptions_are_needed(modules: Modules) -> Iterator[str]:
    """An exception that no code uses any more is taken out of the table."""
    for (module_name, banned), reason in EXCEPTIONS.items():
        module = modules.get(module_name)
        if module is not None and not _uses(module, banned):
            yield module.at(1, f"the exception for {banned} ({reason}) is not used")


def _uses(module: Module, banned: str) -> bool:
    return any(_banned_name(name, (banned,)) for name, _ in (*module.uses, *module.imports))
