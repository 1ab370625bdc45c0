"""Write docs/cli.md from the help texts of the program: `python -m tools.cli_page`.

A test holds the checked-in page against what is written here, so the page cannot drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from cli.main import root

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
WIDTH = 100

_INTRODUCTION = """\
# The command line

Made from the program's own help by `python -m tools.cli_page`; do not edit.

- `--bootstrap`, `--admin` and `--json` are accepted before and after the sub-command.
- With `--json` there is one JSON document on stdout, or a JSON line each where the output is a
  stream (`consume`, `dump`), and nothing else. Progress goes to stderr, and only to a terminal.
- Sizes and durations may be written `64MiB`, `1GB`, `7d`, `90s`. JSON has plain numbers with the
  unit in the name (`_bytes`, `_ms`, `_s`).
- What deletes, or moves a group's offsets, asks first, unless `--yes`; without a terminal and
  without `--yes` it refuses with exit code 2. `--dry-run` only says what would happen.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | refused or failed; the reason is on stderr, with `--json` as `{"error": …, "exit_code": 1}` |
| 2 | wrong usage or configuration |
| 3 | the server cannot be reached |
| 4 | the command ran, and data is at risk, damaged or lost |
| 130 | interrupted |
| 143 | ended by SIGTERM, with everything put in order first (`consume --group`) |
"""


def render() -> str:
    """Return the text of the page."""
    return _INTRODUCTION + "".join(_sections(root, "logd", None))


def _sections(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield f"\n## {context.command_path}\n\n```text\n{_help(command, context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _sections(found, child, context)


def _help(command: click.Command, context: click.Context) -> str:
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
