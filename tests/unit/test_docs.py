"""Documents say what the source does: tables of bytes, requests and settings, and links."""

from __future__ import annotations

import importlib
import re
import struct
from pathlib import Path

import pytest

from logd.broker.apis import APIS
from tools import metrics_page
from tools.configuration_page import PAGE, render

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])

_MARKER = re.compile(r"<!-- struct: (?P<name>[\w.]+) -->")
_ITEM = re.compile(r"(\d*)([a-zA-Z?])")
_LINK = re.compile(r"\[[^]]*\]\((?!https?:)([^)#\s]+)")


def page_id(page: Path) -> str:
    """Return a page's name for test reports."""
    return str(page.relative_to(ROOT))


def find_struct(name: str) -> struct.Struct:
    """Return the Struct of a dotted name: module, perhaps class, attribute."""
    parts = name.split(".")
    for at in range(len(parts) - 1, 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue  # The last part is a class, or the Struct itself.
        for part in parts[at:]:
            value = getattr(value, part)
        assert isinstance(value, struct.Struct)
        return value
    raise AssertionError(f"no module of {name}")


def field_sizes(layout: struct.Struct) -> list[int]:
    """Return the size of each field; a run of pad bytes, or of characters, is one field."""
    sizes: list[int] = []
    for count, code in _ITEM.findall(layout.format.lstrip("><=!@")):
        if code in "sxp":
            sizes.append(int(count or 1))
        else:
            sizes += [struct.calcsize(">" + code)] * int(count or 1)
    return sizes


def table_behind(text: str, at: int) -> list[list[str]]:
    """Return the cells of the first table behind a place, its two head lines left out."""
    rows = []
    for line in text[at:].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def described_structs() -> list[tuple[Path, str, int]]:
    """Return (page, name of the Struct, place) of every table of bytes."""
    return [
        (page, match["name"], match.end())
        for page in PAGES
        for match in _MARKER.finditer(page.read_text(encoding="utf-8"))
    ]


def check_table(rows: list[list[str]], layout: struct.Struct) -> None:
    """Compare positions and sizes of a table with a Struct."""
    assert [int(row[1]) for row in rows] == field_sizes(layout)
    at = 0
    for row in rows:
        assert int(row[0]) == at, row
        at += int(row[1])
    assert at == layout.size


@pytest.mark.parametrize(
    ("page", "name", "at"),
    [pytest.param(*found, id=found[1]) for found in described_structs()],
)
def test_tables_of_bytes_are_the_structs(page: Path, name: str, at: int) -> None:
    """Positions and sizes in a format's table are those of the Struct that reads the bytes."""
    check_table(table_behind(page.read_text(encoding="utf-8"), at), find_struct(name))


def test_the_main_formats_are_described() -> None:
    """No format lost its table."""
    names = {name for _, name, _ in described_structs()}
    assert {
        "logd.record.batch.HEADER",
        "logd.storage.state_file.HEADER",
        "logd.storage.sync_record.RECORD",
        "logd.storage.offset_index.OffsetIndex.ENTRY",
        "logd.storage.time_index.TimeIndex.ENTRY",
    } <= names


@pytest.mark.parametrize("rows", [[["0", "8"]], [["0", "4"], ["5", "4"]], [["0", "4"], ["4", "8"]]])
def test_a_wrong_table_is_found(rows: list[list[str]]) -> None:
    """The comparison can fail: a missing row, a wrong position, a wrong size."""
    with pytest.raises(AssertionError):
        check_table(rows, struct.Struct(">ii"))


def test_the_table_of_requests_is_that_of_the_handlers() -> None:
    """docs/protocol.md lists what is advertised and served, no more and no less."""
    text = (DOCS / "protocol.md").read_text(encoding="utf-8")
    rows = table_behind(text, text.index("## Requests"))
    assert rows == [
        [str(api.key), api.name, f"{api.low}-{api.high}", str(api.served_from)]
        for api in sorted(APIS.values(), key=lambda api: api.key)
    ]


def test_the_page_of_settings_is_made_from_the_tables() -> None:
    """docs/configuration.md is what `python -m tools.configuration_page` writes."""
    assert PAGE.read_text(encoding="utf-8") == render()


def test_the_page_of_metrics_is_made_from_the_source() -> None:
    """docs/metrics.md is what `python -m tools.metrics_page` writes: no metric without a text."""
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.render()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a document names a file that is there."""
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_documents_named_in_the_source_are_there() -> None:
    """A document that a docstring or comment names exists."""
    named = re.compile(r"docs/[\w./-]*\w")
    for package in ("logd", "ec", "cli", "bench", "tools"):
        for path in (ROOT / package).rglob("*.py"):
            for name in named.findall(path.read_text(encoding="utf-8")):
                target = ROOT / name
                numbered = re.fullmatch(r"docs/adr/(\d{4})", name)
                found = list(DOCS.glob(f"adr/{numbered[1]}-*.md")) if numbered else [target]
                assert found, f"{path}: {name}"
                assert found[0].exists(), f"{path}: {name}"


def test_decisions_have_the_same_form() -> None:
    """Each decision has its number, a status, a context, a decision and consequences."""
    pages = sorted((DOCS / "adr").glob("*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for number, page in zip(numbers, pages, strict=True):
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. ")
        heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
        assert heads == ["Context", "Decision", "Consequences"]
        assert "\nStatus: " in text
