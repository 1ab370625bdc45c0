"""What documents and help texts tell people to type exists: commands, options, settings, metrics.

A command is what stands behind the word `logd` in a code span, a block of code or an example of a
help text, up to a comment or the shell's next word. Its words are followed through the program's
own tree of commands, so a renamed option cannot stay in a page. `a|b|c` stands for each of them.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import root
from logd.config import SERVER_SETTINGS, TOPIC_SETTINGS
from logd.config.server import SERVER_ALIASES
from tools.metrics_page import metrics

ROOT = Path(__file__).parent.parent.parent
GENERATED = {"docs/cli.md", "docs/benchmarks.md"}
PAGES = sorted(
    page
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "bench" / "README.md")
    if str(page.relative_to(ROOT)) not in GENERATED
)

_SPAN = re.compile(r"`([^`\n]+)`")
_COMMAND = re.compile(r"(?:^|[|;&(] *|exec |bin/)logd ((?:--\w|\[?-|[a-z]).*)")
_SETTING = re.compile(
    r"(?<![\w.])[a-z][a-z0-9]*(?:\.[a-z0-9]+)+"
    r"\.(?:ms|bytes|minutes|enable|max|slots|threads|ratio|partitions)(?!\.?\w)"
)
_METRIC = re.compile(r"logd_[a-z0-9_]*[a-z0-9](?![a-z0-9_]*…)")
_SHELL = {"|", "<", ">", ">>", "&", "&&", "||", ";", "2>&1"}


def code_lines(text: str) -> Iterator[str]:
    """Yield the lines of blocks of code, fenced or indented by four, and all code spans."""
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line.strip()
        else:
            yield from _SPAN.findall(line)


def help_lines(command: click.Command) -> Iterator[str]:
    """Yield all examples, and the code spans, of a command's help and of those below it."""
    yield from code_lines("\n".join(f"  {line}" for line in (command.help or "").splitlines()))
    if isinstance(command, click.Group):
        for child in command.commands.values():
            yield from help_lines(child)


def words_of(line: str) -> list[str] | None:
    """Return what stands behind `logd` on a line of code; None where no command does."""
    found = _COMMAND.search(line)
    if found is None:
        return None
    text = re.split(r"\s#\s|\s{4,}|\s\(", found[1])[0]
    words = []
    for word in shlex.split(text.rstrip("\\"), comments=False):
        if word in _SHELL:
            break
        words.append(word)
    return words


def problem_of(words: list[str]) -> str | None:
    """Return what is wrong with a command line as it is written in a page; None: nothing."""
    commands: list[click.Command] = [root]
    options = set(_options(root))
    for word in words:
        bare = word.strip("[].,:…")
        if bare.startswith("--"):
            missing = [o for o in bare.split("|") if o.split("=")[0] not in options]
            if missing:
                return f"no option {missing[0]}"
        elif all(isinstance(each, click.Group) for each in commands) and bare:
            found = [_child(commands, name) for name in bare.split("|")]
            if None in found:
                return f"no command {bare}"
            commands = [each for each in found if each is not None]
            options |= {option for each in commands for option in _options(each)}
    return None


def _child(commands: list[click.Command], name: str) -> click.Command | None:
    for command in commands:
        if isinstance(command, click.Group) and name in command.commands:
            return command.commands[name]
    return None


def _options(command: click.Command) -> Iterator[str]:
    yield from ("-h", "--help")
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


def problems(lines: Iterator[str]) -> list[str]:
    """Return all that is wrong with the commands on lines of code."""
    found = []
    for line in lines:
        words = words_of(line)
        problem = None if words is None else problem_of(words)
        if problem is not None:
            found.append(f"{line!r}: {problem}")
    return found


@functools.cache
def all_metrics() -> set[str]:
    """Return the names of all metrics; found by reading all of the source, so once."""
    return set(metrics())


def page_id(page: Path) -> str:
    """Return a page's name for test reports."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_pages_exist(page: Path) -> None:
    """Every `logd …` of a document names a command, and options that it has."""
    assert problems(code_lines(page.read_text(encoding="utf-8"))) == []


def test_commands_in_help_texts_exist() -> None:
    """Every example and every code span of a help text names a command, and options it has."""
    lines = list(help_lines(root))
    assert sum(words_of(line) is not None for line in lines) > 30
    assert problems(iter(lines)) == []


@pytest.mark.parametrize(
    "line",
    [
        "logd tpoic list",
        "logd topic lst",
        "seq 10 | logd produce numbers --partitoin 0",
        ".venv/bin/logd node list|ad",
        "logd serve --data /srv/logd --nod a=/x",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    """The comparison can fail: a command, a sub-command, an option with a slip of the pen."""
    assert problems(iter([line])) != []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_settings_in_pages_exist(page: Path) -> None:
    """A word in code that looks like a setting is one of the server's or of a topic's."""
    known = {*SERVER_SETTINGS, *TOPIC_SETTINGS, *SERVER_ALIASES}
    text = "\n".join(code_lines(page.read_text(encoding="utf-8")))
    assert {name for name in _SETTING.findall(text) if name not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_metrics_in_pages_exist(page: Path) -> None:
    """A word in code that looks like a metric is one, or one of a histogram's three parts."""
    known = all_metrics()
    text = "\n".join(code_lines(page.read_text(encoding="utf-8")))
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _METRIC.findall(text)}
    assert {name for name in named if name not in known} == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_targets_of_make_in_pages_exist(page: Path) -> None:
    """A `make …` of a document names a target of the Makefile."""
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))
    text = "\n".join(code_lines(page.read_text(encoding="utf-8")))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", text)) <= targets
