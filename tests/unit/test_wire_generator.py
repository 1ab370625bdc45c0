"""The generator writes what is checked in, and reads schemas as Kafka means them."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

from logd.wire import messages
from tools.generate_messages.__main__ import DIRECTORY, stale_files
from tools.generate_messages.layout import Span
from tools.generate_messages.module import APIS, all_files
from tools.generate_messages.schema import Versions, read_api, snake_case

FILES = all_files([read_api(name) for name in APIS])


def test_checked_in_modules_are_what_the_generator_writes() -> None:
    """`python -m tools.generate_messages` would change nothing."""
    assert stale_files(DIRECTORY, FILES) == []


def test_stale_files_are_found(tmp_path: Path) -> None:
    """A file that differs, one that is missing and one too many are all stale."""
    (tmp_path / "same.py").write_text("a = 1\n")
    (tmp_path / "differs.py").write_text("a = 2\n")
    (tmp_path / "extra.py").write_text("")
    files = {"same.py": "a = 1\n", "differs.py": "a = 1\n", "missing.py": ""}
    assert stale_files(tmp_path, files) == ["differs.py", "extra.py", "missing.py"]


def test_no_description_is_copied() -> None:
    """The schemas' descriptions are other people's sentences: none is in a generated module."""
    package = importlib.util.find_spec("kafka")
    assert package is not None
    assert package.origin is not None
    resources = Path(package.origin).parent / "protocol/schemas/resources"
    generated = "\n".join(FILES.values())
    found = 0
    for path in resources.glob("*.json"):
        for about in re.findall(r'"about":\s*("(?:[^"\\]|\\.)*")', path.read_text("utf-8")):
            found += 1
            assert json.loads(about).rstrip(". ") not in generated
    assert found > 500, "the descriptions were not found at all"


def test_generated_modules_say_where_they_come_from() -> None:
    """Every module's head says how it was made, whose the schema is, and has a docstring."""
    for name, text in FILES.items():
        first, second, *_ = text.splitlines()
        assert "python -m tools.generate_messages" in first, name
        assert "Apache Kafka's, Apache License 2.0" in second, name
        assert ast.get_docstring(ast.parse(text)), name


def test_generated_lines_fit() -> None:
    """Generated code keeps to the line length of the rest."""
    for name, text in FILES.items():
        assert max(len(line) for line in text.splitlines()) <= 100, name


def test_the_table_of_flexible_versions_is_the_modules() -> None:
    """The package's table and each module's constants agree."""
    assert len(messages.FIRST_FLEXIBLE_VERSIONS) == len(APIS)
    for name in APIS:
        api = read_api(name)
        module = importlib.import_module(f"logd.wire.messages.{api.module}")
        first = messages.FIRST_FLEXIBLE_VERSIONS[module.API_KEY]
        assert first == module.FIRST_FLEXIBLE_VERSION
        assert (
            api.request.valid.low,
            api.request.valid.high,
        ) == (module.MIN_VERSION, module.MAX_VERSION)
        assert api.request.valid == api.response.valid
        assert api.request.flexible == api.response.flexible


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("3+", 3, 2**15 - 1), ("0-12", 0, 12), ("7", 7, 7), ("none", 1, 0), (None, 1, 0)],
)
def test_version_ranges_are_read(text: str | None, low: int, high: int) -> None:
    """Version ranges as the schemas write them; none is empty."""
    versions = Versions.parse(text)
    assert (versions.low, versions.high) == (low, high)
    assert bool(versions) == (low <= high)


@pytest.mark.parametrize(
    ("versions", "condition"),
    [
        ("0+", None),
        ("9-13", None),
        ("10+", "version >= 10"),
        ("0-12", "version <= 12"),
        ("10-11", "10 <= version <= 11"),
        ("11", "version == 11"),
        ("9", "version <= 9"),
    ],
)
def test_conditions_are_the_shortest(versions: str, condition: str | None) -> None:
    """A span of versions 9 to 13 tests only what it does not know already."""
    span = Span(Versions(9, 13), flexible=True)
    assert span.condition(Versions.parse(versions)) == condition


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TimeoutMs", "timeout_ms"),
        ("timeoutMs", "timeout_ms"),
        ("ISR", "isr"),
        ("LogDirs", "log_dirs"),
        ("ListOffsets", "list_offsets"),
    ],
)
def test_names_become_snake_case(name: str, expected: str) -> None:
    """Kafka's names become Python's."""
    assert snake_case(name) == expected
