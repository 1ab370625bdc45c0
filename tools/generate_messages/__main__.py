"""The command line of the generator; the package's docstring has its usage."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.generate_messages.module import APIS, all_files
from tools.generate_messages.schema import read_api

DIRECTORY = Path(__file__).resolve().parents[2] / "logd" / "wire" / "messages"


def stale_files(directory: Path, files: dict[str, str]) -> list[str]:
    """Return the names of files that differ from what they should be, are missing, or too many."""
    present = {path.name: path.read_text("utf-8") for path in directory.glob("*.py")}
    return sorted(name for name in files | present if files.get(name) != present.get(name))


def main() -> int:
    """Write the modules, or check them; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate_messages")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if stale")
    arguments = parser.parse_args()
    files = all_files([read_api(name) for name in APIS])
    stale = stale_files(DIRECTORY, files)
    for name in stale:
        path = DIRECTORY / name
        sys.stdout.write(f"{'stale' if arguments.check else 'writing'}: {path}\n")
        if arguments.check:
            continue
        if name in files:
            path.write_text(files[name], "utf-8")
        else:
            path.unlink()
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
